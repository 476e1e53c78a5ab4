"""The paper's Table 1 for finished 3D runs: diffused views beside views of the optimised field.

    python benchmarks/paper_table.py --runs 'outputs/imagedream/*' [--clip ViT-H-14:laion2b_s32b_b79k] [--inception download]

Reads what `launch.py` leaves in a trial folder: the prompt, the diffusion model's four views, and the frames of the
turntable, at the paper's sizes (QIS at 256 pixels diffused, 320 re-rendered) where they were made that large. Mean ±
standard deviation over the runs, as in the paper, which names neither its CLIP nor how many views it takes.
"""

import glob
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "custom" / "threestudio-imagedream")]

import torch  # noqa: E402
import tyro  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.toybox_to_3d import read_field_views, read_four_views  # noqa: E402
from imagedream.image_prompt.prompt import load_image_prompt  # noqa: E402
from imagedream.workshop.evaluation.paper_metrics import (  # noqa: E402
    METRICS,
    Clip,
    InceptionClassifier,
    find_clip,
    mean_and_deviation,
    paper_scores,
)
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What is measured, and by what."""

    runs: tuple[str, ...]
    """Trial folders; patterns such as 'outputs/imagedream/*' are allowed."""
    clip: str = "toybox"
    """As of `python -m imagedream evaluate views --clip`; the small model's encoder knows toys only."""
    inception: str = "none"
    """As of `python -m imagedream evaluate pictures --inception`."""
    diffused_px: int = 256
    """Side of the diffused views."""
    rendered_px: int = 320
    """Side of the views of the field."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""


def score_run(
    trial: Path, settings: Settings, clip: Clip, inception: InceptionClassifier | None
) -> dict[str, dict[str, float]]:
    """The measures of one run: "diffused" and "rendered" -> metric -> value."""
    caption = OmegaConf.load(trial / "configs" / "parsed.yaml").system.prompt_processor.get("prompt") or ""
    prompt = trial / "save" / "prompt.png"  # prepared already: as large as it is
    with Image.open(prompt) as picture:
        size = picture.width
    picture = load_image_prompt(prompt, size).rgba
    _, diffused = read_four_views(trial, settings.diffused_px)
    _, rendered = read_field_views(trial, settings.rendered_px)
    return {
        name: paper_scores(views, picture, caption, clip, inception)
        for name, views in (("diffused", diffused), ("rendered", rendered))
    }


def table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """Mean ± standard deviation over the runs."""
    rows = []
    for views in ("diffused", "rendered"):
        row: dict[str, str] = {"views": views}
        for metric in ("qis", "clip_text", "clip_image"):
            values = [run[views][metric] for run in scores.values() if metric in run[views]]
            if values:
                row[METRICS[metric]] = "{:.2f} ± {:.2f}".format(*mean_and_deviation(values))
        rows.append(row)
    return markdown_table(rows)


def main(settings: Settings) -> None:
    """Score and report."""
    trials = sorted({Path(found) for pattern in settings.runs for found in glob.glob(pattern)})
    finished = [trial for trial in trials if any((trial / "save").glob("it*-test.mp4"))]
    if not finished:
        sys.exit(f"no finished runs among the {len(trials)} folders of {' '.join(settings.runs)}")
    clip = find_clip(settings.clip, None)
    inception = None
    if settings.inception != "none":
        inception = InceptionClassifier(
            None if settings.inception == "download" else Path(settings.inception)
        )
    with torch.no_grad():
        scores = {str(trial): score_run(trial, settings, clip, inception) for trial in finished}
    head = f"{len(scores)} runs, CLIP {settings.clip}, QIS {settings.inception}, {settings.diffused_px} and {settings.rendered_px} px"
    text = f"{head}\n\n{table(scores)}"
    print(text)
    if settings.out is not None:
        save_results(settings.out, f"# Table 1 of the paper\n\n{text}", {"settings": head, "runs": scores})


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
