"""The paper's evaluation of diffused views (§4.1, Table 1): pictures and captions, no true views."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream.cameras import VIEW_NAMES
from imagedream.image_prompt.prompt import ImagePrompt, load_image_prompt
from imagedream.metrics import hull_agreement, silhouette
from imagedream.pictures import contact_sheet, over_white
from imagedream.pipeline import ImageDreamPipeline
from imagedream.workshop.evaluation.paper_metrics import (
    METRICS,
    Clip,
    InceptionClassifier,
    mean_and_deviation,
    paper_scores,
    titled,
)
from imagedream.workshop.evaluation.tables import markdown_table, save_results
from imagedream.workshop.rendering.captioned_files import Item

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PictureResult:
    """One prompt's views and their scores."""

    name: str
    picture: ImagePrompt
    caption: str
    scores: dict[str, float]
    images: Float[Tensor, "view 3 size size"]


@dataclass(frozen=True)
class PicturesEvaluation:
    """Scores of a pipeline on pictures."""

    results: tuple[PictureResult, ...]
    settings: dict[str, str | int | float]

    @property
    def means(self) -> dict[str, tuple[float, float]]:
        """Metric -> mean and standard deviation over the pictures (paper: mean ± std)."""
        values: dict[str, list[float]] = {}
        for result in self.results:
            for metric, value in result.scores.items():
                values.setdefault(metric, []).append(value)
        return {metric: mean_and_deviation(each) for metric, each in values.items()}

    def table(self) -> str:
        """Two Markdown tables: mean ± standard deviation as in the paper, and each picture."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        means = {METRICS[metric]: f"{mean:.2f} ± {std:.2f}" for metric, (mean, std) in self.means.items()}
        rows = [{"picture": result.name, **titled(result.scores)} for result in self.results]
        return f"Four views of pictures ({settings})\n\n{markdown_table([means])}\n\n{markdown_table(rows)}"

    def to_dict(self) -> dict:
        """Everything but the pictures, as JSON can hold it."""
        pictures = [
            {"picture": result.name, "caption": result.caption, "scores": result.scores}
            for result in self.results
        ]
        return {"settings": self.settings, "mean_and_deviation": self.means, "pictures": pictures}

    def save(self, folder: str | Path) -> None:
        """Write `pictures.md`, `pictures.json` and `pictures.png` (prompt and views of each)."""
        rows = [[over_white(result.picture.rgba), *result.images] for result in self.results]
        sheet = contact_sheet(["prompt", *VIEW_NAMES], rows)
        save_results(Path(folder) / "pictures", self.table(), self.to_dict(), sheet)


def evaluate_pictures(
    pipeline: ImageDreamPipeline,
    items: Sequence[Item],
    clip: Clip | None,
    inception: InceptionClassifier | None = None,
    seed: int = 0,
    guidance_scale: float | None = None,
    steps: int | None = None,
    elevation_deg: float = 5.0,
) -> PicturesEvaluation:
    """Make four views of each picture and score them.

    Args:
        pipeline: what is measured.
        items: pictures with captions, see `imagedream.workshop.rendering.captioned_files.file_items`.
        clip: gives CLIP(TX), of pictures with a caption, and CLIP(IM); None leaves them out.
        inception: gives QIS, mean over the views; None leaves it out.
        seed: picture i has seed `seed + i`.
        guidance_scale: see `ImageDreamPipeline.__call__`.
        steps: of the sampler; None for what suits the model.
        elevation_deg: of the views' cameras; the paper's 5.
    """
    if guidance_scale is None:
        guidance_scale = pipeline.config.guidance_scale
    if steps is None:
        steps = pipeline.config.num_inference_steps
    # each picture is read before any view is made: a broken one is noticed at once
    read = [(item.key, load_image_prompt(item.source), item.caption or "") for item in items]
    results = []
    for number, (name, picture, caption) in enumerate(read):
        output = pipeline(
            picture,
            caption,
            guidance_scale=guidance_scale,
            num_inference_steps=steps,
            elevation_deg=elevation_deg,
            generator=torch.Generator().manual_seed(seed + number),
            output_type="pt",
        )
        views = output.images.float().cpu()
        scores = paper_scores(views, picture.rgba, caption, clip, inception)
        agreement = hull_agreement(silhouette(views), output.azimuths_deg, elevation_deg)
        scores["hull"] = float(agreement.mean())
        logger.info("%d/%d %s", number + 1, len(read), name)
        results.append(PictureResult(name, picture, caption, scores, views))
    settings = {
        "pictures": len(read),
        "seed": seed,
        "guidance": guidance_scale,
        "steps": steps,
        **({"refine strength": strength} if (strength := pipeline.config.refine_strength) < 1 else {}),
        "pixels": pipeline.image_size,
        "elevation": f"{elevation_deg:g}°",
        "negative prompt": pipeline.config.negative_prompt or "none",
        "CLIP": "none" if clip is None else clip.name,
    }
    return PicturesEvaluation(tuple(results), settings)
