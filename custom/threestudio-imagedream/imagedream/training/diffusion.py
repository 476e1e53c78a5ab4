"""Training of the multi-view network."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import mse_loss

from imagedream.cameras import camera_condition, look_at_origin
from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt import composite
from imagedream.model import CAMERA_DIM, Condition, MultiViewUNet, predict_noise
from imagedream.pipeline import ImageDreamPipeline
from imagedream.training.data import random_backgrounds
from imagedream.training.modules import Training
from imagedream.training.optimizers import OptimizerConfig


def view_cameras(batch: dict) -> Float[Tensor, "group view 16"]:
    """What the network is told about the cameras: all zeros where nobody knows them (`imagedream.training.pictures`)."""
    if "azimuths_deg" not in batch:
        return torch.zeros(*batch["targets"].shape[:2], CAMERA_DIM)
    return camera_condition(
        look_at_origin(batch["elevations_deg"][:, None], batch["azimuths_deg"], torch.tensor(1.0))
    )


@dataclass(frozen=True)
class ConditioningConfig:
    """How often the network is trained without what it will sometimes have to do without."""

    prompt_dropout: float = 0.1
    """Probability of `Condition.without_image` (paper §4)."""
    caption_dropout: float = 0.1
    """Probability of the empty caption."""
    timestep_bias: float = 1.0
    """Timesteps are drawn with density ∝ t^(bias − 1): 1 is uniform, 2 prefers noise levels at which only the
    conditions tell what the object looks like."""

    def __post_init__(self):
        for name in ("prompt_dropout", "caption_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"conditioning.{name} is {getattr(self, name)}, must be in [0, 1]")
        if self.timestep_bias <= 0:
            raise ValueError(f"conditioning.timestep_bias is {self.timestep_bias}, must be greater than 0")


class DiffusionTraining(Training):
    """The multi-view network: all noise levels, one timestep a group, the prompt frame's loss left out (paper §3.3).

    Args:
        unet_config: arguments of `MultiViewUNet`.
        scheduler_config: arguments of `DDIMScheduler`: noise schedule and parametrisation.
        base: folder with the trained `vae` and `encoder`, which stay frozen.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
        conditioning: dropout of prompt and caption.
    """

    def __init__(
        self,
        unet_config: dict[str, Any],
        scheduler_config: dict[str, Any],
        base: tuple[AutoencoderKL, ImageTextEncoder],
        optimizer: OptimizerConfig,
        steps: int,
        seed: int,
        conditioning: ConditioningConfig | None = None,
    ) -> None:
        super().__init__(optimizer, steps, seed)
        self.conditioning = conditioning or ConditioningConfig()
        self.model = MultiViewUNet(**unet_config).to(memory_format=torch.channels_last)
        scheduler = DDIMScheduler(**scheduler_config)
        vae, encoder = (part.eval().requires_grad_(False) for part in base)
        # in a tuple, so that the frozen parts are no parameters of this module
        self.frozen = (ImageDreamPipeline(self.model, vae, encoder, scheduler),)

    @property
    def pipeline(self) -> ImageDreamPipeline:
        """The whole model around the network being trained."""
        return self.frozen[0]

    @torch.no_grad()
    def encode(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Float[Tensor, "group view c h w"], Float[Tensor, "group view 16"], Condition]:
        """Clean latents, cameras and condition of a batch; targets and prompt of a group share their background."""
        groups, views = batch["targets"].shape[:2]
        backgrounds = random_backgrounds(groups, generator)
        targets = composite(batch["targets"], backgrounds[:, None].expand(-1, views, -1)).to(self.device)
        prompts = composite(batch["prompts"], backgrounds).to(self.device)
        frames = torch.cat([targets.flatten(0, 1), prompts]).contiguous(memory_format=torch.channels_last)
        latents = self.pipeline.encode_images(frames)
        dropped = torch.rand(groups, 2, generator=generator) < torch.tensor(
            [self.conditioning.prompt_dropout, self.conditioning.caption_dropout]
        )
        captions = [
            "" if drop else caption for drop, caption in zip(dropped[:, 1], batch["captions"], strict=True)
        ]
        condition = Condition(
            self.pipeline.encoder.encode_text(captions),
            self.pipeline.image_features(prompts),
            latents[groups * views :, None] if self.model.uses_prompt_frame else None,
        ).drop_image(dropped[:, 0].to(self.device))
        clean = latents[: groups * views].unflatten(0, (groups, views))
        return clean, view_cameras(batch).to(self.device), condition

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the network's output against its target in the scheduler's parametrisation."""
        latents, cameras, condition = self.encode(batch, generator)
        scheduler = self.pipeline.scheduler
        uniform = torch.rand(len(latents), generator=generator)
        steps = scheduler.config.num_train_timesteps
        timesteps = (steps * uniform ** (1 / self.conditioning.timestep_bias)).long().clamp_max(steps - 1)
        timesteps = timesteps.to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        output = predict_noise(self.model, noisy, timesteps, cameras, *condition.inputs)
        return {"loss": mse_loss(output.float(), self.target(latents, noise, timesteps))}

    def target(
        self,
        latents: Float[Tensor, "group view c h w"],
        noise: Float[Tensor, "group view c h w"],
        timesteps: Int[Tensor, " group"],
    ) -> Float[Tensor, "group view c h w"]:
        """What the network should say."""
        scheduler = self.pipeline.scheduler
        kind: Literal["epsilon", "v_prediction", "sample"] = scheduler.config.prediction_type
        if kind == "v_prediction":
            return scheduler.get_velocity(latents, noise, timesteps)
        return noise if kind == "epsilon" else latents

    def finish(self, _: list[dict]) -> ImageDreamPipeline:
        """The whole model with the trained network."""
        return self.pipeline
