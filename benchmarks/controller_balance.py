"""What the weights of the controllers do: image tokens, prompt frame and caption (`imagedream.controller_weights`).

    python benchmarks/controller_balance.py [--out docs/controller_balance]

Held-out toys, each with its own caption and with one that disagrees with the picture (another colour or another toy). For
each weight the small model's four views are compared with the true ones, with the picture and with the caption.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream")]

import torch  # noqa: E402
import tyro  # noqa: E402

from imagedream import checkpoints  # noqa: E402
from imagedream.controller_weights import ControllerWeights  # noqa: E402
from imagedream.metrics import psnr  # noqa: E402
from imagedream.pictures import contact_sheet, over_white  # noqa: E402
from imagedream.runs.files import atomic_path  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import HeldOutCase, held_out_case  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores  # noqa: E402

NAMES = ("ip_weight", "pixel_weight", "caption_weight")
CASES = ((8, "robot", "a yellow robot"), (2, "car", "a green house"), (6, "mug", "a red mug"))
"""Seed and kind of a held-out toy, and a caption that disagrees with its picture."""


@dataclass(frozen=True)
class Settings:
    """What is sampled."""

    values: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5)
    """Weights tried, of one controller at a time; the others are 1."""
    toys: int = 3
    steps: int = 25
    guidance_scale: float | None = None
    """None is what suits the model."""
    out: Path | None = None
    """Folder for numbers.json, table.md and a picture for each controller, ip_weight.png, ..."""


@torch.no_grad()
def sample(pipeline, case: HeldOutCase, caption: str, settings: Settings, **weights: float) -> torch.Tensor:
    """Four views on white."""
    return pipeline(
        case.prompt,
        caption,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.steps,
        elevation_deg=case.orbit.elevation_deg,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        weights=ControllerWeights(**weights),
    ).images


@torch.no_grad()
def scores(pipeline, case: HeldOutCase, images: torch.Tensor, caption: str) -> dict[str, float]:
    """PSNR to the truth, and cosines of the encoder's embeddings: of picture and the view most like it, and of caption."""
    encoder = pipeline.encoder
    looks = encoder.encode_image(images).embedding
    picture = encoder.encode_image(over_white(case.prompt)[None]).embedding
    return {
        "PSNR to truth (dB)": float(
            psnr(images, case.orbit.on_white(case.object.mesh, images.shape[-1])).mean()
        ),
        "like the picture": float((looks @ picture.T).max()),
        "like the caption": float((looks @ encoder.embed_text([caption]).T).mean()),
    }


def main(settings: Settings) -> int:
    """Sample, compare, draw."""
    torch.set_num_threads(2)
    pipeline = checkpoints.load("toybox")
    pipeline.set_progress_bar_config(disable=True)
    cases = [(held_out_case(seed, kind), wrong) for seed, kind, wrong in CASES[: settings.toys]]
    results, pictures = [], {name: [] for name in NAMES}
    for case, wrong in cases:
        for kind, caption in (("agrees", case.object.caption), ("disagrees", wrong)):
            known = {}
            for name in NAMES:
                row = [over_white(case.prompt)]
                for value in settings.values:
                    key = (name, value) if value != 1 else None
                    if key not in known:
                        images = sample(pipeline, case, caption, settings, **{name: value})
                        known[key] = images, scores(pipeline, case, images, caption)
                    images, numbers = known[key]
                    results.append(
                        {
                            "toy": case.label,
                            "caption": caption,
                            "which": kind,
                            "weight of": name,
                            "value": value,
                            **numbers,
                        }
                    )
                    row += list(images[:2])
                pictures[name].append(row)
                print(case.label, kind, name, flush=True)
    table = []
    for which in ("agrees", "disagrees"):
        for name in NAMES:
            for value in settings.values:
                chosen = [
                    row
                    for row in results
                    if (row["which"], row["weight of"], row["value"]) == (which, name, value)
                ]
                numbers = [
                    {k: v for k, v in row.items() if isinstance(v, float) and k != "value"} for row in chosen
                ]
                table.append(
                    {
                        "caption": which,
                        "weight of": name.removesuffix("_weight"),
                        "value": value,
                        **mean_scores(numbers),
                    }
                )
    text = markdown_table(table)
    print("\n" + text)
    if settings.out is not None:
        with atomic_path(settings.out / "numbers.json") as path:
            told = {key: value for key, value in asdict(settings).items() if key != "out"}
            path.write_text(
                json.dumps({"settings": told, "rows": results}, indent=1) + "\n", encoding="utf-8"
            )
        with atomic_path(settings.out / "table.md") as path:
            path.write_text(text + "\n", encoding="utf-8")
        columns = [
            "picture",
            *(f"{side} {value:g}" for value in settings.values for side in ("front", "left")),
        ]
        for name, rows in pictures.items():
            with atomic_path(settings.out / f"{name}.png") as path:
                contact_sheet(columns, rows).save(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
