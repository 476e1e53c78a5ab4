"""Runs the official ImageDream code on seeded weights and inputs and writes what it says. A process of its own:

    python -I tests/parity/official.py --root IMAGEDREAM --size reduced --adapter local --out DIR
    python -I tests/parity/official.py --root IMAGEDREAM --golden

IMAGEDREAM is a checkout of github.com/bytedance/ImageDream. The first form leaves `model.pt`, in the layout of the
published files, and `outputs.safetensors`; the second remakes `golden/`.

What differs from the official code as it stands, and why:
- packages it imports that are not here are answered by the least that it needs of them; of threestudio, always;
- its CLIP is an untrained one of the wanted size, its blocks set to the sequence-first order that it assumes;
- widths that it has as constants (the image encoder's, the joint embedding's) follow the size;
- the autoencoder's posterior gives its mode, not a random draw; noise and timestep are given; all on the CPU;
- `recon_loss: false` finds the attribute whose absence makes it crash.
"""

import argparse
import ast
import functools
import importlib.util
import json
import sys
import types
import typing
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
sys.path.insert(0, str(HERE))
import cases  # noqa: E402


def stand_in(name: str, **attributes) -> None:
    """A module that holds just these attributes, known to its parent package."""
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        sys.modules[parent].__path__ = []
        setattr(sys.modules[parent], child, module)


def prepare_imports(root: Path) -> None:
    """Put the official package on the path and answer what it imports and this machine lacks."""
    if importlib.util.find_spec("xformers") is None:

        def attention(query, key, value, attn_bias=None, op=None):
            """Rows of (batch, token, width), one head each."""
            return torch.nn.functional.scaled_dot_product_attention(query, key, value)

        stand_in("xformers")
        stand_in("xformers.ops", memory_efficient_attention=attention)
    if importlib.util.find_spec("pkg_resources") is None:
        stand_in("pkg_resources")

    class Module(torch.nn.Module):
        """threestudio's BaseModule as far as guidance needs it."""

        class Config:
            pass

        def __init__(self, settings: dict) -> None:
            super().__init__()
            self.cfg = self.Config(**settings)
            self.device = "cpu"
            self.configure()

    import jaxtyping

    types_used = {name: getattr(typing, name) for name in ("Any", "Optional")}
    stand_in("threestudio", register=lambda name: lambda found: found, info=lambda text: None)
    for package in ("utils", "models", "models.prompt_processors"):
        stand_in(f"threestudio.{package}")
    stand_in("threestudio.utils.base", BaseModule=Module)
    stand_in("threestudio.utils.misc", C=lambda value, *step: value, cleanup=None, parse_version=None)
    stand_in("threestudio.utils.typing", Float=jaxtyping.Float, Tensor=torch.Tensor, **types_used)
    stand_in("threestudio.models.prompt_processors.base", PromptProcessorOutput=object)

    package = root / "extern" / "ImageDream"
    sys.path.insert(0, str(package))
    import imagedream

    if Path(imagedream.__file__).resolve().parents[1] != package.resolve():
        raise SystemExit(f"{imagedream.__file__} was imported instead of the package in {package}")


def sequence_first_clip(size: cases.Size, *_, **__) -> tuple:
    """What `open_clip.create_model_and_transforms` returned when the official code was written."""
    clip = open_clip.CLIP(size.embed_dim, dict(size.vision), dict(size.text))
    for encoder in (clip.transformer, clip.visual.transformer):
        encoder.batch_first = False
        for block in encoder.resblocks:
            block.attn.batch_first = False
    return clip, None, open_clip.image_transform(size.vision["image_size"], is_train=False)


def with_constants(constructor: typing.Callable, **constants) -> typing.Callable:
    """The constructor with these keyword arguments whatever it is called with."""
    return lambda **arguments: constructor(**{**arguments, **constants})


def build(root: Path, size: cases.Size, adapter: str) -> torch.nn.Module:
    """The official model with seeded parameters."""
    from omegaconf import OmegaConf

    from imagedream.ldm.modules.diffusionmodules import openaimodel
    from imagedream.ldm.modules.distributions.distributions import DiagonalGaussianDistribution
    from imagedream.ldm.util import instantiate_from_config

    width, embed_dim = size.vision["width"], size.embed_dim
    openaimodel.Resampler = with_constants(openaimodel.Resampler, embedding_dim=width)
    openaimodel.ImageProjModel = with_constants(openaimodel.ImageProjModel, clip_embeddings_dim=embed_dim)
    open_clip.create_model_and_transforms = functools.partial(sequence_first_clip, size)
    DiagonalGaussianDistribution.sample = DiagonalGaussianDistribution.mode

    config = OmegaConf.load(root / "extern/ImageDream/imagedream/configs/sd_v2_base_ipmv.yaml")
    mode = "global" if adapter == "global" else "local_resample"
    config.model.params.unet_config.params.update(
        model_channels=size.model_channels,
        channel_mult=list(size.channel_mult),
        attention_resolutions=list(size.attention_resolutions),
        context_dim=size.text["width"],
        ip_mode=mode,
        ip_dim=cases.IMAGE_TOKENS[adapter],
    )
    config.model.params.vae_config.params.ddconfig.update(ch=size.vae_channels, ch_mult=list(size.vae_mult))
    config.model.params.clip_config.params.update(ip_mode=mode, device="cpu")
    model = instantiate_from_config(config.model).eval()
    model.device = "cpu"
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(cases.seeded_weight(key, tuple(parameter.shape)))
    return model.requires_grad_(False)


def encoder_outputs(model, size: cases.Size, root: Path) -> dict[str, torch.Tensor]:
    """Cameras, captions, pictures in and out."""
    from imagedream.camera_utils import get_camera

    clip = model.clip_model
    picture = cases.prompt_picture(size).convert("RGB")
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    posterior = model.encode_first_stage(pixels)
    latents = cases.seeded("latents to decode", 1, 4, size.latent_size, size.latent_size)
    return {
        "cameras": get_camera(cases.VIEWS, elevation=cases.ELEVATION_DEG, azimuth_start=0),
        "negative_caption_ids": open_clip.tokenize([demo_negative_caption(root)]),
        "text_tokens": model.get_learned_conditioning([cases.CAPTION]),
        "image_resized": clip.preprocess(cases.resized_picture(size))[None],
        "latents_mean": posterior.mean * model.scale_factor,
        "latents_std": posterior.std * model.scale_factor,
        "decoded": model.decode_first_stage(latents),
    }


def demo_negative_caption(root: Path) -> str:
    """The text that the official demo script assigns to `neg_texts`."""
    script = ast.parse((root / "extern/ImageDream/scripts/demo.py").read_text())
    for node in ast.walk(script):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "neg_texts":
            return ast.literal_eval(node.value)
    raise SystemExit("demo.py has no neg_texts")


def network_output(model, size: cases.Size, adapter: str, pixel: bool) -> torch.Tensor:
    """One call of the network, the prompt's frame dropped."""
    given = cases.network_inputs(size, adapter)
    latents, cameras = given["latents"], given["cameras"]
    frames = cases.VIEWS
    if pixel:
        frames += 1
        latents = torch.nn.functional.pad(latents, (0, 0, 0, 0, 0, 0, 0, 1))
        cameras = torch.nn.functional.pad(cameras, (0, 0, 0, 1))
    condition = {
        "context": given["text_tokens"].repeat_interleave(frames, 0),
        "camera": cameras.flatten(0, 1),
        "num_frames": frames,
        "ip": given["image_features"].repeat_interleave(frames, 0),
    }
    if pixel:
        condition["ip_img"] = given["prompt_latents"].flatten(0, 1)
    timesteps = given["timesteps"].repeat_interleave(frames)
    output = model.apply_model(latents.flatten(0, 1), timesteps, condition)
    return output.unflatten(0, (cases.GROUPS, frames))[:, : cases.VIEWS]


def sampled(model, size: cases.Size, pixel: bool) -> torch.Tensor:
    """The official sampler as its demo script calls it, from given noise."""
    from imagedream.camera_utils import get_camera
    from imagedream.ldm.models.diffusion.ddim import DDIMSampler
    from imagedream.ldm.util import add_random_background

    DDIMSampler.register_buffer = lambda self, *named: setattr(self, *named)  # instead of moving to CUDA
    frames = cases.VIEWS + pixel
    picture = add_random_background(cases.prompt_picture(size), cases.GREY_LEVEL)
    features = model.get_learned_image_conditioning(picture)
    features = features.repeat(frames, *[1] * (features.ndim - 1))
    cameras = get_camera(
        cases.VIEWS, elevation=cases.ELEVATION_DEG, azimuth_start=0, azimuth_span=360, extra_view=pixel
    )
    positive, negative = (
        {"context": model.get_learned_conditioning([caption]).repeat(frames, 1, 1), "ip": ip}
        for caption, ip in (
            (cases.CAPTION, features),
            (cases.NEGATIVE_CAPTION, torch.zeros_like(features)),
        )
    )
    for condition in (positive, negative):
        condition.update(camera=cameras, num_frames=frames)
    noise = cases.sampling_noise(size)[0]
    if pixel:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        positive["ip_img"] = model.get_first_stage_encoding(model.encode_first_stage(pixels))
        negative["ip_img"] = torch.zeros_like(positive["ip_img"])
        noise = torch.nn.functional.pad(noise, (0, 0, 0, 0, 0, 0, 0, 1))
    samples, _ = DDIMSampler(model).sample(
        S=size.sampling_steps,
        conditioning=positive,
        batch_size=frames,
        shape=list(noise.shape[1:]),
        verbose=False,
        unconditional_guidance_scale=cases.GUIDANCE_SCALE,
        unconditional_conditioning=negative,
        eta=0.0,
        x_T=noise,
    )
    return samples[: cases.VIEWS]


def distilled(
    root: Path, model, size: cases.Size, pixel: bool, recon_loss: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and gradient of the official guidance: of renders with the pixel controller, else of latents."""
    path = root / "threestudio/models/guidance/multiview_diffusion_guidance.py"
    spec = importlib.util.spec_from_file_location("official_guidance", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build_model = lambda *_, **__: model
    guidance = module.MultiviewDiffusionGuidance(
        dict(
            guidance_scale=cases.GUIDANCE_SCALE,
            recon_std_rescale=cases.RECON_STD_RESCALE,
            recon_loss=recon_loss,
            image_size=size.image_size,
            ip_mode="pixel" if pixel else None,
        )
    )
    guidance.alphas_cumprod = model.alphas_cumprod  # what `recon_loss: false` reads and nobody sets
    given = cases.distillation_inputs(size, from_renders=pixel)
    values = given["values"].requires_grad_()
    batch = len(values)
    captions = [cases.CAPTION] * batch + [cases.NEGATIVE_CAPTION] * batch
    cameras, angles = given["c2w"].clone(), torch.zeros(batch)
    draw = torch.randn_like
    torch.randn_like = lambda _: given["noise"]
    try:
        loss = guidance(
            values,
            types.SimpleNamespace(image=cases.prompt_picture(size)),
            angles,
            angles,
            angles,
            cameras,
            timestep=cases.DISTILLATION_TIMESTEP,
            text_embeddings=model.get_learned_conditioning(captions),
            input_is_latent=not pixel,
            comp_rgb_bg=torch.tensor(cases.BACKGROUND).expand(batch, 8, 8, 3),
        )["loss_sds"]
    finally:
        torch.randn_like = draw
    loss.backward()
    return loss.detach(), values.grad


def outputs(root: Path, model, size: cases.Size, adapter: str) -> dict[str, torch.Tensor]:
    """Everything that ours is compared with, by the names that `ours.py` uses."""
    with torch.no_grad():
        features = model.get_learned_image_conditioning(cases.prompt_picture(size).convert("RGB"))
        found = {
            f"image_{adapter}": features,
            f"network_{adapter}": network_output(model, size, adapter, False),
        }
        if adapter == "local":
            found |= encoder_outputs(model, size, root)
            found["network_pixel"] = network_output(model, size, adapter, True)
        name = "global" if adapter == "global" else "pixel"
        found[f"sampled_{name}"] = sampled(model, size, pixel=adapter == "local")
    runs = {f"distilled_{adapter}": (False, True)}
    if adapter == "local":
        runs |= {"distilled_pixel": (True, True), "distilled_local_sds": (False, False)}
    for name, (pixel, recon_loss) in runs.items():
        found[f"{name}_loss"], found[f"{name}_gradient"] = distilled(root, model, size, pixel, recon_loss)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--golden", action="store_true")
    parser.add_argument("--size", choices=cases.SIZES, default="reduced")
    parser.add_argument("--adapter", choices=cases.IMAGE_TOKENS, default="local")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    prepare_imports(arguments.root)
    size = cases.SIZES[arguments.size]
    if arguments.golden:
        layout = {}
        for adapter in cases.IMAGE_TOKENS:
            model = build(arguments.root, size, adapter)
            layout[adapter] = {key: list(parameter.shape) for key, parameter in model.named_parameters()}
            save(outputs(arguments.root, model, size, adapter), GOLDEN / f"{adapter}.safetensors")
        save_layout(layout)
    else:
        arguments.out.mkdir(parents=True, exist_ok=True)
        model = build(arguments.root, size, arguments.adapter)
        torch.save(model.state_dict(), arguments.out / "model.pt")
        save(outputs(arguments.root, model, size, arguments.adapter), arguments.out / "outputs.safetensors")


def save(found: dict[str, torch.Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, path)
    path.chmod(0o644)


def save_layout(layout: dict[str, dict[str, list[int]]]) -> None:
    """Names and shapes of the official parameters, those that both adapters share once."""
    shared = dict(item for item in layout["local"].items() if item in layout["global"].items())
    own = {
        adapter: {key: shape for key, shape in shapes.items() if key not in shared}
        for adapter, shapes in layout.items()
    }
    parts = [f'"{name}": {json.dumps(part)}' for name, part in {"shared": shared, **own}.items()]
    (GOLDEN / "layout.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
