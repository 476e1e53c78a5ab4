"""`views`: pictures of an object become views from around it, as many times as wanted, the best first."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from imagedream.cli.verb import OutPath, Verb, check_ending, choose_device, say
from imagedream.runs.ranges import Count, ElevationDeg, NotNegative, Positive, Seed, Size

if TYPE_CHECKING:
    from imagedream.image_prompt.prompt import ImagePrompt
    from imagedream.metrics import ViewScores
    from imagedream.pipeline import ImageDreamOutput, ImageDreamPipeline

logger = logging.getLogger(__name__)

WEIGHTS = ("ip_weight", "pixel_weight", "caption_weight")


@dataclass(frozen=True)
class Views(Verb):
    """Pictures and prompt -> four views, labelled front, left, back and right, with their scores in a JSON file beside."""

    pictures: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG, JPEG, WebP, ..., of any colour mode; several must show the same object."""
    prompt: str = ""
    """What the object is."""
    front: Path | None = None
    """A picture of the object's front; a picture counts most in the views from its own side."""
    left: Path | None = None
    """Likewise of its own left side."""
    back: Path | None = None
    """Likewise of its back."""
    right: Path | None = None
    """Likewise of its right side."""
    prompt_temperature: Positive | None = None
    """The larger, the less it matters which side a picture shows; by default 0.5."""
    out: OutPath = Path("views.png")
    """Picture to write (.png, .jpg or .webp); the JSON file gets the same name."""
    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    adapter: Path | None = None
    """File of a LoRA adapter, such as OUT/adapter.safetensors of a training with `lora`."""
    adapter_scale: float = 1.0
    """How much of it; 0 is none."""
    seed: Seed = 0
    """Other seeds give other views."""
    seeds: Size = 1
    """How many seeds to try: `seed`, `seed` + 1, ...; the picture shows all of them, best first."""
    sampler: Literal["ddim", "dpm"] | None = None
    """From noise by `ddim`, or by `dpm` (DPM-Solver++), which needs fewer steps; by default what suits the model."""
    steps: Count | None = None
    """Sampler steps; by default 50 of ddim, 20 of dpm, or what suits the model."""
    guidance_scale: NotNegative | None = None
    """Strength of classifier-free guidance; 1 for none; by default what suits the model."""
    negative_prompt: str | None = None
    """What guidance moves away from; by default what suits the model."""
    prompt_suffix: str | None = None
    """Added to the prompt unless it says "3d"; by default what suits the model: ", 3d asset" for published weights."""
    ip_weight: NotNegative = 1.0
    """Of the image tokens: 0 switches them off, 1 is the model as trained."""
    pixel_weight: NotNegative = 1.0
    """Of the prompt's frame, likewise."""
    caption_weight: NotNegative = 1.0
    """Of the prompt's text, likewise."""
    elevation_deg: tuple[ElevationDeg, ...] = (5.0,)
    """Height angle of the cameras: one for all, or one for each."""
    azimuth_deg: float = 0.0
    """Angle of the first of four cameras; 0 is the object's front."""
    azimuths: tuple[float, ...] = ()
    """Angles of the cameras in degrees instead, any number of them: 0 45 90 ... makes eight views around."""
    order: Literal["front-first", "official"] = "front-first"
    """Of the four cameras: `official` begins at the right side, as the released code does; the front is its second view."""
    background: str = "white"
    """Colour behind the views: a name, #rrggbb, or "rgb(128, 128, 128)"; the official demo draws a grey."""
    keep_framing: bool = False
    """Leave the object where it stands in its picture, in its size; otherwise it is centred and fills the frame."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        # whatever can be wrong is found before the weights are read
        check_ending(self.out, (".png", ".jpg", ".jpeg", ".webp"))
        self._background()
        self._angles()
        from imagedream import checkpoints
        from imagedream.cameras import VIEW_NAMES
        from imagedream.controller_weights import ControllerWeights
        from imagedream.image_prompt.multi_image import with_azimuths
        from imagedream.image_prompt.prompt import OBJECT_FRACTION, load_image_prompt
        from imagedream.memory_options import precision

        weights = ControllerWeights(**{name: getattr(self, name) for name in WEIGHTS})
        checkpoints.check(self.weights)
        if self.adapter is not None:
            checkpoints.check_adapter(self.adapter)
        device = choose_device(self.device)
        files = with_azimuths(self.pictures, {side: getattr(self, side) for side in VIEW_NAMES})
        if not files and not self.prompt:
            raise ValueError("no picture and no --prompt: the model must be told of the object somehow")
        fraction = None if self.keep_framing else OBJECT_FRACTION
        prompts = [
            replace(load_image_prompt(path, object_fraction=fraction), azimuth_deg=azimuth)
            for path, azimuth in files
        ]
        adapter = {"adapter": self.adapter, "adapter_scale": self.adapter_scale}
        pipeline = checkpoints.load(self.weights, dtype=precision("auto", device), device=device, **adapter)
        if self.weights == "toybox":
            logger.info("the small model knows toybox objects only; of other things expect a rough guess")
        settings = self._settings(pipeline)
        ranked = self._sample(pipeline, prompts, settings, weights)
        self._save(pipeline, files, settings, ranked)
        say(self.out)

    def _background(self) -> tuple[float, float, float]:
        import PIL.ImageColor

        try:
            red, green, blue = PIL.ImageColor.getrgb(self.background)[:3]
        except ValueError as error:
            raise ValueError(
                f'--background is {self.background!r}, must be a colour such as white, #808080 or "rgb(128, 128, 128)"'
            ) from error
        return red / 255, green / 255, blue / 255

    def _angles(self) -> dict[str, list[float]]:
        """Azimuths and elevations of the cameras in degrees."""
        from imagedream.cameras import camera_angles

        if self.azimuths and (self.azimuth_deg or self.order == "official"):
            raise ValueError(
                "--azimuths says where all cameras are; --azimuth-deg and --order are for four of them"
            )
        start = self.azimuth_deg - (90 if self.order == "official" else 0)
        azimuths = self.azimuths or [start + 90 * view for view in range(4)]
        elevation = self.elevation_deg[0] if len(self.elevation_deg) == 1 else self.elevation_deg
        angles = camera_angles(azimuths, elevation)
        return dict(zip(("azimuths_deg", "elevations_deg"), (each.tolist() for each in angles), strict=True))

    def _settings(self, pipeline: "ImageDreamPipeline") -> dict[str, Any]:
        """All numbers of a call, and a sampler for it: what was not said follows from the sampler and the model."""
        from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE
        from imagedream.pipeline import DEFAULT_STEPS, make_sampler

        steps, strength = pipeline.config.num_inference_steps, pipeline.config.refine_strength
        if self.sampler is not None:
            pipeline.register_modules(scheduler=make_sampler(self.sampler, pipeline.scheduler))
            steps, strength = DEFAULT_STEPS[self.sampler], 1.0
        defaults = {
            "sampler": "the model's",
            "steps": steps,
            "guidance_scale": pipeline.config.guidance_scale,
            "negative_prompt": pipeline.config.negative_prompt,
            "prompt_suffix": pipeline.config.prompt_suffix,
            "prompt_temperature": PROMPT_TEMPERATURE,
        }
        names = (*defaults, "background", *WEIGHTS)
        given = {name: getattr(self, name) for name in names}
        chosen = {name: defaults[name] if value is None else value for name, value in given.items()}
        return {**chosen, "refine_strength": strength, **self._angles()}

    def _sample(
        self,
        pipeline: "ImageDreamPipeline",
        prompts: "list[ImagePrompt]",
        settings: dict[str, Any],
        weights: Any,
    ) -> "list[tuple[int, ImageDreamOutput, ViewScores]]":
        """Views and scores of every seed, best first."""
        from imagedream.metrics import rank_seeds

        named = (
            "negative_prompt",
            "prompt_suffix",
            "refine_strength",
            "guidance_scale",
            "azimuths_deg",
            "prompt_temperature",
        )
        ranked = rank_seeds(
            pipeline,
            range(self.seed, self.seed + self.seeds),
            prompts,
            self.prompt,
            self._background(),
            num_inference_steps=settings["steps"],
            elevation_deg=settings["elevations_deg"],
            weights=weights,
            **{name: settings[name] for name in named},
        )
        for seed, _, scores in ranked:
            logger.info(_heading(seed, scores))
        return ranked

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
            "prompt": self.prompt,
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
