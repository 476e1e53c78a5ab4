"""Training of the multi-view network."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn

from imagedream.cameras import camera_condition, look_at_origin
from imagedream.encoders import ImageTextEncoder
from imagedream.model import CAMERA_DIM, Cameras, Condition, MultiViewUNet, predict_noise
from imagedream.pictures import composite
from imagedream.pipeline import ImageDreamPipeline
from imagedream.workshop.training.objectives import check_scheduler, draw_timesteps, target, weighted_loss
from imagedream.workshop.training.random_draws import random_backgrounds
from imagedream.workshop.training.train_config import (
    ConditioningConfig,
    ObjectiveConfig,
    OptimizerConfig,
)
from imagedream.workshop.training.training_module import Training
from imagedream.workshop.training.weight_initialisation import start_network


def view_azimuths(batch: dict, cameras: Cameras = "canonical") -> Float[Tensor, "group view"]:
    """Azimuths of the targets in degrees, counted from where the network counts them."""
    if cameras == "relative":
        return batch["azimuths_deg"] - batch["prompt_azimuths_deg"][:, None]
    return batch["azimuths_deg"]


def view_cameras(batch: dict, cameras: Cameras = "canonical") -> Float[Tensor, "group view 16"]:
    """What the network is told about the cameras: all zeros where nobody knows them (`imagedream.workshop.training.picture_data`)."""
    if "azimuths_deg" not in batch:
        return torch.zeros(*batch["targets"].shape[:2], CAMERA_DIM)
    azimuths = view_azimuths(batch, cameras)
    return camera_condition(look_at_origin(batch["elevations_deg"][:, None], azimuths, torch.tensor(1.0)))


def check_parts(network: Mapping[str, Any], vae: AutoencoderKL, encoder: ImageTextEncoder) -> None:
    """Raise ValueError unless a network with these arguments can read what autoencoder and encoder write."""
    unet, controllers = network["unet_config"], network["controllers"]
    projection, clip = network.get("image_projection_config") or {}, encoder.config
    text_width = clip.text_cfg["width"]
    pairs = [
        ("autoencoder", "latent channels", vae.config.latent_channels, unet.get("in_channels", 4)),
        ("encoder", "channels of caption tokens", text_width, unet.get("cross_attention_dim", 1280)),
    ]
    if controllers in ("global", "local", "pixel") and not encoder.reads_images:
        raise ValueError(
            f"model.controllers is {controllers}, but the encoder reads no pictures: name one that does, such as "
            "encoder=ViT-H-14:laion2b_s32b_b79k"
        )
    if controllers == "global":
        if not clip.joint_embedding:
            raise ValueError(
                "model.controllers is global, but the encoder lacks the projection to the joint embedding"
            )
        pairs.append(
            ("encoder", "numbers of an embedding", clip.embed_dim, projection.get("image_embed_dim"))
        )
    elif controllers in ("local", "pixel"):
        width = clip.vision_cfg["width"]
        pairs.append(("encoder", "channels of image tokens", width, projection.get("embed_dims")))
    for part, what, has, wants in pairs:
        if has != wants:
            raise ValueError(f"the {part} has {has} {what}, the network reads {wants}")


class DiffusionTraining(Training):
    """The multi-view network: all noise levels, one timestep a group, the prompt frame's loss left out (paper §3.3).

    Args:
        unet_config: arguments of `MultiViewUNet`.
        scheduler_config: arguments of `DDIMScheduler`: noise schedule and parametrisation.
        base: the trained autoencoder and encoder, which stay frozen.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
        conditioning: dropout of prompt and caption.
        objective: weights of the noise levels.
        prompt_suffix: of the captions it learns from, which prompts get then too.
        data: what it learns from, for the network's record (`MultiViewUNet`, `trained_on`).

    Raises:
        ValueError: the parts do not fit each other, or the schedule not the objective.
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
        objective: ObjectiveConfig | None = None,
        data: Sequence[Mapping[str, Any]] = (),
        prompt_suffix: str = "",
    ) -> None:
        super().__init__(optimizer, steps, seed)
        self.conditioning = conditioning or ConditioningConfig()
        self.objective = objective or ObjectiveConfig()
        scheduler = DDIMScheduler(**scheduler_config)
        check_scheduler(scheduler)
        channels, weights = base[0].config.latent_channels, self.objective.channel_weights
        if weights is not None and len(weights) != channels:
            raise ValueError(
                f"objective.channel_weights are {len(weights)}, the autoencoder has {channels} latent channels"
            )
        check_parts(unet_config, *base)  # first: a large network takes its time
        self.data = [{**entry, "steps": steps} for entry in data]
        self.model = MultiViewUNet(**{**unet_config, "trained_on": self.data}).to(
            memory_format=torch.channels_last
        )
        vae, encoder = (part.eval().requires_grad_(False) for part in base)
        # in a tuple, so that the frozen parts are no parameters of this module
        self.frozen = (
            ImageDreamPipeline(
                self.model, vae, encoder, scheduler, negative_prompt="", prompt_suffix=prompt_suffix
            ),
        )

    @property
    def pipeline(self) -> ImageDreamPipeline:
        """The whole model around the network being trained."""
        return self.frozen[0]

    def on_fit_start(self) -> None:
        """Bring the frozen parts, which Lightning does not see, to the device."""
        for part in (self.pipeline.vae, self.pipeline.encoder):
            nn.Module.to(part, self.device)

    def start_from(self, initial: nn.Module, new: Set[str] = frozenset()) -> None:
        """Begin with another network's weights; image controllers and cameras that it lacks begin without influence."""
        start_network(self.model, initial, new)
        self.model.register_to_config(trained_on=[*initial.config.trained_on, *self.data])
        self.started_from_weights = True

    @torch.no_grad()
    def encode(
        self, batch: dict, generator: torch.Generator
    ) -> tuple[Float[Tensor, "group view c h w"], Float[Tensor, "group view 16"], Condition]:
        """Clean latents, cameras and condition of a batch; targets and prompt of a group share their background."""
        groups, views = batch["targets"].shape[:2]
        conditioning = self.conditioning
        backgrounds = random_backgrounds(
            groups, generator, conditioning.white_background, conditioning.grey_background
        )
        dropped = torch.rand(groups, 2, generator=generator) < torch.tensor(
            [conditioning.prompt_dropout, conditioning.caption_dropout]
        )
        without_prompt, without_caption = dropped.unbind(1)
        targets = composite(batch["targets"], backgrounds[:, None].expand(-1, views, -1)).to(self.device)
        prompts = composite(batch["prompts"], backgrounds)
        if self.model.config.no_image == "plain":
            prompts = torch.where(without_prompt[:, None, None, None], backgrounds[:, :, None, None], prompts)
        prompts = prompts.to(self.device)
        frames = torch.cat([targets.flatten(0, 1), prompts]).contiguous(memory_format=torch.channels_last)
        latents = self.pipeline.encode_images(frames)
        captions = [
            "" if drop else caption for drop, caption in zip(without_caption, batch["captions"], strict=True)
        ]
        condition = Condition(
            self.pipeline.encoder.encode_text(captions),
            self.pipeline.image_features(prompts),
            latents[groups * views :, None] if self.model.uses_prompt_frame else None,
        )
        if self.model.config.no_image == "zeros":
            condition = condition.drop_image(without_prompt.to(self.device))
        clean = latents[: groups * views].unflatten(0, (groups, views))
        return clean, view_cameras(batch, self.model.config.cameras).to(self.device), condition

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the network's output against its target in the scheduler's parametrisation."""
        latents, cameras, condition = self.encode(batch, generator)
        scheduler = self.pipeline.scheduler
        uniform = torch.rand(len(latents), generator=generator)
        levels = scheduler.config.num_train_timesteps
        timesteps = draw_timesteps(self.conditioning.timesteps, uniform, levels).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        output = predict_noise(self.model, noisy, timesteps, cameras, *condition.inputs)
        wanted = target(scheduler, latents, noise, timesteps)
        return {"loss": weighted_loss(output, wanted, self.objective)}

    def finish(self) -> ImageDreamPipeline:
        """The whole model with the trained network."""
        return self.pipeline
