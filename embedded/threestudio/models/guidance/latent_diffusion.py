"""Score distillation with any latent diffusion model in diffusers' layout: what its guidances share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import C


class LatentDiffusionGuidance(BaseObject):
    """Renders -> latents -> the loss whose gradient is w(t) (ε̂ − ε), DreamFusion eq. 3.

    A subclass says what the network predicts with and without its condition, and how they are combined.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = ""
        guidance_scale: float = 5.0
        half_precision_weights: bool = True
        min_step_percent: Any = 0.02
        max_step_percent: Any = 0.98

    cfg: Config

    def configure(self) -> None:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        threestudio.info(f"Loading {self.cfg.pretrained_model_name_or_path} ...")
        half = self.cfg.half_precision_weights and self.device.type == "cuda"
        self.weights_dtype = torch.float16 if half else torch.float32
        self.unet = self.load_part(UNet2DConditionModel, "unet")
        self.vae = self.load_part(AutoencoderKL, "vae")
        self.scheduler = DDIMScheduler.from_pretrained(
            self.cfg.pretrained_model_name_or_path, subfolder="scheduler"
        )
        if self.scheduler.config.prediction_type != "epsilon":
            raise ValueError(
                f"{self.cfg.pretrained_model_name_or_path} predicts {self.scheduler.config.prediction_type}, "
                "this guidance needs a model that predicts epsilon"
            )
        self.num_train_timesteps = self.scheduler.config.num_train_timesteps
        self.alphas = self.scheduler.alphas_cumprod.to(self.device)
        self.update_step(0, 0)

    def load_part(self, model_class: type, name: str) -> Any:
        """A frozen part of the pipeline."""
        path = self.cfg.pretrained_model_name_or_path
        if Path(path).is_file():
            raise ValueError(
                f"{path} is a file; the embedded host reads models in diffusers' layout, folders or hub ids"
            )
        model = model_class.from_pretrained(path, subfolder=name)
        # diffusers' own `to` warns even with nothing to keep in float32
        model = torch.nn.Module.to(model, self.device, self.weights_dtype)
        return model.eval().requires_grad_(False)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        low, high = (
            C(value, epoch, global_step) for value in (self.cfg.min_step_percent, self.cfg.max_step_percent)
        )
        count = self.num_train_timesteps
        self.min_step, self.max_step = int(count * low), int(count * high)

    def encode_images(self, rgb: Float[Tensor, "B H W C"], rgb_as_latents: bool) -> Float[Tensor, "B c h w"]:
        """Latents at the network's own size."""
        pixels = rgb.permute(0, 3, 1, 2)
        size = self.unet.config.sample_size
        if rgb_as_latents:
            return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
        size *= 2 ** (len(self.vae.config.block_out_channels) - 1)
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
        posterior = self.vae.encode(pixels.to(self.weights_dtype) * 2 - 1).latent_dist
        return posterior.sample().float() * self.vae.config.scaling_factor

    def predict(self, latents: Tensor, timesteps: Int[Tensor, "B"], embeddings: Tensor) -> Tensor:
        """The network's noise, in its own precision inside."""
        dtype = self.weights_dtype
        return self.unet(
            latents.to(dtype), timesteps, encoder_hidden_states=embeddings.to(dtype)
        ).sample.float()

    def distil(self, latents: Float[Tensor, "B c h w"], denoise: Any) -> dict[str, Any]:
        """The loss of a step.

        Args:
            latents: of the renders.
            denoise: (noisy latents, timesteps) -> guided noise.
        """
        batch = len(latents)
        timesteps = torch.randint(self.min_step, self.max_step + 1, (batch,), device=self.device)
        with torch.no_grad():
            noise = torch.randn_like(latents)
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
            grad = torch.nan_to_num((1 - alpha) * (denoise(noisy, timesteps) - noise))
            target = latents - grad
        return {
            "loss_sds": 0.5 * F.mse_loss(latents, target, reduction="sum") / batch,
            "grad_norm": grad.norm(),
            "min_step": self.min_step,
            "max_step": self.max_step,
        }
