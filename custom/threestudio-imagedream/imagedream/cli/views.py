"""`views`: a picture becomes four views."""

import logging
from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import Verb, check_ending, choose_device, say

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Views(Verb):
    """Picture and caption -> four views, labelled front, left, back and right."""

    picture: tyro.conf.Positional[Path] = tyro.MISSING
    """PNG, JPEG, WebP, ...; of any colour mode."""
    caption: str = ""
    """What the object is."""
    out: Path = Path("views.png")
    """Picture to write (.png, .jpg or .webp)."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    seed: int = 0
    """Other seeds give other views."""
    steps: int = 50
    """Sampler steps."""
    guidance_scale: float = 5.0
    """Strength of classifier-free guidance; 1 for none."""
    elevation_deg: float = 5.0
    """Height angle of the four cameras."""
    azimuth_deg: float = 0.0
    """Angle of the first camera; 0 is the object's front."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        check_ending(self.out, (".png", ".jpg", ".jpeg", ".webp"))
        if self.steps < 1 or self.guidance_scale < 0:
            raise ValueError(
                f"--steps is {self.steps}, must be at least 1; --guidance-scale is {self.guidance_scale}, at least 0"
            )
        from imagedream import checkpoints
        from imagedream.cameras import check_angles
        from imagedream.image_prompt import load_image_prompt

        # whatever can be wrong is found before the weights are read
        check_angles(self.elevation_deg)
        checkpoints.check(self.weights)
        device = choose_device(self.device)
        prompt = load_image_prompt(self.picture)
        import torch

        from imagedream.files import atomic_path
        from imagedream.pictures import label_strip

        dtype = torch.float16 if device.type == "cuda" else torch.float32
        pipeline = checkpoints.load(self.weights, dtype=dtype, device=device)
        if self.weights == "toybox":
            logger.info("the small model knows toybox objects only; of other things expect a rough guess")
        output = pipeline(
            prompt,
            caption=self.caption,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.steps,
            elevation_deg=self.elevation_deg,
            azimuth_deg=self.azimuth_deg,
            generator=torch.Generator().manual_seed(self.seed),
        )
        with atomic_path(self.out) as temporary:
            label_strip(output.images, output.azimuths_deg).save(temporary)
        say(self.out)
