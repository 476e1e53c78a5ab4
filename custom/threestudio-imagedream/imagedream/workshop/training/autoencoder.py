"""Training of the autoencoder: views -> latents -> views."""

from collections.abc import Set
from itertools import islice
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from imagedream.pictures import composite
from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.pca_autoencoder import lay_principal_components
from imagedream.workshop.training.random_draws import random_backgrounds
from imagedream.workshop.training.train_config import OptimizerConfig
from imagedream.workshop.training.training_module import Training

KL_WEIGHT = 1e-4
"""Of the posterior's divergence, against a loss per pixel."""
BLURRED = 0.2
"""Share of softened pictures."""


def soften(pixels: Float[Tensor, "batch c h w"], generator: torch.Generator, probability: float) -> Tensor:
    """Blur some pictures by resizing them down and up: early renders of a field look like this."""
    blurred = pixels.clone()
    size = pixels.shape[-1]
    for index in (torch.rand(len(pixels), generator=generator) < probability).nonzero()[:, 0].tolist():
        small = int(size * (0.15 + 0.6 * torch.rand((), generator=generator)))
        down = interpolate(pixels[index : index + 1], (small, small), mode="bilinear", antialias=True)
        blurred[index] = interpolate(down, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    return blurred


def edge_weights(height: int, width: int, edge: float = 6.0) -> Float[Tensor, "{height} {width}"]:
    """Weights of a picture's pixels, mean 1: those at an edge count `edge` times, in a corner `edge`² times.

    Convolutions see zeros beyond the edges, so that plain backgrounds come out tinted there, in every view alike.
    """
    rows, columns = torch.ones(height), torch.ones(width)
    rows[[0, -1]] = columns[[0, -1]] = edge
    weights = rows[:, None] * columns
    return weights / weights.mean()


def composite_views(batch: dict, generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
    """One target view and one prompt of each object of a batch, each on a random background."""
    view = torch.randint(batch["targets"].shape[1], (len(batch["targets"]),), generator=generator)
    rgba = torch.cat([batch["targets"][torch.arange(len(view)), view], batch["prompts"]])
    return composite(rgba, random_backgrounds(len(rgba), generator))


class AutoencoderTraining(Training):
    """Views -> latents -> views, with a slight pull of the latents to a standard normal.

    Args:
        config: arguments of `AutoencoderKL`.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
        principal_encoder: lay principal components into the encoder and freeze it; only the decoder learns.
    """

    def __init__(
        self,
        config: dict[str, Any],
        optimizer: OptimizerConfig,
        steps: int,
        seed: int,
        principal_encoder: bool = False,
    ) -> None:
        super().__init__(optimizer, steps, seed)
        self.principal_encoder = principal_encoder
        self.scaling_factor: float | None = None
        """Of latents that networks know already."""
        self.model = AutoencoderKL(**config).to(memory_format=torch.channels_last)
        if principal_encoder:
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)

    def start_from(self, initial: torch.nn.Module, new: Set[str] = frozenset()) -> None:
        """As `Training.start_from`; latents of an encoder that does not learn keep their scale."""
        super().start_from(initial, new)
        if self.principal_encoder:
            self.scaling_factor = initial.config.scaling_factor

    def on_fit_start(self) -> None:
        """Principal components of the first batches, unless a checkpoint or initial weights brought an encoder."""
        if self.principal_encoder and not self.started_from_weights:
            generator = step_generator(self.seed, 0)
            batches = self.trainer.datamodule.first_batches(16)
            pixels = torch.cat([composite_views(batch, generator) for batch in batches]) * 2 - 1
            lay_principal_components(self.model, pixels.to(self.device))

    def pictures(self, batch: dict, generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
        """One target view and one prompt of each object on a random background."""
        pixels = soften(composite_views(batch, generator), generator, BLURRED)
        return pixels.to(self.device, memory_format=torch.channels_last)

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruction (absolute + squared error, see `edge_weights`) and divergence."""
        pixels = self.pictures(batch, generator) * 2 - 1
        posterior = self.model.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        decoded = self.model.decode(posterior.mean + posterior.std * noise).sample
        error, weights = (decoded - pixels).abs(), edge_weights(*pixels.shape[-2:]).to(pixels)
        squared, absolute = (weights * error**2).mean(), (weights * error).mean()
        divergence = posterior.kl().mean() / pixels[0].numel()
        return {
            "loss": absolute + squared + KL_WEIGHT * divergence,
            "psnr": -10 * torch.log10((error.detach() ** 2).mean() / 4),
            "divergence": divergence.detach(),
        }

    @torch.no_grad()
    def finish(self) -> AutoencoderKL:
        """The trained autoencoder, its `scaling_factor` set so that latents have unit variance, unless they had one."""
        if self.scaling_factor is not None:
            self.model.register_to_config(scaling_factor=self.scaling_factor)
            return self.model
        generator = step_generator(0, 0)
        batches = islice(self.trainer.datamodule.val_dataloader(), 4)
        latents = [self.model.encode(self.pictures(b, generator) * 2 - 1).latent_dist.mode() for b in batches]
        self.model.register_to_config(scaling_factor=1 / float(torch.cat(latents).std()))
        return self.model
