"""Score-based iterative reconstruction (MicroDreamer, arXiv 2404.19525; IM-3D, arXiv 2402.08682), as pure functions.

Distillation asks the multi-view model for a gradient in every step. Reconstruction asks it for pictures now and then, and
fits the field to them in many cheap steps that need no network. The first pictures are sampled from the prompt; those of
later rounds are views of the field as it is, which the model completes: their latents z are noised, carried on to more
noise by DDIM inversion, which keeps what they show, and denoised to the end with guidance:

    z_s = α_s z + σ_s ε with s < t,    z_t = DDIM⁻¹(z_s),    ẑ = DDIM(z_t)

t falls from round to round, so that less and less is made up.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from imagedream.distillation import DistillationSettings, guided_output
from imagedream.model import Condition, predict_noise, signal_and_noise, to_original
from imagedream.runs.ranges import Count, check_ranges


@dataclass(frozen=True)
class ReconstructionSettings:
    """How views are completed."""

    guidance_scale: float = 2.0
    """Of classifier-free guidance while denoising; there is none while inverting."""
    inversion_steps: Count = 4
    denoising_steps: Count = 8
    groups_per_call: int | None = None
    """As in `DistillationSettings`, as is `predict`."""
    predict: Callable[..., Tensor] = predict_noise

    def __post_init__(self) -> None:
        check_ranges(self)


def turned_azimuth(number: int, views: int = 4) -> float:
    """Azimuth in degrees of a group's first camera: each group looks into the largest gaps that earlier ones left.

    Van der Corput's sequence of the angle between neighbouring cameras of a group.

    >>> [turned_azimuth(number) for number in range(5)]
    [0.0, 45.0, 22.5, 67.5, 11.25]
    """
    fraction, place = 0.0, 0.5
    while number:
        fraction += place * (number % 2)
        number, place = number // 2, place / 2
    return fraction * 360 / views


def ddim(
    network: Callable[[Tensor, Tensor], Tensor],
    scheduler: Any,
    latents: Float[Tensor, "group view c h w"],
    timesteps: Sequence[int],
) -> Float[Tensor, "group view c h w"]:
    """Latents carried from the first of the timesteps to the last, without fresh noise (Song et al. 2021, eq. 12, σ = 0).

    Args:
        network: latents and timesteps (one a group) -> output in the scheduler's parametrisation.
        scheduler: its noise schedule.
        latents: x_t at the first timestep.
        timesteps: descending to sample, ascending to invert; −1 stands for clean latents.
    """
    for now, then in pairwise(timesteps):
        current = torch.full((len(latents),), now, device=latents.device)
        original = to_original(scheduler, network(latents, current), latents, current)
        if then < 0:
            return original
        (alpha, sigma), (next_alpha, next_sigma) = (
            signal_and_noise(scheduler, torch.full_like(current, timestep)) for timestep in (now, then)
        )
        latents = next_alpha * original + next_sigma * (latents - alpha * original) / sigma
    return latents


@torch.no_grad()
def complete_views(
    unet: Any,
    scheduler: Any,
    latents: Float[Tensor, "group view c h w"],
    cameras: Float[Tensor, "group view 16"],
    condition: Condition,
    unconditional: Condition,
    levels: tuple[float, float],
    settings: ReconstructionSettings = ReconstructionSettings(),
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "group view c h w"]:
    """Clean latents of what the model takes noised renders for (MicroDreamer §3.2); no gradient.

    The network is asked `inversion_steps` times with the condition alone and `denoising_steps` times with guidance.

    Args:
        unet: multi-view network.
        scheduler: its diffusers scheduler (noise schedule and prediction type).
        latents: z, the encoded renders.
        cameras: `imagedream.cameras.camera_condition` of every view.
        condition: the encoded prompt, one row per group or one row for all, on the renders' background.
        unconditional: what the network is given for "no condition".
        levels: s and t as fractions of the training timesteps; MicroDreamer has s = 0.6 t, equal ones leave inversion out.
        settings: guidance and numbers of steps.
        generator: source of ε.

    Raises:
        ValueError: for levels outside (0, 1] or a first one above the second, or a condition that does not fit.
    """
    if not 0 < levels[0] <= levels[1] <= 1:
        raise ValueError(f"noise levels are {levels}, must be fractions with 0 < first <= second <= 1")
    lowest, highest = (round(level * (scheduler.config.num_train_timesteps - 1)) for level in levels)

    def network(guidance_scale: float) -> Callable[[Tensor, Tensor], Tensor]:
        how = DistillationSettings(
            guidance_scale=guidance_scale, groups_per_call=settings.groups_per_call, predict=settings.predict
        )
        return lambda noisy, timesteps: guided_output(
            unet, noisy, timesteps, cameras, condition, unconditional, how
        )[0]

    device = generator.device if generator is not None else latents.device
    noise = torch.randn(latents.shape, generator=generator, device=device, dtype=latents.dtype)
    alpha, sigma = signal_and_noise(scheduler, torch.full((len(latents),), lowest, device=latents.device))
    latents = alpha * latents + sigma * noise.to(latents.device)
    if lowest < highest:
        latents = ddim(network(1.0), scheduler, latents, _evenly(lowest, highest, settings.inversion_steps))
    down = _evenly(highest, 0, settings.denoising_steps)[:-1]
    return ddim(network(settings.guidance_scale), scheduler, latents, [*down, -1])


def _evenly(start: int, stop: int, steps: int) -> list[int]:
    return torch.linspace(start, stop, steps + 1).round().long().tolist()


@dataclass(frozen=True)
class TargetViews:
    """Pictures that a field is fitted to, where each is seen from, and what is behind the object in it."""

    images: Float[Tensor, "view height width 3"]
    """Pixels in [0, 1]."""
    azimuth_deg: Float[Tensor, " view"]
    elevation_deg: Float[Tensor, " view"]
    background: Float[Tensor, "view 3"]
    """RGB in [0, 1]. Where views have different ones, the field can tell the object from what is behind it."""
    step: Int[Tensor, " view"]
    """Of the fit, from which on they count."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> "TargetViews":
        return TargetViews(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def joined(parts: "Sequence[TargetViews]") -> "TargetViews":
        """One after another."""
        names = [field.name for field in fields(TargetViews)]
        return TargetViews(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """As a file can hold them; pictures of 8 bits."""
        arrays = {field.name: getattr(self, field.name).numpy() for field in fields(self)}
        return {**arrays, "images": (arrays["images"] * 255).round().astype(np.uint8)}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "TargetViews":
        """From what `to_arrays` gave."""
        tensors = {field.name: torch.from_numpy(arrays[field.name]) for field in fields(TargetViews)}
        return TargetViews(**{**tensors, "images": tensors["images"] / 255})

    def at(self, step: int, most: int | None = None) -> "TargetViews":
        """Those that count in a step, at most the newest `most` of them."""
        known = self[self.step <= step]
        return known if most is None else known[-most:]


@dataclass(frozen=True)
class Patches:
    """Rectangles of pictures."""

    picture: Int[Tensor, " patch"]
    top: Int[Tensor, " patch"]
    left: Int[Tensor, " patch"]
    height: int
    width: int

    def cut(
        self, pictures: Shaped[Tensor, "picture full_height full_width channel"]
    ) -> Shaped[Tensor, "patch {self.height} {self.width} channel"]:
        """These parts of pictures."""
        row = self.top[:, None] + torch.arange(self.height)
        column = self.left[:, None] + torch.arange(self.width)
        return pictures[self.picture[:, None, None], row[:, :, None], column[:, None]]


def draw_patches(
    pictures: int, full_size: int, count: int, height: int, width: int, generator: torch.Generator
) -> Patches:
    """Patches anywhere in any of so many square pictures.

    Raises:
        ValueError: patches larger than the pictures.
    """
    if max(height, width) > full_size:
        raise ValueError(
            f"patches are {height} x {width} pixels, the pictures only {full_size} x {full_size}"
        )
    picture, top, left = (
        torch.randint(most, (count,), generator=generator)
        for most in (pictures, full_size - height + 1, full_size - width + 1)
    )
    return Patches(picture, top, left, height, width)


def view_loss(
    foreground: Float[Tensor, "patch height width 3"],
    opacity: Float[Tensor, "patch height width 1"],
    targets: Float[Tensor, "patch height width 3"],
    background: Float[Tensor, "patch 3"],
) -> Float[Tensor, ""]:
    """Mean absolute difference, the render shown on the targets' own background.

    Absolute, since views of one object that contradict each other then have edges (a median), not blurred ones (a mean).

    Args:
        foreground: premultiplied colour.
        opacity: of the object.
        targets: pixels.
        background: colour behind the object in each patch's picture.
    """
    return (foreground + (1 - opacity) * background[:, None, None] - targets).abs().mean()
