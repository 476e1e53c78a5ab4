"""`views`: pictures of an object become four views, as many times as wanted, the best first."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from imagedream.cli.verb import OutPath, Verb, check_ending, check_least, choose_device, say

if TYPE_CHECKING:
    from imagedream.image_prompt.prompt import ImagePrompt
    from imagedream.metrics import ViewScores
    from imagedream.pipeline import ImageDreamOutput, ImageDreamPipeline

logger = logging.getLogger(__name__)

WEIGHTS = ("ip_weight", "pixel_weight", "caption_weight")


@dataclass(frozen=True)
class Views(Verb):
    """Pictures and caption -> four views, labelled front, left, back and right, with their scores in a JSON file beside."""

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG, JPEG, WebP, ..., of any colour mode; several must show the same object."""
    caption: str = ""
    """What the object is."""
    front: Path | None = None
    """A picture of the object's front; a picture counts most in the views from its own side."""
    left: Path | None = None
    """Likewise of its own left side."""
    back: Path | None = None
    """Likewise of its back."""
    right: Path | None = None
    """Likewise of its right side."""
    prompt_temperature: float | None = None
    """The larger, the less it matters which side a picture shows; by default 0.5."""
    out: OutPath = Path("views.png")
    """Picture to write (.png, .jpg or .webp); the JSON file gets the same name."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    adapter: Path | None = None
    """File of a LoRA adapter, such as OUT/adapter.safetensors of a training with `lora`."""
    adapter_scale: float = 1.0
    """How much of it; 0 is none."""
    seed: int = 0
    """Other seeds give other views."""
    seeds: int = 1
    """How many seeds to try: `seed`, `seed` + 1, ...; the picture shows all of them, best first."""
    sampler: Literal["ddim", "dpm"] = "ddim"
    """`ddim`, or `dpm` (DPM-Solver++), which needs fewer steps."""
    steps: int | None = None
    """Sampler steps; by default 50 of ddim, 20 of dpm."""
    guidance_scale: float | None = None
    """Strength of classifier-free guidance; 1 for none; by default what suits the model."""
    negative_caption: str | None = None
    """What guidance moves away from; by default what suits the model."""
    ip_weight: float = 1.0
    """Of the image tokens: 0 switches them off, 1 is the model as trained."""
    pixel_weight: float = 1.0
    """Of the prompt's frame, likewise."""
    caption_weight: float = 1.0
    """Of the caption, likewise."""
    elevation_deg: float = 5.0
    """Height angle of the four cameras."""
    azimuth_deg: float = 0.0
    """Angle of the first camera; 0 is the object's front."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        # whatever can be wrong is found before the weights are read
        self._check_numbers()
        from imagedream import checkpoints
        from imagedream.cameras import VIEW_NAMES, check_angles
        from imagedream.controller_weights import ControllerWeights
        from imagedream.image_prompt.multi_image import with_azimuths
        from imagedream.image_prompt.prompt import load_image_prompt

        check_angles(self.elevation_deg)
        weights = ControllerWeights(**{name: getattr(self, name) for name in WEIGHTS})
        checkpoints.check(self.weights)
        if self.adapter is not None:
            checkpoints.check_adapter(self.adapter)
        device = choose_device(self.device)
        files = with_azimuths(self.pictures, {side: getattr(self, side) for side in VIEW_NAMES})
        if not files and not self.caption:
            raise ValueError("no picture and no --caption: the model must be told of the object somehow")
        prompts = [replace(load_image_prompt(path), azimuth_deg=azimuth) for path, azimuth in files]
        import torch

        dtype = torch.float16 if device.type == "cuda" else torch.float32
        adapter = {"adapter": self.adapter, "adapter_scale": self.adapter_scale}
        pipeline = checkpoints.load(self.weights, dtype=dtype, device=device, **adapter)
        if self.weights == "toybox":
            logger.info("the small model knows toybox objects only; of other things expect a rough guess")
        settings = self._settings(pipeline)
        ranked = self._sample(pipeline, prompts, settings, weights)
        self._save(pipeline, files, settings, ranked)
        say(self.out)

    def _check_numbers(self) -> None:
        check_ending(self.out, (".png", ".jpg", ".jpeg", ".webp"))
        check_least("--seed", self.seed, 0)
        check_least("--seeds", self.seeds, 1)
        check_least("--steps", self.steps, 1)
        check_least("--guidance-scale", self.guidance_scale, 0, " (1 means no guidance)")
        if self.prompt_temperature is not None and not self.prompt_temperature > 0:
            raise ValueError(f"--prompt-temperature is {self.prompt_temperature}, must be greater than 0")

    def _settings(self, pipeline: "ImageDreamPipeline") -> dict[str, Any]:
        """All numbers of a call, and a sampler for it: what was not said follows from the sampler and the model."""
        from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE
        from imagedream.pipeline import DEFAULT_STEPS, make_sampler

        pipeline.register_modules(scheduler=make_sampler(self.sampler, pipeline.scheduler))
        defaults = {
            "steps": DEFAULT_STEPS[self.sampler],
            "guidance_scale": pipeline.config.guidance_scale,
            "negative_caption": pipeline.config.negative_caption,
            "prompt_temperature": PROMPT_TEMPERATURE,
        }
        names = ("sampler", *defaults, "elevation_deg", "azimuth_deg", *WEIGHTS)
        given = {name: getattr(self, name) for name in names}
        return {name: defaults[name] if value is None else value for name, value in given.items()}

    def _sample(
        self,
        pipeline: "ImageDreamPipeline",
        prompts: "list[ImagePrompt]",
        settings: dict[str, Any],
        weights: Any,
    ) -> "list[tuple[int, ImageDreamOutput, ViewScores]]":
        """Views and scores of every seed, best first."""
        import torch

        from imagedream.metrics import score_views

        named = ("negative_caption", "guidance_scale", "elevation_deg", "azimuth_deg", "prompt_temperature")
        results = []
        for seed in range(self.seed, self.seed + self.seeds):
            output = pipeline(
                images=prompts,
                caption=self.caption,
                num_inference_steps=settings["steps"],
                weights=weights,
                generator=torch.Generator().manual_seed(seed),
                **{name: settings[name] for name in named},
            )
            scores = score_views(pipeline.encoder, output, [prompt.rgba for prompt in prompts], self.caption)
            logger.info(_heading(seed, scores))
            results.append((seed, output, scores))
        return sorted(results, key=lambda result: -result[2].total)

    def _save(
        self,
        pipeline: "ImageDreamPipeline",
        files: list[tuple[Path, float | None]],
        settings: dict[str, Any],
        ranked: "list[tuple[int, ImageDreamOutput, ViewScores]]",
    ) -> None:
        """The sheet, and the numbers beside it."""
        from imagedream.metrics import clip_unavailable
        from imagedream.pictures import label_strip, stack_under_headings
        from imagedream.runs.files import atomic_path

        no_clip = clip_unavailable(pipeline.encoder)
        if no_clip:
            logger.info("no CLIP score: %s", no_clip)
        record = {
            "caption": self.caption,
            "pictures": [{"file": str(path), "azimuth_deg": azimuth} for path, azimuth in files],
            "weights": self.weights,
            "adapter": None if self.adapter is None else str(self.adapter),
            "adapter_scale": self.adapter_scale,
            "settings": settings,
            "clip_unavailable": no_clip,
            "seeds": [{"seed": seed, **scores.to_dict()} for seed, _, scores in ranked],
        }
        strips = [
            (_heading(seed, scores), label_strip(output.images, output.azimuths_deg))
            for seed, output, scores in ranked
        ]
        sheet = strips[0][1] if len(strips) == 1 else stack_under_headings(strips)
        with atomic_path(self.out) as picture, atomic_path(self.out.with_suffix(".json")) as numbers:
            sheet.save(picture)
            numbers.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _heading(seed: int, scores: "ViewScores") -> str:
    clip = "not available" if scores.clip is None else f"{scores.clip:.3f}"
    return f"seed {seed}: score {scores.total:.3f} (CLIP {clip}, hull {scores.hull:.3f})"
