"""Where the prompt's camera is said to be, against where it was.

    python benchmarks/prompt_camera.py --runs outputs/toys48 [--out benchmarks/results/prompt_camera]

Held-out toys, whose prompts' cameras are known: azimuths within ±30° as in `imagedream.workshop.evaluation.held_out_objects`, and once more
within ±90°. Each prompt is looked for in the toy itself (the best that can be hoped for) and in the optimised field of a finished run
of `benchmarks/toybox_to_3d.py` (±30° only).
"""

import importlib.util
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = ROOT / "custom" / "threestudio-imagedream"
sys.path[:0] = [str(EXTENSION), str(ROOT / "embedded")]

import torch  # noqa: E402
import tyro  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

import threestudio  # noqa: E402
from imagedream import checkpoints  # noqa: E402
from imagedream.image_prompt.prompt_camera import PromptCamera, clip_features, estimate_prompt_camera  # noqa: E402
from imagedream.mesh.raycast import Light, Raycaster  # noqa: E402
from imagedream.pictures import premultiplied  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import (  # noqa: E402
    LARGEST_PROMPT_AZIMUTH_DEG,
    HeldOutCase,
    held_out_cases,
    prompt_picture,
)
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402

WIDE_DEG = 90.0


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    runs: Path = ROOT / "outputs" / "toys48"
    """Folder of `benchmarks/toybox_to_3d.py`, one folder a toy; those finished are scored. Nothing in it is changed."""
    n: int = 48
    """Number of toys."""
    seed: int = 0
    """Number of the first toy."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""


def load_extension() -> None:
    """Register the extension's modules, under its folder's name as threestudio's launcher does."""
    name = EXTENSION.name
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXTENSION / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])


def mesh_renderer(mesh):
    """A mesh as the estimate wants it."""
    caster = Raycaster(mesh)

    def render(camera_to_world, fov_y_deg, size):
        rgba = caster.render(camera_to_world, fov_y_deg, size, Light()).rgba
        return premultiplied(rgba)

    return render


def in_field(prompt, trial: Path, features) -> PromptCamera:
    """The estimate from the field of a finished run."""
    whole = OmegaConf.load(trial / "configs" / "parsed.yaml")
    system = threestudio.find(whole.system_type)(whole.system)
    checkpoint = torch.load(trial / "ckpts" / "last.ckpt", weights_only=True, map_location="cpu")
    system.load_state_dict(checkpoint["state_dict"])
    system.eval()
    views = sys.modules[EXTENSION.name].camera_estimate.object_views(torch.no_grad()(system.forward), "cpu")
    return estimate_prompt_camera(prompt, views, float(whole.data.eval_relative_distance), features=features)


def measure(case: HeldOutCase, number: int, settings: Settings, features) -> list[dict]:
    """All estimates for one toy."""
    rows = []

    def note(
        prompts: str, seen_in: str, camera: PromptCamera, azimuth_deg: float, elevation_deg: float
    ) -> None:
        error = abs((camera.azimuth_deg - azimuth_deg + 180) % 360 - 180)
        row = {
            "toy": case.label,
            "prompts": prompts,
            "in": seen_in,
            "azimuth_deg": azimuth_deg,
            "error_deg": error,
        }
        row["elevation_error_deg"] = abs(camera.elevation_deg - elevation_deg)
        row |= {"certainty": camera.certainty, "silhouette_iou": camera.silhouette_iou}
        rows.append(row)
        print(f"{case.label} {prompts} {seen_in}: {azimuth_deg:.0f}°, {camera}", flush=True)

    mesh = mesh_renderer(case.object.mesh)
    near = f"±{LARGEST_PROMPT_AZIMUTH_DEG:.0f}°"
    truth = case.prompt_azimuth_deg, case.prompt_elevation_deg
    distance = case.orbit.relative_distance
    note(near, "true mesh", estimate_prompt_camera(case.prompt, mesh, distance, features=features), *truth)
    trial = settings.runs / case.label / "run" / "toy"
    if (trial / "ckpts" / "last.ckpt").exists():
        note(near, "field", in_field(case.prompt, trial, features), *truth)

    wide = f"±{WIDE_DEG:.0f}°"
    draw = torch.rand((), generator=torch.Generator().manual_seed(settings.seed + 1000 + number))
    truth = (2 * float(draw) - 1) * WIDE_DEG, case.prompt_elevation_deg
    prompt = prompt_picture(case.object, *truth)
    note(wide, "true mesh", estimate_prompt_camera(prompt, mesh, distance, features=features), *truth)
    return rows


def summary(rows: list[dict]) -> list[dict]:
    """A row for each kind of prompt and each object that it was looked for in, beside answers that need no object."""
    table = []
    for prompts in dict.fromkeys(row["prompts"] for row in rows):
        known = [row for row in rows if row["prompts"] == prompts]
        azimuths = torch.tensor([row["azimuth_deg"] for row in known if row["in"] == "true mesh"])
        for answer, azimuth in (("always front", 0.0), ("their mean", float(azimuths.mean()))):
            table.append({"prompts": prompts, "looked for in": answer, **scores((azimuths - azimuth).abs())})
        for seen_in in ("field", "true mesh"):
            chosen = [row for row in known if row["in"] == seen_in]
            if not chosen:
                continue
            row = {"prompts": prompts, "looked for in": seen_in}
            row |= scores(torch.tensor([one["error_deg"] for one in chosen]))
            row["mean certainty"] = float(torch.tensor([one["certainty"] for one in chosen]).mean())
            row["elevation median"] = float(
                torch.tensor([one["elevation_error_deg"] for one in chosen]).median()
            )
            table.append(row)
    return table


def scores(errors: torch.Tensor) -> dict:
    """Number, median and 90 % of errors in degrees, and the share within 15°."""
    return {
        "toys": float(len(errors)),
        "median": float(errors.median()),
        "90 %": float(errors.quantile(0.9)),
        "within 15°": float((errors <= 15).float().mean()),
        "mean certainty": None,
        "elevation median": None,
    }


def report(rows: list[dict], settings: Settings) -> str:
    """What was measured, as Markdown."""
    finished = sum(row["in"] == "field" for row in rows)
    return "\n\n".join(
        [
            f"`python benchmarks/prompt_camera.py --n {settings.n}`; "
            f"{finished} finished runs; {os.cpu_count()} CPU cores, torch {torch.__version__}",
            "Errors of the azimuth in degrees. *field*: of a finished run; *true mesh*: the toy itself, the best that can be "
            "hoped for. *within 15°* is what the certainty means to be. *their mean*: the mean of all true azimuths, which "
            "nobody knows.",
            markdown_table(summary(rows)),
        ]
    )


def main(settings: Settings) -> int:
    """Measure, report."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    load_extension()
    features = clip_features(checkpoints.load_part("toybox", "encoder")[0])
    rows = []
    for number, case in enumerate(held_out_cases(settings.n, settings.seed)):
        rows += measure(case, number, settings, features)
    text = report(rows, settings)
    print("\n" + text)
    if settings.out is not None:
        told = {key: value for key, value in asdict(settings).items() if key not in ("runs", "out")}
        save_results(settings.out, f"# The prompt's camera\n\n{text}", {"settings": told, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
