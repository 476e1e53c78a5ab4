"""The published model's architecture as configs of the stock parts, and models of any architecture without weights.

The numbers are those of Stable Diffusion 2.1 and of OpenCLIP's ViT-H-14; with the controllers of the paper (§3.3) they
add up to the published files: 941.7 M parameters in the network, 83.7 M in the autoencoder, 986.1 M in CLIP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from torch import nn

from imagedream.checkpoints.formats import SCHEDULER
from imagedream.model import Controllers
from imagedream.pipeline import ImageDreamPipeline

Model = TypeVar("Model", bound=nn.Module)

SD21_UNET = dict(
    sample_size=32,  # 256 pixels; the network itself takes any size
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
    up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
    attention_head_dim=(5, 10, 20, 20),  # heads: diffusers keeps this name for old configs; each is 64 wide
    cross_attention_dim=1024,
    use_linear_projection=True,
)
"""`UNet2DConditionModel` of Stable Diffusion 2.1; `MultiViewUNet` adds the camera input."""

RESAMPLER = dict(embed_dims=1280, hidden_dims=1024, depth=4, dim_head=64, heads=12, num_queries=16)
"""`IPAdapterPlusImageProjection` of the local and pixel controllers: 257 tokens of 1280 -> 16 tokens."""

GLOBAL_PROJECTION = dict(image_embed_dim=1024, num_image_text_embeds=4)
"""`ImageProjection` of the global controller: one embedding -> 4 tokens."""

SD_VAE = dict(
    sample_size=256,
    in_channels=3,
    out_channels=3,
    latent_channels=4,
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    scaling_factor=0.18215,
)
"""`AutoencoderKL` of Stable Diffusion."""

VIT_H_14 = dict(
    embed_dim=1024,
    vision_cfg=dict(image_size=224, patch_size=14, width=1280, layers=32, head_width=80),
    text_cfg=dict(context_length=77, vocab_size=49408, width=1024, layers=24, heads=16),
)
"""`open_clip.CLIP` of laion2B-s32B-b79K."""

DDIM = {name: value for name, value in SCHEDULER.items() if name != "_class_name"}
"""`DDIMScheduler` with the schedule and the steps of the released sampler."""


@dataclass(frozen=True)
class Architecture:
    """Arguments of the constructors of a pipeline's parts."""

    unet: dict[str, Any]
    """Of `MultiViewUNet`."""
    vae: dict[str, Any]
    """Of `AutoencoderKL`."""
    encoder: dict[str, Any]
    """Of `ImageTextEncoder`."""
    scheduler: dict[str, Any]
    """Of `DDIMScheduler`."""


def published_architecture(controllers: Controllers = "pixel") -> Architecture:
    """The published model with the controllers of the paper; with `none` it is MVDream, whose encoder reads text only."""
    projection = {"none": None, "pixel-only": None, "global": GLOBAL_PROJECTION}.get(controllers, RESAMPLER)
    unet = dict(unet_config=SD21_UNET, controllers=controllers, image_projection_config=projection)
    encoder = {**VIT_H_14, "vision_cfg": None} if controllers == "none" else VIT_H_14
    return Architecture(unet, SD_VAE, encoder, DDIM)


def architecture_of(pipeline: ImageDreamPipeline) -> Architecture:
    """The architecture of a pipeline that is there."""
    parts = pipeline.unet, pipeline.vae, pipeline.encoder, pipeline.scheduler
    # what begins with an underscore is diffusers' own book-keeping
    configs = [{k: v for k, v in part.config.items() if not k.startswith("_")} for part in parts]
    return Architecture(*configs)


def empty_model(model_class: type[Model], config: dict[str, Any], dtype: torch.dtype) -> Model:
    """A model that takes no memory yet: its parameters are on the meta device, its few buffers are real."""
    with init_empty_weights():
        model = model_class(**config)
    # diffusers' own `to` warns about precision even for models with nothing to keep in float32
    return nn.Module.to(model, dtype).eval().requires_grad_(False)


def fill(
    model: nn.Module, values: Callable[[str, nn.Parameter], torch.Tensor], device: str | torch.device
) -> None:
    """Replace every parameter by `values(name, parameter)` in the parameter's precision; buffers are moved."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                filled = values(name, parameter).to(device, parameter.dtype)
                module._parameters[name] = nn.Parameter(filled, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
