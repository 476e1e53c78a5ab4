"""`evaluate`: how good a model is."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from imagedream.cli.verb import Verb, choose_device, say
from imagedream.runs.ranges import Count, ElevationDeg, NotNegative, Seed

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline
    from imagedream.workshop.evaluation.held_out_objects import HeldOutCase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation(Verb):
    """What all evaluations share."""

    weights: str = "toybox"
    """`toybox` (the small model that ships) or a model folder."""
    seed: Seed = 0
    """Decides noise, and toys and cameras where there are any."""
    steps: Count | None = None
    """Sampler steps; by default what suits the model."""
    guidance_scale: NotNegative | None = None
    """Strength of classifier-free guidance; 1 for none; by default what suits the model."""
    clip: str = "own"
    """CLIP that the CLIP scores are measured with: `own` (the model's encoder), another model or its encoder's folder,
    ARCHITECTURE:WEIGHTS of open_clip (`ViT-H-14:laion2b_s32b_b79k`), or `none`."""
    json: bool = False
    """Print JSON with the numbers of every object instead of the table."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the table, the numbers and a contact sheet."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""

    def run(self) -> None:  # noqa: D102
        # whatever can be wrong is found before the weights are read
        evaluate = self.prepared()
        from imagedream import checkpoints
        from imagedream.metrics import clip_unavailable
        from imagedream.workshop.evaluation.paper_metrics import OWN, check_clip, find_clip

        checkpoints.check(self.weights)
        if self.clip != "none":
            check_clip(self.clip)
        device = choose_device(self.device)
        pipeline = checkpoints.load(self.weights, device=device)
        pipeline.set_progress_bar_config(disable=True)
        lacking = clip_unavailable(pipeline.encoder) if self.clip == OWN else None
        if lacking:
            logger.info("no CLIP scores: %s; --clip names another one", lacking)
        wanted = self.clip != "none" and not lacking
        clip = find_clip(self.clip, pipeline.encoder, device) if wanted else None
        common = {"seed": self.seed, "guidance_scale": self.guidance_scale, "steps": self.steps}
        evaluation = evaluate(pipeline, clip=clip, **common)
        if self.out is not None:
            evaluation.save(self.out)
        say(json.dumps(evaluation.to_dict(), indent=1) if self.json else evaluation.table())

    def prepared(self) -> Callable[..., Any]:
        """Check what is asked for; what is to be done with pipeline, CLIP and the settings that all evaluations have."""
        raise NotImplementedError


@dataclass(frozen=True)
class EvaluateViews(Evaluation):
    """Four views of objects that training never saw against the true ones, beside trivial answers."""

    n: Count = 16
    """How many objects."""
    kinds: tuple[str, ...] = ()
    """Kinds of toys; none for the toybox's first eight, or with `unseen-kinds` for all that this model was not trained on."""
    split: Literal["heldout", "combinations", "unseen-kinds", "train"] = "heldout"
    """`heldout`: toys that training never made; `combinations`: those of them whose kind, body colour and accessory it
    never saw together; `unseen-kinds`: kinds that this model was never trained on; `train`: toys as training makes them, of
    seeds that it did not get to."""
    meshes: str | None = None
    """A folder of mesh files instead of toys. Whether the model was trained on them is not checked."""
    only: str | None = None
    """Which meshes: a text file of names without endings, one a line, or TABLE.csv:SPLIT with columns name, family, split."""
    mesh_captions: str = "auto"
    """CSV file (name, caption), none, or auto: NAME.txt, Objaverse annotations, glTF title, file name."""
    prompt_azimuth_deg: float = 30.0
    """Prompts are taken from up to this far on either side of the front."""
    captions: bool = True
    """Tell the model each object's caption."""
    samples: Count = 1
    """Samples of each object; with more than one the best of them has a row of its own."""
    perceptual: bool = False
    """Measure the perceptual distance too (pip install 'imagedream[perceptual]')."""

    def prepared(self) -> Callable[..., Any]:  # noqa: D102
        from imagedream.workshop.evaluation.perceptual_distance import PerceptualDistance
        from imagedream.workshop.evaluation.views_evaluation import evaluate_views

        make_cases, settings = self._objects()
        perceptual = PerceptualDistance() if self.perceptual else None

        def evaluate(pipeline: "ImageDreamPipeline", **common: Any) -> Any:
            cases = make_cases(prompt_size=pipeline.prompt_size)
            common |= {"perceptual": perceptual, "settings": settings}
            return evaluate_views(pipeline, cases, captions=self.captions, samples=self.samples, **common)

        return evaluate

    def _objects(self) -> tuple[Callable[..., list["HeldOutCase"]], dict[str, Any]]:
        """What makes the cases, and what a table says of them."""
        from imagedream.workshop.evaluation.held_out_objects import (
            check_cases,
            held_out_cases,
            held_out_meshes,
            unseen_toys,
        )
        from imagedream.workshop.rendering.captioned_files import find_items, read_names

        check_cases(self.n, self.kinds or None, self.prompt_azimuth_deg)
        how = {"seed": self.seed, "largest_prompt_azimuth_deg": self.prompt_azimuth_deg}
        settings = {"prompt azimuth": f"±{self.prompt_azimuth_deg:g}°"}
        if self.meshes is None:
            toys = unseen_toys(self.weights, self.split, self.seed, self.n, self.kinds)
            settings |= {name: toys[name] for name in ("split", "combinations")}
            return partial(held_out_cases, self.n, **how, **toys), settings
        if self.kinds or self.split != "heldout":
            raise ValueError("--kinds and --split are about toys; --only chooses among --meshes")
        items = find_items(self.meshes, self.mesh_captions, read_names(self.only))
        if self.n > len(items):
            raise ValueError(f"--n is {self.n}, but there are {len(items)} meshes")
        settings |= {"meshes": Path(self.meshes).name, "only": (self.only and Path(self.only).name) or "all"}
        return partial(held_out_meshes, items, self.n, **how), settings


@dataclass(frozen=True)
class EvaluatePictures(Evaluation):
    """The paper's measures of four views of any pictures (Table 1): QIS, CLIP(TX), CLIP(IM)."""

    folder: tyro.conf.Positional[Path] = tyro.MISSING
    """Folder of pictures, at any depth."""
    captions: str = "auto"
    """`auto` (NAME.txt beside the picture, else the file's name), `none`, or a CSV file of names and captions."""
    inception: str = "none"
    """Inception v3 for QIS: a file of torchvision's weights, `download`, or `none` for no QIS."""
    elevation_deg: ElevationDeg = 5.0
    """Height angle of the four cameras."""

    def prepared(self) -> Callable[..., Any]:  # noqa: D102
        from imagedream.image_prompt.prompt import SUFFIXES
        from imagedream.workshop.evaluation.paper_metrics import InceptionClassifier
        from imagedream.workshop.evaluation.pictures_evaluation import evaluate_pictures
        from imagedream.workshop.rendering.captioned_files import file_items

        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is no folder of pictures")
        pictures = file_items(self.folder, SUFFIXES, "picture", self.captions)
        if self.inception not in ("none", "download") and not Path(self.inception).is_file():
            raise ValueError(f"--inception is {self.inception}: no such file, nor is it download or none")

        def evaluate(pipeline: "ImageDreamPipeline", **common: Any) -> Any:
            inception = None
            if self.inception != "none":
                file = None if self.inception == "download" else Path(self.inception)
                inception = InceptionClassifier(file, pipeline.device)
            return evaluate_pictures(
                pipeline, pictures, inception=inception, elevation_deg=self.elevation_deg, **common
            )

        return evaluate


@dataclass(frozen=True)
class Compare(Verb):
    """Two measurements of the same objects, compared object by object, with intervals of the differences."""

    before: tyro.conf.Positional[Path] = tyro.MISSING
    """The folder that `views` or `pictures` wrote, or a JSON file with a list of `toys` or `pictures`."""
    after: tyro.conf.Positional[Path] = tyro.MISSING
    """Another one."""
    json: bool = False
    """Print JSON instead of the table."""

    def run(self) -> None:  # noqa: D102
        from imagedream.workshop.evaluation.paired_comparison import compare

        comparison = compare(self.before, self.after)
        say(json.dumps(comparison.to_json(), indent=1) if self.json else str(comparison))


@dataclass(frozen=True)
class Evaluate:
    """Metrics of a model, as a table or JSON."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[EvaluateViews, tyro.conf.subcommand("views")]
        | Annotated[EvaluatePictures, tyro.conf.subcommand("pictures")]
        | Annotated[Compare, tyro.conf.subcommand("compare")]
    ]
