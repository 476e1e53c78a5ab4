"""Score distillation with Stable Diffusion."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.guidance.latent_diffusion import LatentDiffusionGuidance
from threestudio.models.prompt_processors.base import PromptProcessorOutput
from threestudio.utils.ops import perpendicular_component


@threestudio.register("stable-diffusion-guidance")
class StableDiffusionGuidance(LatentDiffusionGuidance):
    """A caption, worded for each view's side, pulls each render on its own."""

    @dataclass
    class Config(LatentDiffusionGuidance.Config):
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        guidance_scale: float = 100.0
        view_dependent_prompting: bool = True
        weighting_strategy: str = "sds"

    cfg: Config

    def configure(self) -> None:
        if self.cfg.weighting_strategy not in WEIGHTS:
            raise ValueError(
                f"weighting_strategy is {self.cfg.weighting_strategy!r}, must be one of {', '.join(WEIGHTS)}"
            )
        super().configure()

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
        cameras = (elevation, azimuth, camera_distances, self.cfg.view_dependent_prompting)
        scale, batch = self.cfg.guidance_scale, len(rgb)

        def guided(noisy: Tensor, timesteps: Tensor) -> Tensor:
            if prompt_utils.use_perp_neg:
                embeddings, weights = prompt_utils.get_text_embeddings_perp_neg(*cameras)
                noise = self.predict(noisy.repeat(4, 1, 1, 1), timesteps.repeat(4), embeddings)
                text, unconditional = noise[:batch], noise[batch : 2 * batch]
                direction = text - unconditional
                for number in range(weights.shape[1]):  # the two negatives of an image lie side by side
                    away = noise[2 * batch :][number :: weights.shape[1]] - unconditional
                    away = perpendicular_component(away, text - unconditional)
                    direction = direction + weights[:, number].view(-1, 1, 1, 1) * away
                return unconditional + scale * direction
            embeddings = prompt_utils.get_text_embeddings(*cameras)
            noise = self.predict(noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), embeddings)
            text, unconditional = noise.chunk(2)
            return text + scale * (text - unconditional)

        with torch.autocast(rgb.device.type, enabled=False):
            latents = self.encode_images(rgb.float(), rgb_as_latents)
            return self.distil(latents, guided, WEIGHTS[self.cfg.weighting_strategy])


WEIGHTS = {
    "sds": lambda alpha: 1 - alpha,
    "uniform": torch.ones_like,
    "fantasia3d": lambda alpha: alpha.sqrt() * (1 - alpha),
}
"""Of the cumulated α at a timestep."""
