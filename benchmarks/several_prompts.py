"""Does it help to show the model several pictures of a toy, from different sides (MultiImageDream)?

    python benchmarks/several_prompts.py --n 16 [--weights toybox] [--out benchmarks/results/several_prompts]

Held-out toys, one to four pictures of each a quarter turn apart. As in `evaluate views` the first is off the toy's
front by up to 30°, and so are the others from their sides; the four views are asked for at another elevation, on
white, with the same noise for every set of pictures. "named" means that the model is told which side each picture
shows. "gain" compares a set with each of its pictures alone: mean over its pictures and the toys, ± standard error
over the toys.
"""

import logging
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

import torch  # noqa: E402
import tyro  # noqa: E402

from imagedream import checkpoints  # noqa: E402
from imagedream.cameras import VIEW_NAMES  # noqa: E402
from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE  # noqa: E402
from imagedream.metrics import image_scores, psnr  # noqa: E402
from imagedream.pipeline import ImageDreamPipeline  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import HeldOutCase, held_out_cases, prompt_picture  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What is run; the defaults are the numbers in benchmarks/results."""

    n: int = 16
    """Number of toys, the kinds taking turns."""
    seed: int = 0
    """Number of the first toy."""
    weights: str = "toybox"
    """Model folder."""
    guidance_scale: float | None = None
    """None is what suits the model."""
    steps: int = 25
    """DDIM steps."""
    prompt_temperature: float = PROMPT_TEMPERATURE
    """Of the weights between named pictures."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""


@dataclass(frozen=True)
class PictureSet:
    """Which sides of a toy the model is shown, and whether it is told which they are."""

    sides: tuple[str, ...]
    named: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        return ", ".join(self.sides) + (" (named)" if self.named else "")


SETS = (
    *(PictureSet((side,)) for side in VIEW_NAMES),
    *(
        PictureSet(sides, named)
        for sides in (("front", "back"), ("front", "left"), VIEW_NAMES)
        for named in (False, True)
    ),
)


def run_toy(
    pipeline: ImageDreamPipeline, case: HeldOutCase, noise_seed: int, settings: Settings
) -> dict[str, dict[str, float]]:
    """Scores of every set of pictures of one toy, by the set's name."""
    size = pipeline.image_size
    true = case.orbit.on_white(case.object.mesh, size)
    pictures = {
        side: prompt_picture(
            case.object,
            case.prompt_azimuth_deg + 90.0 * quarter,
            case.prompt_elevation_deg,
            pipeline.prompt_size,
        )
        for quarter, side in enumerate(VIEW_NAMES)
    }
    scores = {}
    for chosen in SETS:
        shown = {side: pictures[side] for side in chosen.sides}
        output = pipeline(
            prompt=case.object.caption,
            guidance_scale=settings.guidance_scale,
            num_inference_steps=settings.steps,
            elevation_deg=case.orbit.elevation_deg,
            prompt_temperature=settings.prompt_temperature,
            generator=torch.Generator().manual_seed(noise_seed),
            output_type="pt",
            **(shown if chosen.named else {"images": list(shown.values())}),
        )
        images = output.images.cpu()
        of_views = psnr(images, true).tolist()
        scores[chosen.name] = {**image_scores(images, true), **dict(zip(VIEW_NAMES, of_views, strict=True))}
    return scores


def gain(toys: list[dict], chosen: PictureSet) -> tuple[float, float]:
    """Mean gain in dB of a set over its pictures alone, and its standard error over the toys."""
    gains = torch.tensor(
        [
            toy["scores"][chosen.name]["psnr_db"]
            - sum(toy["scores"][side]["psnr_db"] for side in chosen.sides) / len(chosen.sides)
            for toy in toys
        ]
    )
    return float(gains.mean()), float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.nan


def table(toys: list[dict]) -> str:
    """A row for each set of pictures."""
    rows = []
    for chosen in SETS:
        means = mean_scores([toy["scores"][chosen.name] for toy in toys])
        row = {
            "N": len(chosen.sides),
            "pictures from": chosen.name,
            "PSNR (dB)": means["psnr_db"],
            "SSIM": means["ssim"],
            "silhouette IoU": means["iou"],
            "gain (dB)": "{:+.2f} ± {:.2f}".format(*gain(toys, chosen)) if len(chosen.sides) > 1 else None,
        }
        rows.append({**row, **{f"{side} (dB)": means[side] for side in VIEW_NAMES}})
    return markdown_table(rows)


def main(settings: Settings) -> int:
    """Run, print and write."""
    logging.getLogger("imagedream").setLevel(logging.WARNING)
    cases = held_out_cases(settings.n, settings.seed)
    pipeline = checkpoints.load(settings.weights)
    pipeline.set_progress_bar_config(disable=True)
    toys = []
    for number, case in enumerate(cases):
        toys.append({"toy": case.label, "scores": run_toy(pipeline, case, settings.seed + number, settings)})
        summary = "  ".join(f"{name} {scores['psnr_db']:.2f}" for name, scores in toys[-1]["scores"].items())
        print(f"{number + 1}/{len(cases)} {case.label}: {summary}", flush=True)
    told = {key: value for key, value in asdict(settings).items() if key != "out"}
    text = f"{', '.join(f'{name} {value}' for name, value in told.items())}\n\n{table(toys)}"
    print("\n" + text)
    if settings.out is not None:
        save_results(settings.out, f"# Several prompts\n\n{text}", {"settings": told, "toys": toys})
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
