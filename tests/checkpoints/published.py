"""Files of random weights in every published layout, of any size: what the loading tests read."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from imagedream.checkpoints import formats, key_maps
from imagedream.checkpoints.official import official_state
from imagedream.checkpoints.tensors import put_back
from imagedream.encoders import ImageTextEncoder
from imagedream.model import MultiViewUNet
from imagedream.pipeline import ImageDreamPipeline
from tests.tiny import tiny_scheduler

SCHEDULE = {name: torch.rand(1000) for name in ("betas", "alphas_cumprod", "sqrt_recip_alphas_cumprod")}
"""Buffers that the official files carry besides weights."""


def reduced_network(controllers: str = "pixel", seed: int = 0) -> MultiViewUNet:
    """A small network that obeys the family's rules: heads of 64 channels, 32x32 latents."""
    torch.manual_seed(seed)
    unet = dict(
        sample_size=32,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(1, 2),
        cross_attention_dim=64,
        use_linear_projection=True,
    )
    projection = dict(embed_dims=128, hidden_dims=64, depth=2, dim_head=64, heads=3, num_queries=5)
    if controllers == "global":
        projection = dict(image_embed_dim=64, num_image_text_embeds=4)
    return MultiViewUNet(unet, controllers, None if controllers == "none" else projection)


def reduced_pipeline(controllers: str = "pixel", seed: int = 0) -> ImageDreamPipeline:
    """A small model of every part."""
    network = reduced_network(controllers, seed)
    encoder = ImageTextEncoder(
        embed_dim=64,
        vision_cfg=None
        if controllers == "none"
        else dict(image_size=28, patch_size=14, width=128, layers=3, head_width=64),
        text_cfg=dict(context_length=77, vocab_size=50, width=64, heads=1, layers=3),
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        sample_size=128,
    )
    pipeline = ImageDreamPipeline(network, vae, encoder, tiny_scheduler("epsilon"))
    for component in ("unet", "vae", "encoder"):  # nothing may be zero by initialisation
        for parameter in getattr(pipeline, component).parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return pipeline


def write_official(pipeline: ImageDreamPipeline, path: Path) -> Path:
    """The official `.pt`; MVDream's when the model reads captions only."""
    torch.save({**official_state(pipeline), **SCHEDULE}, path)
    return path


def write_stable_diffusion(pipeline: ImageDreamPipeline, path: Path) -> Path:
    """A latent-diffusion checkpoint without cameras: `.safetensors`, or `.ckpt` with a training state around it."""
    state = {
        name: tensor for name, tensor in official_state(pipeline).items() if ".camera_embed." not in name
    }
    state["model_ema.decay"] = torch.tensor(0.9999)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 875000}, path)
    return path


def write_diffusers(pipeline: ImageDreamPipeline, folder: Path, form: str, dtype=torch.float16) -> Path:
    """A diffusers folder.

    Args:
        form: `mv_unet` (official names in the UNet), `split` (stock UNet and an IP-Adapter file) or `stable-diffusion`.
    """
    config = pipeline.unet.config.unet_config
    state = pipeline.unet.state_dict()
    if form == "mv_unet":
        place = formats.latent_diffusion_pieces(pipeline, "", "", "")["unet"]
        _save(put_back(state, place), folder / "unet", dtype)
    else:
        whole = put_back(state, formats.split_piece(formats._processor_numbers(config)))
        unet, adapter = {}, {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in whole.items():
            place, _, rest = name.partition("/")
            if place == "ip_adapter":
                part, rest = rest.split(".", 1)
                adapter[part][rest] = tensor.to(dtype)
            elif form != "stable-diffusion" or not rest.startswith("class_embedding."):
                unet[rest] = tensor
        _save(unet, folder / "unet", dtype)
        if adapter["ip_adapter"]:
            (folder / "ip_adapter").mkdir()
            torch.save(adapter, folder / "ip_adapter" / "ip-adapter-plus_imagedream.bin")
    pipeline.vae.save_pretrained(folder / "vae")
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    # transformers' encoders without the last text block and without projections, as in these conversions
    layers = pipeline.encoder.config.text_cfg["layers"]
    dropped = (
        f"clip.transformer.resblocks.{layers - 1}.",
        "clip.text_projection",
        "clip.visual.proj",
        "clip.logit_scale",
    )
    encoder = {
        name.removeprefix("clip."): tensor
        for name, tensor in pipeline.encoder.state_dict().items()
        if not name.startswith(dropped)
    }
    for part, visual in (("text_encoder", False), ("image_encoder", True)):
        own = {name: tensor for name, tensor in encoder.items() if name.startswith("visual.") == visual}
        if own:
            _save(put_back(own, key_maps.transformers_piece), folder / part, dtype)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "MVDreamPipeline"}))
    return folder


def _save(state: dict[str, torch.Tensor], folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True)
    state = {name: tensor.to(dtype).contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
