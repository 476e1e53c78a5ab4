"""What the network is trained to predict at which noise levels, and how much each channel counts."""

from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from imagedream.workshop.training.train_config import ObjectiveConfig

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def check_scheduler(scheduler: DDIMScheduler) -> None:
    """Raise ValueError where a noise schedule does not go with its parametrisation.

    Zero terminal SNR (`scheduler.rescale_betas_zero_snr`, Lin et al., arXiv 2305.08891) makes the last level pure noise,
    as it is where sampling begins. There ε tells nothing of the picture, so the network must predict v or x₀, and the
    sampler must begin at that very level (`timestep_spacing: trailing`).
    """
    config = scheduler.config
    if config.prediction_type not in PREDICTION_TYPES:
        allowed = ", ".join(PREDICTION_TYPES)
        raise ValueError(f"scheduler.prediction_type is {config.prediction_type!r}, must be one of {allowed}")
    if not config.rescale_betas_zero_snr:
        return
    if config.prediction_type == "epsilon":
        raise ValueError(
            "scheduler.rescale_betas_zero_snr is true, but scheduler.prediction_type is epsilon: at zero signal the noise "
            "says nothing of the picture; use v_prediction (or sample)"
        )
    if config.timestep_spacing != "trailing":
        raise ValueError(
            f"scheduler.rescale_betas_zero_snr is true, but scheduler.timestep_spacing is {config.timestep_spacing}, with "
            "which sampling never begins at the level without signal; use trailing"
        )


def target(
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "group view c h w"],
    noise: Float[Tensor, "group view c h w"],
    timesteps: Int[Tensor, " group"],
) -> Float[Tensor, "group view c h w"]:
    """What the network should predict, in the scheduler's parametrisation."""
    if scheduler.config.prediction_type == "v_prediction":
        return scheduler.get_velocity(latents, noise, timesteps)
    return noise if scheduler.config.prediction_type == "epsilon" else latents


def weighted_loss(
    output: Float[Tensor, "group view c h w"],
    wanted: Float[Tensor, "group view c h w"],
    objective: ObjectiveConfig,
) -> Float[Tensor, ""]:
    """Mean squared error, each channel with its weight."""
    errors = mse_loss(output.float(), wanted, reduction="none").mean(dim=(0, 1, 3, 4))
    if objective.channel_weights is not None:
        weights = torch.tensor(objective.channel_weights, device=errors.device)
        errors = errors * (weights / weights.mean())
    return errors.mean()


def draw_timesteps(
    pieces: Sequence[Sequence[float]], uniform: Float[Tensor, " group"], timesteps: int
) -> Int[Tensor, " group"]:
    """Noise levels from `ConditioningConfig.timesteps`: uniform draws through the inverse of their distribution."""
    shares, low, high = torch.tensor(pieces).unbind(1)
    ends = shares.cumsum(0)
    piece = torch.searchsorted(ends, uniform, right=True).clamp_max(len(ends) - 1)
    within = (uniform - (ends - shares)[piece]) / shares[piece]
    return (timesteps * torch.lerp(low[piece], high[piece], within)).long().clamp(0, timesteps - 1)
