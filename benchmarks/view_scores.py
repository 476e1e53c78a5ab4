"""Do the scores by which `views --seeds` ranks its results find the better ones? Held-out toys, where the truth is known.

    python benchmarks/view_scores.py --n 16 --seeds 4 [--sampler dpm] [--out benchmarks/results/view_scores]

Several seeds for each toy. "picked" is the true PSNR of the seed that a score puts first, "gain" its distance from the
mean over the seeds (± standard error over the toys), "correlation" that of score and PSNR after each toy's means are
taken away.
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
from imagedream.metrics import image_scores, score_views  # noqa: E402
from imagedream.pipeline import DEFAULT_STEPS, Sampler, make_sampler  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import held_out_cases  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What is run; the defaults are the numbers in benchmarks/results."""

    n: int = 16
    """Number of toys, the kinds taking turns."""
    seeds: int = 4
    """Seeds for each."""
    weights: str = "toybox"
    """Model folder."""
    sampler: Sampler = "dpm"
    """`ddim` (50 steps) or `dpm` (20)."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""


SCORES = ("score", "clip", "hull", "psnr_db")


def run(settings: Settings) -> list[list[dict[str, float]]]:
    """Scores of every seed of every toy."""
    pipeline = checkpoints.load(settings.weights)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(scheduler=make_sampler(settings.sampler, pipeline.scheduler))
    toys = []
    cases = held_out_cases(settings.n, prompt_size=pipeline.prompt_size)
    for number, case in enumerate(cases):
        true = case.orbit.on_white(case.object.mesh, pipeline.image_size)
        toys.append([])
        for seed in range(settings.seeds):
            output = pipeline(
                case.prompt,
                case.object.caption,
                num_inference_steps=DEFAULT_STEPS[settings.sampler],
                elevation_deg=case.orbit.elevation_deg,
                generator=torch.Generator().manual_seed(settings.n * seed + number),
                output_type="pt",
            )
            scores = score_views(pipeline.encoder, output, [case.prompt], case.object.caption)
            clip = math.nan if scores.clip is None else scores.clip
            truth = image_scores(output.images.cpu(), true)
            toys[-1].append({"score": scores.total, "clip": clip, "hull": scores.hull, **truth})
        print(f"{number + 1}/{len(cases)} {case.label}", flush=True)
    return toys


def table(toys: list[list[dict[str, float]]]) -> str:
    """A row for each score to pick by."""
    values = {name: torch.tensor([[seed[name] for seed in toy] for toy in toys]) for name in SCORES}
    truth = values["psnr_db"]
    centred = {name: value - value.mean(dim=1, keepdim=True) for name, value in values.items()}
    rows = [{"picked by": "nothing (mean)", "PSNR (dB)": float(truth.mean())}]
    for name, label in zip(SCORES, ("CLIP · hull (`views`)", "CLIP", "hull", "the truth"), strict=True):
        picked = truth.gather(1, values[name].argmax(dim=1, keepdim=True))[:, 0]
        gains = picked - truth.mean(dim=1)
        pair = torch.stack([centred[name].flatten(), centred["psnr_db"].flatten()])
        rows.append(
            {
                "picked by": label,
                "PSNR (dB)": float(picked.mean()),
                "gain (dB)": f"{gains.mean():+.2f} ± {gains.std() / math.sqrt(len(gains)):.2f}",
                "correlation": float(torch.corrcoef(pair)[0, 1]),
            }
        )
    return markdown_table(rows)


def main(settings: Settings) -> int:
    """Run, print and write."""
    logging.getLogger("imagedream").setLevel(logging.WARNING)
    toys = run(settings)
    told = {key: value for key, value in asdict(settings).items() if key != "out"}
    text = f"{', '.join(f'{name} {value}' for name, value in told.items())}\n\n{table(toys)}"
    print("\n" + text)
    if settings.out is not None:
        save_results(settings.out, f"# Scores of views\n\n{text}", {"settings": told, "toys": toys})
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
