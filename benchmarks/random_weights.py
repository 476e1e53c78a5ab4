"""Whole pipelines without anybody's weights: random ones, and tensors that have shapes alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, DDIMScheduler

from imagedream.encoders import ImageTextEncoder
from imagedream.model import MultiViewUNet
from imagedream.pipeline import ImageDreamPipeline
from imagedream.workshop.training.architectures import Architecture, empty_model, fill
from imagedream.workshop.training.memory import fake_tensors


def empty_pipeline(architecture: Architecture, dtype: torch.dtype = torch.float32) -> ImageDreamPipeline:
    """A pipeline whose parameters are on the meta device: to count, to plan, or to fill."""
    return ImageDreamPipeline(
        unet=empty_model(MultiViewUNet, architecture.unet, dtype),
        vae=empty_model(AutoencoderKL, architecture.vae, dtype),
        encoder=empty_model(ImageTextEncoder, architecture.encoder, dtype),
        scheduler=DDIMScheduler(**architecture.scheduler),
    )


def random_pipeline(
    architecture: Architecture,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> ImageDreamPipeline:
    """A pipeline with random weights, made in their final precision and place one parameter at a time.

    A seed gives the same weights on every device, and in every precision up to rounding.
    """
    pipeline = empty_pipeline(architecture, dtype)
    generator = torch.Generator().manual_seed(seed)
    for model in (pipeline.unet, pipeline.vae, pipeline.encoder):
        fill(model, lambda name, parameter: _random_values(name, parameter.shape, generator), device)
    return pipeline


@contextmanager
def fake_pipeline(architecture: Architecture, dtype: torch.dtype) -> Iterator[ImageDreamPipeline]:
    """A pipeline of fake tensors."""
    pipeline = empty_pipeline(architecture, dtype)
    with fake_tensors([pipeline.unet, pipeline.vae, pipeline.encoder]):
        yield pipeline


def _random_values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Matrices and kernels scaled by their fan-in, so activations stay near unit size; no two parameters alike."""
    values = torch.randn(shape, generator=generator)
    if len(shape) > 1:
        return values.mul_((shape[0] / shape.numel()) ** 0.5)
    return values.mul_(0.02).add_(1.0 if name == "weight" else 0.0)
