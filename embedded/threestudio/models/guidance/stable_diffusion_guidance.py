"""Score distillation with Stable Diffusion."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.guidance.latent_diffusion import LatentDiffusionGuidance
from threestudio.models.prompt_processors.base import PromptProcessorOutput


@threestudio.register("stable-diffusion-guidance")
class StableDiffusionGuidance(LatentDiffusionGuidance):
    """A caption, worded for each view's side, pulls each render on its own."""

    @dataclass
    class Config(LatentDiffusionGuidance.Config):
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        guidance_scale: float = 100.0
        view_dependent_prompting: bool = True

    cfg: Config

    def __call__(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: PromptProcessorOutput,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        rgb_as_latents: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        embeddings = prompt_utils.get_text_embeddings(
            elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting
        )

        def guided(noisy: Tensor, timesteps: Tensor) -> Tensor:
            noise = self.predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), embeddings)
            text, unconditional = noise.chunk(2)
            return text + self.cfg.guidance_scale * (text - unconditional)

        with torch.autocast(rgb.device.type, enabled=False):
            return self.distil(self.encode_images(rgb.float(), rgb_as_latents), guided)
