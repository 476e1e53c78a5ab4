"""How well a pipeline's four views agree with the true views of objects it has never seen."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream.cameras import VIEW_NAMES
from imagedream.metrics import hull_agreement, image_scores, psnr, silhouette
from imagedream.pictures import contact_sheet, over_white
from imagedream.pipeline import ImageDreamPipeline
from imagedream.workshop.evaluation.bootstrap_intervals import FEWEST, mean_interval
from imagedream.workshop.evaluation.held_out_objects import HeldOutCase, trivial_answers
from imagedream.workshop.evaluation.paper_metrics import Clip, titled
from imagedream.workshop.evaluation.perceptual_distance import PerceptualDistance
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results

logger = logging.getLogger(__name__)

MODEL = "model"
"""Name of the pipeline's sample among the answers."""

MEAN = "mean prediction"
"""Name of what the network predicts in one step."""


@dataclass(frozen=True)
class CaseResult:
    """One object: scores of each answer, and the pictures."""

    case: HeldOutCase
    scores: dict[str, dict[str, float]]
    """Answer ("model", "mean prediction", "blank white", …) -> metric -> mean over the four views."""
    view_psnr_db: tuple[float, ...]
    """The model's front, left, back and right."""
    images: Float[Tensor, "view 3 size size"]
    true: Float[Tensor, "view 3 size size"]


@dataclass(frozen=True)
class ViewsEvaluation:
    """Scores of a pipeline on held-out objects."""

    results: tuple[CaseResult, ...]
    settings: dict[str, str | int | float]

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """Answer -> metric -> mean over the objects."""
        answers = self.results[0].scores
        return {answer: mean_scores([result.scores[answer] for result in self.results]) for answer in answers}

    @property
    def interval(self) -> dict[str, dict[str, tuple[float, float]]]:
        """Answer -> metric -> 95 % interval of its mean over such objects; empty of fewer than `FEWEST`."""
        if len(self.results) < FEWEST:
            return {}
        return {
            answer: {name: mean_interval([r.scores[answer][name] for r in self.results]) for name in scores}
            for answer, scores in self.mean.items()
        }

    @property
    def mean_view_psnr_db(self) -> dict[str, float]:
        """The model's PSNR for each side."""
        values = torch.tensor([result.view_psnr_db for result in self.results]).mean(0).tolist()
        return dict(zip(VIEW_NAMES, values, strict=True))

    def table(self) -> str:
        """Markdown tables: the model beside the trivial answers, and the model on each side and for each kind."""
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        answers = [{"answer": answer, **titled(scores)} for answer, scores in self.mean.items()]
        if interval := self.interval:
            ends = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in interval[MODEL].items()}
            answers.insert(1, {"answer": "95 % interval", **titled(ends)})
        sides = [{"side": side, "PSNR (dB)": value} for side, value in self.mean_view_psnr_db.items()]
        by_kind: dict[str, list[dict[str, float]]] = {}
        for result in self.results:
            by_kind.setdefault(result.case.object.kind, []).append(result.scores[MODEL])
        kinds = [
            {"kind": kind, "objects": len(scores), **titled(mean_scores(scores))}
            for kind, scores in by_kind.items()
        ]
        tables = [markdown_table(rows) for rows in (answers, sides, kinds)]
        return "\n\n".join([f"Four views of held-out objects ({settings})", *tables])

    def to_dict(self) -> dict:
        """Everything but the pictures, as JSON can hold it."""
        toys = [
            {
                "toy": result.case.label,
                "caption": result.case.object.caption,
                "elevation_deg": result.case.orbit.elevation_deg,
                "prompt_azimuth_deg": result.case.prompt_azimuth_deg,
                "prompt_elevation_deg": result.case.prompt_elevation_deg,
                "scores": result.scores,
                "view_psnr_db": list(result.view_psnr_db),
            }
            for result in self.results
        ]
        return {
            "settings": self.settings,
            "mean": self.mean,
            "interval": self.interval,
            "mean_view_psnr_db": self.mean_view_psnr_db,
            "toys": toys,
        }

    def save(self, folder: str | Path, contact_sheet_toys: int = 16) -> None:
        """Write `views.md`, `views.json`, and `views.png`: prompt, true views and the model's of the first toys."""
        names = ["prompt", *(f"true {name}" for name in VIEW_NAMES), *VIEW_NAMES]
        rows = [
            [over_white(result.case.prompt), *result.true, *result.images]
            for result in self.results[:contact_sheet_toys]
        ]
        save_results(Path(folder) / "views", self.table(), self.to_dict(), contact_sheet(names, rows))


def evaluate_views(
    pipeline: ImageDreamPipeline,
    cases: Sequence[HeldOutCase],
    seed: int = 0,
    guidance_scale: float | None = None,
    steps: int | None = None,
    captions: bool = True,
    samples: int = 1,
    clip: Clip | None = None,
    perceptual: PerceptualDistance | None = None,
    settings: Mapping[str, str | int | float] | None = None,
) -> ViewsEvaluation:
    """Ask a pipeline for the four views of held-out objects and compare them with the truth.

    Three answers are the model's: a sample; the prediction made in one step without guidance, which is the mean of all that
    the views may be, blurred where they may differ; and, of more samples than one, the one nearest to the truth, which tells
    whether the truth is among what the model holds possible.

    Args:
        pipeline: what is measured.
        cases: `held_out_cases` or `held_out_meshes`, with prompts of `pipeline.prompt_size`.
        seed: decides the noise; case i has seed `seed + i`.
        guidance_scale: see `ImageDreamPipeline.__call__`.
        steps: of the sampler; None for what suits the model.
        captions: whether the model is told the object's caption besides the picture.
        samples: how many are drawn of each object.
        clip: gives the CLIP scores; None leaves them out.
        perceptual: gives the perceptual distance; None leaves it out.
        settings: what a table says besides about its objects.

    Returns:
        Scores and pictures, the model's beside those of trivial answers.
    """
    if guidance_scale is None:
        guidance_scale = pipeline.config.guidance_scale
    if steps is None:
        steps = pipeline.config.num_inference_steps
    results = []
    for number, case in enumerate(cases):
        ask = partial(
            pipeline,
            case.prompt,
            case.object.caption if captions else "",
            elevation_deg=case.orbit.elevation_deg,
            # the object's own front, wherever the network counts from
            azimuth_deg=-case.prompt_azimuth_deg if pipeline.unet.config.cameras == "relative" else 0.0,
            output_type="pt",
        )
        generator = torch.Generator().manual_seed(seed + number)
        sampled = [
            ask(guidance_scale=guidance_scale, num_inference_steps=steps, generator=generator).images.cpu()
            for _ in range(samples)
        ]
        mean = ask(
            guidance_scale=1.0, refine_strength=0.0, generator=torch.Generator().manual_seed(seed + number)
        )
        result = score_case(case, sampled, mean.images.cpu(), clip, perceptual)
        logger.info("%d/%d %s: %.2f dB", number + 1, len(cases), case.label, result.scores[MODEL]["psnr_db"])
        results.append(result)
    described = {
        "objects": len(cases),
        "seed": seed,
        "guidance": guidance_scale,
        "steps": steps,
        **({"refine strength": strength} if (strength := pipeline.config.refine_strength) < 1 else {}),
        "pixels": pipeline.image_size,
        "captions": "yes" if captions else "no",
        "negative prompt": pipeline.config.negative_prompt or "none",
        **(settings or {}),
        **({} if clip is None else {"CLIP": clip.name}),
        **({} if perceptual is None else {"perceptual": perceptual.name}),
    }
    return ViewsEvaluation(tuple(results), described)


def score_case(
    case: HeldOutCase,
    sampled: Sequence[Float[Tensor, "view 3 size size"]],
    mean: Float[Tensor, "view 3 size size"],
    clip: Clip | None = None,
    perceptual: PerceptualDistance | None = None,
) -> CaseResult:
    """Scores of four views of one object, the first sample's as `MODEL`, and of the trivial answers."""
    images, size, orbit = sampled[0], sampled[0].shape[-1], case.orbit
    true = orbit.on_white(case.object.mesh, size)
    prompt = over_white(case.prompt)
    answers = {MODEL: images, MEAN: mean}
    if len(sampled) > 1:
        answers[f"best of {len(sampled)}"] = max(sampled, key=lambda views: float(psnr(views, true).mean()))
    scores = {}
    for name, views in {**answers, **trivial_answers(case, size, orbit)}.items():
        hull = hull_agreement(silhouette(views), orbit.azimuths_deg, orbit.elevation_deg, orbit.fov_y_deg)
        scores[name] = {**image_scores(views, true), "hull": float(hull.mean())}
        if perceptual is not None:
            scores[name]["perceptual"] = float(perceptual(views, true).mean())
        if clip is not None:
            scores[name]["clip_image"] = clip.image_similarity(views, prompt)
            scores[name]["clip_text"] = clip.text_similarity(views, case.object.caption)
    return CaseResult(case, scores, tuple(psnr(images, true).tolist()), images, true)
