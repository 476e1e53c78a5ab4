"""What is learned, in order: picture and text towers, autoencoder, multi-view network."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import open_clip
import pytorch_lightning as pl
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from imagedream.cameras import camera_condition, look_at_origin
from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt import composite
from imagedream.model import CAMERA_DIM, Condition, MultiViewUNet, predict_noise
from imagedream.pipeline import ImageDreamPipeline
from imagedream.training.data import random_backgrounds, step_generator
from imagedream.training.principal import lay_principal_components


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a warm-up and a cosine decay."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """AdamW's; not for biases, norms and embeddings."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    warmup_steps: int = 100
    """Linear warm-up."""
    final_fraction: float = 0.02
    """Learning rate at the last step over the peak."""


class Training(pl.LightningModule):
    """What the three trainings share: optimiser, logging, draws that depend on seed and step alone."""

    def __init__(self, optimizer: OptimizerConfig, steps: int, seed: int) -> None:
        super().__init__()
        self.optimizer_config, self.steps, self.seed = optimizer, steps, seed
        self.started_from_weights = False

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and its schedule."""
        config = self.optimizer_config
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
            progress = min(1.0, step / max(1, self.steps))
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            return warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def start_from(self, initial: torch.nn.Module) -> None:
        """Begin with another model's weights, which must fit exactly.

        Raises:
            ValueError: if keys or shapes differ.
        """
        try:
            self.model.load_state_dict(initial.state_dict())
        except RuntimeError as error:
            raise ValueError(f"initial weights do not fit the model: {error}") from error
        self.started_from_weights = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note that weights came along (the trainer restores its step count only later)."""
        self.started_from_weights = True

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Named values of one batch, `loss` among them; everything random comes from the generator."""
        raise NotImplementedError

    def training_step(self, batch: dict, _: int) -> Tensor:
        """One step, its draws fixed by the batch's number."""
        values = self.loss(batch, step_generator(self.seed + 2, batch["step"]))
        self.log_dict({f"train/{name}": value for name, value in values.items()}, prog_bar=True, batch_size=1)
        return values["loss"]

    def validation_step(self, batch: dict, _: int) -> None:
        """The same loss on objects kept apart, with the same draws every time."""
        values = self.loss(batch, step_generator(0, batch["step"]))
        self.log_dict({f"validation/{name}": value for name, value in values.items()}, batch_size=1)


def soften(pixels: Float[Tensor, "batch c h w"], generator: torch.Generator, probability: float) -> Tensor:
    """Blur some pictures by resizing them down and up: early renders of a field look like this."""
    blurred = pixels.clone()
    size = pixels.shape[-1]
    for index in (torch.rand(len(pixels), generator=generator) < probability).nonzero()[:, 0].tolist():
        small = int(size * (0.15 + 0.6 * torch.rand((), generator=generator)))
        down = interpolate(pixels[index : index + 1], (small, small), mode="bilinear", antialias=True)
        blurred[index] = interpolate(down, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
    return blurred


def composite_views(batch: dict, generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
    """One target view and one prompt of each object of a batch, each on a random background."""
    view = torch.randint(batch["targets"].shape[1], (len(batch["targets"]),), generator=generator)
    rgba = torch.cat([batch["targets"][torch.arange(len(view)), view], batch["prompts"]])
    return composite(rgba, random_backgrounds(len(rgba), generator))


def view_cameras(batch: dict) -> Float[Tensor, "group view 16"]:
    """What the network is told about the cameras: all zeros where nobody knows them (`imagedream.training.pictures`)."""
    if "azimuths_deg" not in batch:
        return torch.zeros(*batch["targets"].shape[:2], CAMERA_DIM)
    return camera_condition(
        look_at_origin(batch["elevations_deg"][:, None], batch["azimuths_deg"], torch.tensor(1.0))
    )


class AutoencoderTraining(Training):
    """Views -> latents -> views, with a slight pull of the latents to a standard normal.

    Args:
        config: arguments of `AutoencoderKL`.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
        principal_encoder: lay principal components into the encoder and freeze it; only the decoder learns.
        kl_weight: of the posterior's divergence, against a loss per pixel.
        blurred: fraction of softened pictures.
    """

    def __init__(
        self,
        config: dict[str, Any],
        optimizer: OptimizerConfig,
        steps: int,
        seed: int,
        principal_encoder: bool = False,
        kl_weight: float = 1e-4,
        blurred: float = 0.2,
    ) -> None:
        super().__init__(optimizer, steps, seed)
        self.principal_encoder, self.kl_weight, self.blurred = principal_encoder, kl_weight, blurred
        self.model = AutoencoderKL(**config).to(memory_format=torch.channels_last)
        if principal_encoder:
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)

    def on_fit_start(self) -> None:
        """Principal components of the first batches, unless a checkpoint or initial weights brought an encoder."""
        if self.principal_encoder and not self.started_from_weights:
            generator = step_generator(self.seed, 0)
            batches = self.trainer.datamodule.first_batches(16)
            pixels = torch.cat([composite_views(batch, generator) for batch in batches]) * 2 - 1
            lay_principal_components(self.model, pixels.to(self.device))

    def pictures(self, batch: dict, generator: torch.Generator) -> Float[Tensor, "batch 3 h w"]:
        """One target view and one prompt of each object on a random background."""
        pixels = soften(composite_views(batch, generator), generator, self.blurred)
        return pixels.to(self.device, memory_format=torch.channels_last)

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruction (absolute + squared error) and divergence."""
        pixels = self.pictures(batch, generator) * 2 - 1
        posterior = self.model.encode(pixels).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        decoded = self.model.decode(posterior.mean + posterior.std * noise).sample
        squared, absolute = mse_loss(decoded, pixels), (decoded - pixels).abs().mean()
        divergence = posterior.kl().mean() / pixels[0].numel()
        return {
            "loss": absolute + squared + self.kl_weight * divergence,
            "psnr": -10 * torch.log10(squared.detach() / 4),
            "divergence": divergence.detach(),
        }

    @torch.no_grad()
    def finish(self, batches: list[dict]) -> AutoencoderKL:
        """The trained autoencoder, its `scaling_factor` set so that latents have unit variance."""
        generator = step_generator(0, 0)
        latents = [self.model.encode(self.pictures(b, generator) * 2 - 1).latent_dist.mode() for b in batches]
        self.model.register_to_config(scaling_factor=1 / float(torch.cat(latents).std()))
        return self.model


class EncoderTraining(Training):
    """Contrastive training of the two towers on pictures and captions (CLIP).

    Args:
        config: arguments of `ImageTextEncoder`.
        optimizer: see `OptimizerConfig`.
        steps: length of the training.
        seed: of all draws.
    """

    def __init__(self, config: dict[str, Any], optimizer: OptimizerConfig, steps: int, seed: int) -> None:
        super().__init__(optimizer, steps, seed)
        self.model = ImageTextEncoder(**config)
        self.contrast = open_clip.ClipLoss()

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Each prompt must find its caption and each caption its prompt."""
        pixels = composite(batch["prompts"], random_backgrounds(len(batch["prompts"]), generator))
        images = self.model.encode_image(pixels.to(self.device)).embedding
        texts = self.model.embed_text(batch["captions"])
        scale = self.model.clip.logit_scale.clamp(max=math.log(100)).exp()
        accuracy = (
            ((images @ texts.T).argmax(1) == torch.arange(len(texts), device=texts.device)).float().mean()
        )
        return {"loss": self.contrast(images, texts, scale), "accuracy": accuracy.detach()}

    def finish(self, _: list[dict]) -> ImageTextEncoder:
        """The trained towers."""
        return self.model


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
