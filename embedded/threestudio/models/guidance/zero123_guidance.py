"""Score distillation with Zero123 and Stable Zero123: a picture seen from a camera relative to its own."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

import threestudio
from threestudio.models.guidance.latent_diffusion import LatentDiffusionGuidance

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@functools.cache
def projection_class() -> type:
    """What makes a token of the image's embedding and the camera's four numbers (subfolder `cc_projection`)."""
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config

    class CCProjection(ModelMixin, ConfigMixin):
        @register_to_config
        def __init__(self, in_channel: int = 772, out_channel: int = 768) -> None:
            super().__init__()
            self.projection = nn.Linear(in_channel, out_channel)

        def forward(self, x: Tensor) -> Tensor:
            return self.projection(x)

    return CCProjection


@threestudio.register("zero123-guidance")
class Zero123Guidance(LatentDiffusionGuidance):
    """Reads diffusers' layout (with `image_encoder` and `cc_projection`), not the original checkpoint."""

    @dataclass
    class Config(LatentDiffusionGuidance.Config):
        pretrained_model_name_or_path: str = "load/zero123/105000.ckpt"
        pretrained_config: str = "load/zero123/sd-objaverse-finetune-c_concat-256.yaml"  # not read here
        cond_image_path: str = "load/images/hamburger_rgba.png"
        cond_elevation_deg: float = 0.0
        cond_azimuth_deg: float = 0.0
        cond_camera_distance: float = 1.2

    cfg: Config

    def configure(self) -> None:
        from transformers import CLIPVisionModelWithProjection

        super().configure()
        self.image_encoder = self.load_part(CLIPVisionModelWithProjection, "image_encoder")
        self.projection = self.load_part(projection_class(), "cc_projection")
        self.prepare_image(self.cfg.cond_image_path)

    @torch.no_grad()
    def prepare_image(self, path: str) -> None:
        """Embed the picture, shown on white."""
        with PIL.Image.open(path) as picture:
            pixels = torch.from_numpy(np.array(picture.convert("RGBA"), dtype=np.float32)) / 255
        white = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
        white = white.permute(2, 0, 1)[None].to(self.device, self.weights_dtype)
        size = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        image = F.interpolate(white, (size, size), mode="bilinear", antialias=True)
        self.image_latents = self.vae.encode(image * 2 - 1).latent_dist.mode()  # not scaled, as in training
        size = self.image_encoder.config.image_size
        image = F.interpolate(white, (size, size), mode="bicubic", antialias=True)
        mean, std = (image.new_tensor(values).view(1, 3, 1, 1) for values in (_CLIP_MEAN, _CLIP_STD))
        self.image_embedding = self.image_encoder((image - mean) / std).image_embeds

    def camera(self, elevation: Tensor, azimuth: Tensor, camera_distances: Tensor) -> Float[Tensor, "B 4"]:
        """The camera relative to the picture's: polar angle, sine and cosine of the azimuth, distance."""
        turn = torch.deg2rad(azimuth - self.cfg.cond_azimuth_deg)
        polar = torch.deg2rad(self.cfg.cond_elevation_deg - elevation)
        return torch.stack([polar, turn.sin(), turn.cos(), self.last_number(camera_distances)], dim=-1)

    def last_number(self, camera_distances: Tensor) -> Tensor:
        return camera_distances - self.cfg.cond_camera_distance

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        rgb_as_latents: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        batch = len(rgb)
        camera = self.camera(elevation, azimuth, camera_distances).to(self.device, self.weights_dtype)
        token = self.projection(torch.cat([self.image_embedding.expand(batch, -1), camera], dim=-1))[:, None]
        embeddings = torch.cat([torch.zeros_like(token), token])
        beside = self.image_latents.expand(batch, -1, -1, -1)
        beside = torch.cat([torch.zeros_like(beside), beside])

        def guided(noisy: Tensor, timesteps: Tensor) -> Tensor:
            noise = self.predict(
                torch.cat([noisy.repeat(2, 1, 1, 1).to(beside.dtype), beside], dim=1),
                timesteps.repeat(2),
                embeddings,
            )
            unconditional, conditional = noise.chunk(2)
            return unconditional + self.cfg.guidance_scale * (conditional - unconditional)

        with torch.autocast(rgb.device.type, enabled=False):
            return self.distil(self.encode_images(rgb.float(), rgb_as_latents), guided)


@threestudio.register("stable-zero123-guidance")
class StableZero123Guidance(Zero123Guidance):
    """Its fourth number is the picture's own polar angle."""

    @dataclass
    class Config(Zero123Guidance.Config):
        pretrained_model_name_or_path: str = "load/zero123/stable-zero123.ckpt"

    cfg: Config

    def last_number(self, camera_distances: Tensor) -> Tensor:
        return torch.full_like(camera_distances, math.radians(90 - self.cfg.cond_elevation_deg))
