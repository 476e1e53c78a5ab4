"""Image-prompt score distillation (ImageDream §3.4), as pure functions on tensors.

One step noises the latents z of a group of rendered views with one timestep, lets the multi-view model denoise them
with and without its conditions, and pulls z towards the clean latents it sees:

    x_t = α_t z + σ_t ε,   x̂0 = (x_t − σ_t ε̂) / α_t,   L = ½ ‖z − sg(x̂0)‖² / B,   B = groups × views

so that ∂L/∂z = (z − x̂0) / B = (σ_t / α_t) (ε̂ − ε) / B: score distillation sampling with the weight σ_t / α_t. The
form in x̂0 is kept because x̂0 can be rescaled, which tames the saturation that guidance brings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from imagedream.model import Condition, concatenate_conditions, predict_noise, signal_and_noise, to_original


@dataclass(frozen=True)
class DistillationSettings:
    """What stays the same from step to step, apart from schedules."""

    timestep_range: tuple[float, float] = (0.02, 0.98)
    """Lowest and highest timestep, as fractions of the training timesteps."""
    guidance_scale: float = 5.0
    """Of classifier-free guidance; the paper uses 5, 1 is none and spares half of the work."""
    recon_std_rescale: float = 0.2
    """Blend of `rescale_std`; the released code uses 0.2, 0 is off. Score distillation sampling has no use for it."""
    gradient_clip: float | None = None
    """Largest norm a group's own gradient, (z − x̂0) / views, may have; None does not clip."""
    groups_per_call: int | None = None
    """Most groups the network sees at once (memory); None is all, twice the groups here."""
    predict: Callable[..., Tensor] = predict_noise
    """Called like `imagedream.model.predict_noise`; another denoiser may be given."""

    def __post_init__(self) -> None:
        low, high = self.timestep_range
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"timestep_range is ({low}, {high}), must be fractions with 0 <= low <= high <= 1"
            )


@dataclass(frozen=True)
class DistillationResult:
    """What one distillation step says about the latents."""

    loss: Float[Tensor, ""]
    """Scalar whose gradient with respect to the latents is the step's (clipped) gradient."""
    predicted_original: Float[Tensor, "group view c h w"]
    """x̂0: the clean latents the model sees, after guidance and rescaling."""
    timesteps: Int[Tensor, " group"]
    noise: Float[Tensor, "group view c h w"]
    gradient_norm: Float[Tensor, " group"]
    """Norm of each group's own gradient, (z − x̂0) / views, before clipping."""


def draw_timesteps(
    scheduler: Any, groups: int, timestep_range: tuple[float, float], generator: torch.Generator | None = None
) -> Int[Tensor, " {groups}"]:
    """One timestep for each group, uniform over a range given as fractions of the training timesteps."""
    steps = scheduler.config.num_train_timesteps
    # rounding guards against 0.98 * 1000 = 979.999…
    first, last = (min(int(round(fraction * steps, 6)), steps - 1) for fraction in timestep_range)
    device = generator.device if generator is not None else None
    return torch.randint(first, last + 1, (groups,), generator=generator, device=device)


def guided_output(
    unet: Any,
    noisy: Float[Tensor, "group view c h w"],
    timesteps: Int[Tensor, " group"],
    cameras: Float[Tensor, "group view 16"],
    condition: Condition,
    unconditional: Condition,
    settings: DistillationSettings,
) -> tuple[Float[Tensor, "group view c h w"], Float[Tensor, "group view c h w"]]:
    """Network output with classifier-free guidance, and the conditional output it came from; no gradient.

    Guidance, u + s (c − u), is applied to the raw output. ε, v and x̂0 are affine in one another at fixed x_t and the
    two weights add up to one, so this is the same guidance in all three.

    Args:
        unet: handed to `settings.predict`.
        noisy: x_t.
        timesteps: one per group.
        cameras: `imagedream.cameras.camera_condition` of every view.
        condition: text, image and prompt frames; one row per group, or one row for all.
        unconditional: the same for "no condition".
        settings: `guidance_scale` is s.

    Returns:
        (guided, conditional), in the dtype of `noisy`.
    """
    groups, guidance_scale = noisy.shape[0], settings.guidance_scale
    conditions = [_rows(condition, groups)]
    if guidance_scale != 1.0:
        conditions.append(_rows(unconditional, groups))
    joined = concatenate_conditions(conditions)
    repeats = len(conditions)
    inputs = [torch.cat([tensor] * repeats) for tensor in (noisy, timesteps, cameras)]
    size = settings.groups_per_call or repeats * groups
    outputs = []
    with torch.no_grad():
        for start in range(0, repeats * groups, size):
            part = slice(start, start + size)
            rows = joined.map(lambda tensor, part=part: tensor[part])
            output = settings.predict(unet, *(tensor[part] for tensor in inputs), *rows.inputs)
            outputs.append(output.to(noisy.dtype))
    output = torch.cat(outputs)
    if repeats == 1:
        return output, output
    conditional, unconditional_output = output.chunk(2)
    return unconditional_output + guidance_scale * (conditional - unconditional_output), conditional


def rescale_std(
    guided: Float[Tensor, "group view c h w"], unguided: Float[Tensor, "group view c h w"], blend: float
) -> Float[Tensor, "group view c h w"]:
    """Bring the spread of guided latents back towards that of unguided ones, per group (MVDream, appendix).

    Args:
        guided: x̂0 with guidance.
        unguided: x̂0 of the conditional prediction alone.
        blend: φ in x̂0 ← φ · x̂0 · std(unguided)/std(guided) + (1 − φ) · x̂0; 0 leaves x̂0 as it is.
    """
    if blend == 0:
        return guided
    axes = (1, 2, 3, 4)
    factor = (unguided.std(axes, keepdim=True) + 1e-8) / (guided.std(axes, keepdim=True) + 1e-8)
    return guided * (blend * factor + (1 - blend))


def image_prompt_score_distillation(
    unet: Any,
    scheduler: Any,
    latents: Float[Tensor, "group view c h w"],
    cameras: Float[Tensor, "group view 16"],
    condition: Condition,
    unconditional: Condition,
    settings: DistillationSettings = DistillationSettings(),
    *,
    timesteps: Int[Tensor, " group"] | None = None,
    noise: Float[Tensor, "group view c h w"] | None = None,
    generator: torch.Generator | None = None,
    **changed: Any,
) -> DistillationResult:
    """One step of ImageDream's x0-reconstruction distillation: loss ½ ‖z − sg(x̂0)‖² / (groups × views).

    Args:
        unet: multi-view network, used without gradient.
        scheduler: its diffusers scheduler (noise schedule and prediction type).
        latents: z, the encoded renders; the loss has a gradient with respect to them.
        cameras: `imagedream.cameras.camera_condition` of every view.
        condition: the encoded prompt, one row per group or one row for all.
        unconditional: what the network is given for "no condition".
        settings: guidance, rescaling, clipping and the range of the timesteps.
        timesteps: one per group; drawn from the settings' range when None.
        noise: ε; drawn when None.
        generator: source of timesteps and noise.
        **changed: fields of the settings by name, such as `guidance_scale=1.0`.

    Returns:
        The loss and what it was made of. Not differentiable with respect to anything but `latents`.

    Raises:
        ValueError: for a range or condition that does not fit.
    """
    settings = replace(settings, **changed)
    drawn = _draw(scheduler, latents, settings, timesteps, noise, generator)
    step = _denoise(unet, scheduler, latents, cameras, condition, unconditional, settings, *drawn)
    original = to_original(scheduler, step.guided, step.noisy, step.timesteps)
    if settings.recon_std_rescale:
        unguided = to_original(scheduler, step.conditional, step.noisy, step.timesteps)
        original = rescale_std(original, unguided, settings.recon_std_rescale)
    return _loss_with_gradient(latents, latents.detach() - original, settings.gradient_clip, original, step)


def score_distillation_sampling(
    unet: Any,
    scheduler: Any,
    latents: Float[Tensor, "group view c h w"],
    cameras: Float[Tensor, "group view 16"],
    condition: Condition,
    unconditional: Condition,
    settings: DistillationSettings = DistillationSettings(),
    *,
    weighting: Literal["reconstruction", "dreamfusion"] = "dreamfusion",
    timesteps: Int[Tensor, " group"] | None = None,
    noise: Float[Tensor, "group view c h w"] | None = None,
    generator: torch.Generator | None = None,
    **changed: Any,
) -> DistillationResult:
    """Plain score distillation sampling (DreamFusion eq. 3): gradient w(t) (ε̂ − ε) / (groups × views).

    `weighting` is "reconstruction", w = σ_t / α_t: the gradient of `image_prompt_score_distillation` without rescaling;
    or "dreamfusion", w = σ_t². The other arguments are explained there.

    Returns:
        The same record; its loss has this gradient, its value has no meaning of its own.

    Raises:
        ValueError: for an unknown weighting, or a range or condition that does not fit.
    """
    if weighting not in ("reconstruction", "dreamfusion"):
        raise ValueError(f"weighting is {weighting!r}, must be 'reconstruction' or 'dreamfusion'")
    settings = replace(settings, **changed)
    drawn = _draw(scheduler, latents, settings, timesteps, noise, generator)
    step = _denoise(unet, scheduler, latents, cameras, condition, unconditional, settings, *drawn)
    original = to_original(scheduler, step.guided, step.noisy, step.timesteps)
    alpha, sigma = signal_and_noise(scheduler, step.timesteps)
    predicted_noise = (step.noisy - alpha * original) / sigma
    weight = sigma / alpha if weighting == "reconstruction" else sigma**2
    residual = weight * (predicted_noise - step.noise)
    return _loss_with_gradient(latents, residual, settings.gradient_clip, original, step)


@dataclass(frozen=True)
class _Step:
    """A noised group and what the network made of it."""

    timesteps: Tensor
    noise: Tensor
    noisy: Tensor
    guided: Tensor
    conditional: Tensor


def _draw(scheduler, latents, settings, timesteps, noise, generator) -> tuple[Tensor, Tensor]:
    """Timesteps and noise, drawn where they are not given."""
    if timesteps is None:
        timesteps = draw_timesteps(scheduler, len(latents), settings.timestep_range, generator)
    if noise is None:
        device = generator.device if generator is not None else latents.device
        noise = torch.randn(latents.shape, generator=generator, device=device, dtype=latents.dtype)
    return timesteps.to(latents.device), noise.to(latents.device)


def _denoise(
    unet, scheduler, latents, cameras, condition, unconditional, settings, timesteps, noise
) -> _Step:
    """Noise the latents with ε at t, and ask the network."""
    alpha, sigma = signal_and_noise(scheduler, timesteps)
    noisy = alpha * latents.detach() + sigma * noise
    outputs = guided_output(unet, noisy, timesteps, cameras, condition, unconditional, settings)
    return _Step(timesteps, noise, noisy, *outputs)


def _loss_with_gradient(latents, residual, gradient_clip, original, step: _Step) -> DistillationResult:
    """A loss whose gradient is residual / (groups × views), each group clipped to its largest norm."""
    groups, views = latents.shape[:2]
    norm = residual.flatten(1).norm(dim=1) / views
    if gradient_clip is not None:
        factor = (gradient_clip / norm.clamp_min(1e-12)).clamp_max(1.0)
        residual = residual * factor.reshape(-1, 1, 1, 1, 1)
    target = (latents - residual).detach()
    loss = 0.5 * (latents - target).square().sum() / (groups * views)
    return DistillationResult(loss, original, step.timesteps, step.noise, norm)


def _rows(condition: Condition, groups: int) -> Condition:
    """The condition with one row per group; a single row serves all."""
    rows = condition.text_tokens.shape[0]
    if rows not in (1, groups):
        raise ValueError(f"the condition has {rows} rows, must have 1 or one for each of the {groups} groups")
    return condition.repeat(groups) if rows != groups else condition
