"""What a file or folder of weights is: found out from its names and shapes, never from what it is called.

A `Blueprint` says which classes with which settings hold the weights and where each of their tensors lies. Known are the
official ImageDream and MVDream files, Stable Diffusion 2 in the latent-diffusion and the diffusers form, the two diffusers
conversions of ImageDream (UNet with the official names, or split into a stock UNet and an IP-Adapter) and our own folders.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from imagedream.checkpoints import key_maps as names
from imagedream.checkpoints.errors import CheckpointError, refusing
from imagedream.checkpoints.tensors import Piece, Tensors, open_tensors
from imagedream.runs.arguments import read_object

Part = Literal["unet", "vae", "encoder"]
CLASSES: Mapping[Part, str] = {"unet": "MultiViewUNet", "vae": "AutoencoderKL", "encoder": "ImageTextEncoder"}
PARTS: tuple[Part, ...] = tuple(CLASSES)

LATENT_SIZE = 32
"""Side of the latents of one view in the published models: 256 pixels over 8 (paper §4)."""

SCHEDULER = dict(
    _class_name="DDIMScheduler",
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    num_train_timesteps=1000,
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
    prediction_type="epsilon",
)
"""Noise schedule and sampler of the released code, in diffusers' terms."""

UNET, VAES, TEXTS = (
    "model.diffusion_model.",
    ("vae_model.", "first_stage_model."),
    ("clip_model.model.", "cond_stage_model.model."),
)
"""Prefixes in files of the latent-diffusion family: ImageDream's, then MVDream's and Stable Diffusion's."""

_NOT_WEIGHTS = re.compile(
    r"(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|logvar|model_ema\..*"
    r"|.*\battn_mask|.*\bposition_ids|.*\bloss\..*)"
)
"""Noise schedules, masks, indices and moving averages that files carry besides the weights."""


@dataclass(frozen=True)
class Component:
    """A part of the pipeline: its settings, and where its tensors lie."""

    config: Mapping[str, Any]
    piece: Callable[[str], Piece | None]
    """From a name of ours to its place; None for a tensor that starts anew."""


@dataclass(frozen=True)
class Blueprint:
    """A whole model in somebody's files, or one part of it."""

    description: str
    tensors: Tensors
    parts: Mapping[Part, Component]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    names_controllers: bool = False
    """Whether the settings name the controllers; otherwise pixel and local models look the same."""
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the pipeline besides its parts."""

    def ignores(self, name: str) -> bool:
        """Whether a name in the files is none of the model's weights."""
        return _NOT_WEIGHTS.fullmatch(name.rsplit("/", 1)[-1]) is not None


def read_blueprint(path: Path) -> Blueprint:
    """Find out what is at a path.

    Raises:
        CheckpointError: if it is nothing that is known, with a guess at what it is.
    """
    if path.is_dir():
        check_folder(path)
    with refusing(f"{path} cannot be made out"):  # shapes of damaged files lead anywhere
        if not path.is_dir():
            return latent_diffusion(open_tensors(path), path)
        return _own_folder(path) if (path / "encoder").is_dir() else _diffusers_folder(path)


def check_folder(path: Path) -> None:
    """Raise CheckpointError if a folder lacks a part, without opening weights."""
    if (path / "text_encoder").is_dir() and not (path / "encoder").is_dir():
        needed: tuple[str, ...] = ("unet", "vae")
    else:
        needed = ("model_index.json", *PARTS, "scheduler")
    missing = [name for name in needed if not (path / name).exists()]
    if missing:
        raise CheckpointError(f"{path} is not an ImageDream model folder: {', '.join(missing)} missing")


def read_part(path: Path, part: Part) -> Blueprint:
    """A folder with the `config.json` and the weights of one part."""
    component = Component(_settings(path, part), _at(""))
    return Blueprint(f"the {part} of a model", open_tensors(path), {part: component})


def is_part(path: Path) -> bool:
    """Whether a folder holds one part and not a whole model."""
    return (path / "config.json").is_file() and not (path / "model_index.json").exists()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of settings.

    Raises:
        CheckpointError: it is not there or none.
    """
    try:
        return read_object(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(str(error)) from error


def _settings(folder: Path, part: Part) -> dict[str, Any]:
    """The arguments of a model's class."""
    config = read_json(folder / "config.json")
    if config.get("_class_name", CLASSES[part]) != CLASSES[part]:
        raise CheckpointError(
            f"{folder / 'config.json'} is of a {config['_class_name']!r}, must be {CLASSES[part]}"
        )
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _own_folder(path: Path) -> Blueprint:
    index = read_json(path / "model_index.json")
    parts = (*PARTS, "scheduler")
    return Blueprint(
        "a folder of this project",
        _folder_tensors(path, PARTS),
        {part: Component(_settings(path / part, part), _at(f"{part}/")) for part in PARTS},
        scheduler=read_json(path / "scheduler" / "scheduler_config.json"),
        names_controllers=True,
        pipeline={key: index[key] for key in index if not key.startswith("_") and key not in parts},
    )


def latent_diffusion(tensors: Tensors, path: Path) -> Blueprint:
    """What a file of the latent-diffusion family is said to be by its tensors.

    Raises:
        CheckpointError: if it is none; names the path.
    """
    shapes = tensors.shapes
    vae = next((prefix for prefix in VAES if f"{prefix}quant_conv.weight" in shapes), None)
    text = next((prefix for prefix in TEXTS if f"{prefix}ln_final.weight" in shapes), None)
    missing = [
        what
        for what, there in (
            ("a UNet", f"{UNET}input_blocks.0.0.weight" in shapes),
            ("an autoencoder", vae),
            ("OpenCLIP's text encoder", text),
        )
        if not there
    ]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it looks like {guess(shapes)}")
    unet = _official_unet(shapes, UNET)
    encoder = _open_clip_encoder(shapes, text)
    parts = {"unet": unet, "vae": _latent_diffusion_vae(shapes, vae), "encoder": encoder}
    return Blueprint(
        _kind(unet, "checkpoint"), tensors, parts, SCHEDULER, pipeline={"prompt_suffix": _suffix(unet)}
    )


def _diffusers_folder(path: Path) -> Blueprint:
    """Stable Diffusion 2, or ImageDream or MVDream in one of their diffusers conversions."""
    folders = [
        name
        for name in ("unet", "vae", "text_encoder", "image_encoder", "ip_adapter")
        if (path / name).is_dir()
    ]
    tensors = _folder_tensors(path, folders)
    shapes = tensors.shapes
    if "unet/input_blocks.0.0.weight" in shapes:
        unet, form = _official_unet(shapes, "unet/"), "with the official names"
    else:
        unet, form = _stock_unet(shapes), "as a stock UNet"
    vae = Component({**_settings(path / "vae", "vae"), "sample_size": LATENT_SIZE * 8}, _at("vae/"))
    parts = {"unet": unet, "vae": vae, "encoder": _transformers_encoder(shapes)}
    scheduler, file = dict(SCHEDULER), path / "scheduler" / "scheduler_config.json"
    if file.exists():  # samplers differ between conversions; what counts is what the model predicts
        scheduler["prediction_type"] = read_json(file).get("prediction_type", "epsilon")
    return Blueprint(
        _kind(unet, f"folder of diffusers {form}"),
        tensors,
        parts,
        scheduler,
        pipeline={"prompt_suffix": _suffix(unet)},
    )


def _kind(unet: Component, form: str) -> str:
    """What a model is, in words."""
    if unet.config["controllers"] != "none":
        return f"an ImageDream {form} ({unet.config['controllers']})"
    return f"an MVDream {form}" if _has_cameras(unet) else f"a Stable Diffusion 2 {form}"


def _has_cameras(unet: Component) -> bool:
    return unet.piece("unet.class_embedding.linear_1.weight") is not None


def _suffix(unet: Component) -> str:
    """What captions of objects ended with in the training of MVDream and ImageDream, as their demos have it."""
    return ", 3d asset" if _has_cameras(unet) else ""


def _folder_tensors(path: Path, folders) -> Tensors:
    tensors = Tensors({}, {})
    for folder in folders:
        tensors |= open_tensors(path / folder).under(f"{folder}/")
    return tensors


def _at(prefix: str) -> Callable[[str], Piece]:
    return lambda name: Piece((prefix + name,))


def _official_unet(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Component:
    """The UNet as the latent-diffusion family names it, with or without cameras and image controllers."""
    blocks = 1 + max(
        int(name.removeprefix(f"{prefix}input_blocks.").split(".")[0])
        for name in shapes
        if name.startswith(f"{prefix}input_blocks.")
    )
    down = next((n for n in range(blocks) if f"{prefix}input_blocks.{n}.0.op.weight" in shapes), blocks)
    attention = [f"{prefix}input_blocks.{n}.1.norm.weight" in shapes for n in range(1, blocks, down)]
    piece = _official_unet_piece(down - 1, attention, prefix)
    config = _unet_config(lambda name: shapes.get(piece(f"unet.{name}").names[0]), down - 1, attention)
    cameras = f"{prefix}camera_embed.0.weight" in shapes
    config = _with_controllers(config, shapes, f"{prefix}image_embed.")
    return Component(config, piece if cameras else _without_cameras(piece))


def _without_cameras(piece: Callable[[str], Piece]) -> Callable[[str], Piece | None]:
    """The same places, but the camera layers start anew."""
    return lambda name: None if name.startswith("unet.class_embedding.") else piece(name)


def _official_unet_piece(layers: int, attention: list[bool], prefix: str) -> Callable[[str], Piece]:
    def piece(name: str) -> Piece:
        if name.startswith("image_projection."):
            found = names.resampler_piece(name.removeprefix("image_projection."))
            return found.under(f"{prefix}image_embed.")
        name = name.removeprefix("unet.")
        if match := re.fullmatch(r"(.*)\.processor\.(to_[kv]_ip)\.0\.weight", name):
            name = f"{match[1]}.{match[2]}.weight"
        return Piece((prefix + names.ldm_unet_name(name, layers, attention),))

    return piece


def latent_diffusion_pieces(pipeline, unet: str, vae: str, text: str) -> dict[str, Callable[[str], Piece]]:
    """Where the tensors of a pipeline belong in a file of the latent-diffusion family with these prefixes.

    Raises:
        CheckpointError: if the pipeline is not of that family.
    """
    unet_config, vae_config = pipeline.unet.config.unet_config, pipeline.vae.config
    encoder_config = pipeline.encoder.config
    if encoder_config.caption_tokens == "last" or not encoder_config.joint_embedding:
        raise CheckpointError(
            "this model lacks parts of CLIP that the official layout has (it comes from a diffusers conversion)"
        )
    attention = [kind.startswith("CrossAttn") for kind in unet_config["down_block_types"]]
    levels = len(vae_config.block_out_channels)
    return {
        "unet": _official_unet_piece(unet_config["layers_per_block"], attention, unet),
        "vae": lambda name: names.ldm_vae_piece(name, levels).under(vae),
        "encoder": lambda name: Piece((text + name.removeprefix("clip."),)),
    }


def _stock_unet(shapes: Mapping[str, tuple[int, ...]]) -> Component:
    """A stock `UNet2DConditionModel`, cameras in place of class labels, image controllers in an IP-Adapter file."""
    attention = []
    while f"unet/down_blocks.{len(attention)}.resnets.0.conv1.weight" in shapes:
        attention.append(f"unet/down_blocks.{len(attention)}.attentions.0.norm.weight" in shapes)
    if not attention:
        raise CheckpointError(f"the folder unet holds no UNet; it looks like {guess(shapes)}")
    layers = 0
    while f"unet/down_blocks.0.resnets.{layers}.conv1.weight" in shapes:
        layers += 1
    config = _unet_config(lambda name: shapes.get(f"unet/{name}"), layers, attention)
    cameras = "unet/class_embedding.linear_1.weight" in shapes
    piece = split_piece(_processor_numbers(config))
    config = _with_controllers(config, shapes, "ip_adapter/image_proj.")
    return Component(config, piece if cameras else _without_cameras(piece))


def split_piece(processor_numbers: Mapping[str, int]) -> Callable[[str], Piece]:
    """Where the network's tensors lie when the image controllers are in an IP-Adapter file of their own."""

    def piece(name: str) -> Piece:
        if name.startswith("image_projection."):
            return names.resampler_piece(name.removeprefix("image_projection.")).under(
                "ip_adapter/image_proj."
            )
        name = name.removeprefix("unet.")
        if match := re.fullmatch(r"(.*\.attn2\.processor)\.(to_[kv]_ip)\.0\.weight", name):
            return Piece((f"ip_adapter/ip_adapter.{processor_numbers[match[1]]}.{match[2]}.weight",))
        return Piece((f"unet/{name}",))

    return piece


def _processor_numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """Number of each attention processor in IP-Adapter files: their place among all processors of the UNet."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        processors = UNet2DConditionModel(**config).attn_processors
    return {name: number for number, name in enumerate(processors)}


def _unet_config(
    shape: Callable[[str], tuple[int, ...] | None], layers: int, attention: list[bool]
) -> dict[str, Any]:
    """Arguments of `UNet2DConditionModel`, from the shapes of its tensors by diffusers' names."""
    widths = [shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(len(attention))]
    level = attention.index(True)
    block = f"down_blocks.{level}.attentions.0"
    context = shape(f"{block}.transformer_blocks.0.attn2.to_k.weight")[1]
    if len(shape(f"{block}.proj_in.weight")) != 2 or context == 768:
        raise CheckpointError(
            f"this UNet is of Stable Diffusion 1 (caption tokens of width {context}, convolutional projections); "
            "ImageDream needs the 2.1 family"
        )
    down = ["CrossAttnDownBlock2D" if there else "DownBlock2D" for there in attention]
    up = ["CrossAttnUpBlock2D" if there else "UpBlock2D" for there in reversed(attention)]
    return dict(
        sample_size=LATENT_SIZE,
        in_channels=shape("conv_in.weight")[1],
        out_channels=shape("conv_out.weight")[0],
        block_out_channels=widths,
        layers_per_block=layers,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=[width // 64 for width in widths],  # number of heads, in diffusers' old misnomer
        cross_attention_dim=context,
        use_linear_projection=True,
    )


def _with_controllers(
    unet_config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], adapter: str
) -> dict[str, Any]:
    """Arguments of `MultiViewUNet`: the image controllers are told by what lies under the prefix `adapter`."""
    controllers, projection = "none", None
    if f"{adapter}latents" in shapes:
        _, queries, width = shapes[f"{adapter}latents"]
        inner = shapes[f"{adapter}layers.0.0.to_q.weight"][0]
        layers = {
            name.removeprefix(adapter).split(".")[1]
            for name in shapes
            if name.startswith(f"{adapter}layers.")
        }
        projection = dict(
            embed_dims=shapes[f"{adapter}proj_in.weight"][1],
            hidden_dims=width,
            depth=len(layers),
            dim_head=64,
            heads=inner // 64,
            num_queries=queries,
        )
        controllers = "pixel"
    elif f"{adapter}proj.weight" in shapes:
        rows, width = shapes[f"{adapter}proj.weight"]
        projection = dict(
            image_embed_dim=width, num_image_text_embeds=rows // unet_config["cross_attention_dim"]
        )
        controllers = "global"
    return dict(unet_config=unet_config, controllers=controllers, image_projection_config=projection)


def _latent_diffusion_vae(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Component:
    widths, layers = [], 0
    while f"{prefix}encoder.down.{len(widths)}.block.0.conv1.weight" in shapes:
        widths.append(shapes[f"{prefix}encoder.down.{len(widths)}.block.0.conv1.weight"][0])
    while f"{prefix}encoder.down.0.block.{layers}.conv1.weight" in shapes:
        layers += 1
    config = dict(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=layers,
        latent_channels=shapes[f"{prefix}post_quant_conv.weight"][0],
        sample_size=LATENT_SIZE * 2 ** (len(widths) - 1),
        scaling_factor=0.18215,
    )
    return Component(config, lambda name: names.ldm_vae_piece(name, len(widths)).under(prefix))


def _open_clip_encoder(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Component:
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    config = _encoder_config(own.get, own.keys())
    return Component(config, lambda name: Piece((prefix + name.removeprefix("clip."),)))


def _transformers_encoder(shapes: Mapping[str, tuple[int, ...]]) -> Component:
    def piece(name: str) -> Piece | None:
        name = name.removeprefix("clip.")
        if name == "logit_scale":
            return Piece(("text_encoder/logit_scale",))
        found = names.transformers_piece(name)
        return found and found.under("image_encoder/" if name.startswith("visual.") else "text_encoder/")

    def shape(name: str) -> tuple[int, ...] | None:
        place = piece(name)
        return place.shape(shapes) if all(source in shapes for source in place.names) else None

    vision = "image_encoder/vision_model.embeddings.class_embedding" in shapes
    blocks = {
        f"{ours}.{number}."
        for ours, theirs in (
            ("transformer.resblocks", "text_encoder/text_model.encoder.layers."),
            ("visual.transformer.resblocks", "image_encoder/vision_model.encoder.layers."),
        )
        for number in {name.removeprefix(theirs).split(".")[0] for name in shapes if name.startswith(theirs)}
    }
    config = _encoder_config(shape, blocks | ({"visual.conv1.weight"} if vision else set()))
    return Component(config, piece)


def _encoder_config(shape: Callable[[str], tuple[int, ...] | None], known) -> dict[str, Any]:
    """Arguments of `ImageTextEncoder`, from shapes by open_clip's names; `known` are names that tell the blocks.

    Head counts leave no trace in shapes: CLIP's encoders have heads of 64 channels, ViT-H's image encoder of 80.
    """

    def layers(prefix: str) -> int:
        return 1 + max(
            int(name.removeprefix(prefix).split(".")[0]) for name in known if name.startswith(prefix)
        )

    if shape("token_embedding.weight") is None:
        raise CheckpointError("there is no CLIP text encoder in these weights")
    vocabulary, width = shape("token_embedding.weight")
    text = dict(
        context_length=shape("positional_embedding")[0],
        vocab_size=vocabulary,
        width=width,
        heads=width // 64,
        layers=layers("transformer.resblocks."),
    )
    projection = shape("text_projection")
    vision = None
    if "visual.conv1.weight" in known:
        channels, _, patch, _ = shape("visual.conv1.weight")
        grid = math.isqrt(shape("visual.positional_embedding")[0] - 1)
        vision = dict(
            image_size=grid * patch,
            patch_size=patch,
            width=channels,
            layers=layers("visual.transformer.resblocks."),
            head_width=80 if channels == 1280 else 64,
        )
    return dict(
        embed_dim=projection[1] if projection else width,
        vision_cfg=vision,
        text_cfg=text,
        # conversions to diffusers leave out what comes after the caption tokens: the last block and the projection
        caption_tokens="penultimate" if projection else "last",
        joint_embedding=projection is not None and (vision is None or shape("visual.proj") is not None),
    )


def guess(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What a file of unknown weights may be, in words."""
    signs = (
        (("cond_stage_model.transformer.",), "Stable Diffusion 1, or a model of its family such as Zero123"),
        (("conditioner.embedders.",), "Stable Diffusion XL or another model with several text encoders"),
        (("model.diffusion_model.",), "a diffusion model whose other parts are missing or of another family"),
        (("lora_", ".lora_", "lora."), "a LoRA, not a whole model"),
        (("ip_adapter.", "image_proj."), "an IP-Adapter without its UNet"),
        (("input_blocks.", "down_blocks.", "unet."), "a UNet alone"),
        (("encoder.conv_in", "decoder.conv_in"), "an autoencoder alone"),
        (("visual.", "vision_model.", "text_model.", "transformer.resblocks."), "a CLIP encoder alone"),
        (("system.", "geometry.", "renderer."), "a 3D run of threestudio (resume=), not a diffusion model"),
    )
    for marks, what in signs:
        if any(
            mark in name if mark.startswith(".") else name.startswith(mark)
            for name in shapes
            for mark in marks
        ):
            return what
    first = ", ".join(sorted(shapes)[:3]) or "no tensors at all"
    return f"nothing known: {len(shapes)} tensors ({first}, ...)" if shapes else "an empty file"
