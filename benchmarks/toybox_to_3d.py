"""Held-out toys through the whole main job: a picture in, a textured mesh out, compared with the true toy.

    python benchmarks/toybox_to_3d.py --n 16 [--jobs 1] [--config imagedream-toybox.yaml] [key=value ...]

Each toy is one run of `launch.py`; `key=value` are its overrides. What a run left is scored and kept, so that an
interrupted benchmark goes on where it stopped. Tables go to the terminal and, with `--out`, to a Markdown and a JSON
file and a contact sheet.

A network whose cameras count from the prompt's (`cameras: relative`) builds the toy turned by the prompt's azimuth, and is
compared with the true toy turned likewise.

Three results of a run are scored, always on white and at `--pixels` pixels: the diffusion model's four views against the
true ones at the same cameras; the optimised field, from 8 frames of its turntable; and the exported GLB, rendered unlit
from the same 8 cameras, since its colours are what the field showed. Beside them stand answers that use no model.
"""

import hashlib
import json
import math
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import trimesh  # noqa: E402
import tyro  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.watched_process import watch  # noqa: E402
from imagedream import checkpoints  # noqa: E402
from imagedream.checkpoints import local_path  # noqa: E402
from imagedream.mesh import load_exported  # noqa: E402
from imagedream.metrics import chamfer_distance, image_scores  # noqa: E402
from imagedream.pictures import contact_sheet, leftmost_square, over_white, to_pil  # noqa: E402
from imagedream.runs.files import atomic_path  # noqa: E402
from imagedream.runs.settings import read_with_bases  # noqa: E402
from imagedream.workshop.evaluation.bootstrap_intervals import FEWEST, Scores  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import (  # noqa: E402
    LARGEST_PROMPT_AZIMUTH_DEG,
    HeldOutCase,
    Orbit,
    ellipsoid,
    held_out_cases,
    trivial_answers,
    unseen_toys,
)
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results  # noqa: E402

NOVEL_VIEWS = 8
TOYS = {
    "heldout": "held-out toys",
    "combinations": "held-out combinations of kind, colour and accessory",
    "unseen-kinds": "toys of kinds never trained",
}
SHEET_TOYS = 16


@dataclass(frozen=True)
class Settings:
    """What is run."""

    n: int = 48
    """Number of toys, the kinds taking turns."""
    jobs: int = 1
    """Runs at the same time; seconds are only comparable with 1."""
    config: str = "imagedream-toybox.yaml"
    """What `launch.py --config` is given."""
    weights: str = "toybox"
    """The model: as `system.guidance.weights`."""
    seed: int = 0
    """Number of the first toy."""
    kinds: tuple[str, ...] = ()
    """Kinds of toys; none for the toybox's first eight, or with `unseen-kinds` for all that the model was not trained on."""
    split: Literal["heldout", "combinations", "unseen-kinds"] = "heldout"
    """As `imagedream evaluate views --split`."""
    preset: str = ""
    """As `launch.py --preset`; none for the config as it is."""
    prompt_azimuth_deg: float = LARGEST_PROMPT_AZIMUTH_DEG
    """Prompts are taken from up to this far on either side of the front."""
    caption: bool = True
    """Whether the run is told the toy's caption besides the picture."""
    pixels: int = 64
    """Side of the compared pictures."""
    work: Path = ROOT / "outputs" / "toybox_to_3d"
    """Folder of the runs; finished toys in it are not run again."""
    out: Path | None = None
    """Write OUT.md, OUT.json and OUT.png, such as benchmarks/results/toybox_to_3d."""
    fresh: bool = False
    """Run finished toys again too, as after a change of the code."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """key=value for `launch.py`."""

    @property
    def identity(self) -> dict:
        """What decides a toy's result besides the code; a kept result counts only if this is the same."""
        config = ROOT / "configs" / self.config
        files = read_with_bases(config) if config.is_file() else [config]
        return {
            "config": self.config,
            "preset": self.preset,
            "overrides": list(self.overrides),
            "caption": self.caption,
            "pixels": self.pixels,
            "prompt azimuth": self.prompt_azimuth_deg,
            "combinations": self.split == "combinations",
            "config and weights": fingerprint(*files, local_path(self.weights)),
        }


@cache
def fingerprint(*paths: Path) -> str:
    """A short hash of files and of the weights and settings in folders (not of their cards and pictures)."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file == path or file.suffix in (".safetensors", ".json"):
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def run_toy(case: HeldOutCase, settings: Settings) -> dict:
    """The scores of one toy, from its run or from the result that is kept."""
    folder = settings.work / case.label
    kept = folder / "result.json"
    if kept.exists() and not settings.fresh:
        result = json.loads(kept.read_text())
        if result["settings"] == settings.identity:
            return result
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted or different run left
    folder.mkdir(parents=True)
    to_pil(case.prompt).save(folder / "prompt.png")
    command = [sys.executable, str(ROOT / "launch.py"), "--config", settings.config]
    command += ["--preset", settings.preset] if settings.preset else []
    command += [f"system.prompt_processor.image_path={folder / 'prompt.png'}"]
    if settings.caption:
        command += [f"system.prompt_processor.prompt={json.dumps(case.object.caption)}"]
    command += [f"system.guidance.weights={settings.weights}"]
    command += [f"exp_root_dir={folder}", "name=run", "tag=toy", "use_timestamp=false", *settings.overrides]
    log = folder / "log.txt"
    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    watched = watch(
        command, log, {"OMP_NUM_THREADS": str(threads), **os.environ} if settings.jobs > 1 else {}
    )
    if watched.code != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-1:]
        return {"toy": case.label, "error": f"exit code {watched.code}: {' '.join(tail)}"}
    result = {
        "toy": case.label,
        "caption": case.object.caption,
        "settings": settings.identity,
        **score_trial(turned(case, settings.weights), folder / "run" / "toy", settings.pixels),
        "seconds": watched.seconds,
        "peak_gib": watched.peak_gib,
    }
    with atomic_path(kept) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def turned(case: HeldOutCase, weights: str) -> HeldOutCase:
    """The toy as these weights should build it: with its own front to the front, or with the side that the prompt shows."""
    if checkpoints.part_config(weights, "unet").get("cameras", "canonical") == "canonical":
        return case
    mesh = case.object.mesh.copy()
    angle = math.radians(-case.prompt_azimuth_deg)
    mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, (0, 0, 1)))
    return replace(case, object=replace(case.object, mesh=mesh), prompt_azimuth_deg=0.0)


def score_trial(case: HeldOutCase, trial: Path, pixels: int = 64) -> dict:
    """Scores of everything a run left in its trial folder, and of the trivial answers at the same cameras."""
    four, four_views = read_four_views(trial, pixels)
    novel, field = read_field_views(trial, pixels)
    mesh_file = newest(trial, "it*-export/*.glb")
    mesh = load_exported(mesh_file)
    mesh_views = novel.on_white(mesh, pixels, lit=False)
    true_four, true_novel = (orbit.on_white(case.object.mesh, pixels) for orbit in (four, novel))
    save_sheet_row(trial, case, four_views, field, mesh_views, true_novel)
    record = trial / "save" / "run.json"
    return {
        "four views": image_scores(four_views, true_four),
        "field": image_scores(field, true_novel),
        "mesh": {**image_scores(mesh_views, true_novel), "chamfer": chamfer_distance(mesh, case.object.mesh)},
        "trivial four views": {
            name: image_scores(views, true_four)
            for name, views in trivial_answers(case, pixels, four).items()
        },
        "trivial 3D": {
            name: image_scores(views, true_novel)
            for name, views in trivial_answers(case, pixels, novel).items()
        },
        "ellipsoid chamfer": chamfer_distance(ellipsoid(case.object), case.object.mesh),
        "faces": len(mesh.faces),
        "phases": json.loads(record.read_text())["seconds"] if record.exists() else {},
    }


def read_four_views(trial: Path, pixels: int) -> tuple[Orbit, torch.Tensor]:
    """The diffusion model's views (view, 3, pixels, pixels) and their cameras."""
    with np.load(trial / "save" / "views.npz") as stored:
        images, azimuths, elevation = stored["images"], stored["azimuths_deg"], stored["elevation_deg"]
    views = torch.stack([read_picture(Image.fromarray(image), pixels) for image in images])
    return Orbit(tuple(float(azimuth) for azimuth in azimuths), float(elevation)), views


def read_field_views(trial: Path, pixels: int) -> tuple[Orbit, torch.Tensor]:
    """`NOVEL_VIEWS` frames (view, 3, pixels, pixels) of the turntable, about evenly spread, and their cameras."""
    data = OmegaConf.load(trial / "configs" / "parsed.yaml").data
    folder = newest(trial, "it*-test")
    frames = sorted(folder.glob("*.png"), key=lambda path: int(path.stem))
    chosen = [round(index * len(frames) / NOVEL_VIEWS) for index in range(NOVEL_VIEWS)]
    orbit = Orbit(
        tuple(360.0 * index / len(frames) for index in chosen),
        float(data.eval_elevation_deg),
        float(data.eval_fovy_deg),
        float(data.eval_relative_distance),
    )
    pictures = []
    for index in chosen:
        with Image.open(frames[index]) as frame:
            pictures.append(read_picture(leftmost_square(frame.convert("RGB")), pixels))
    return orbit, torch.stack(pictures)


def newest(trial: Path, pattern: str) -> Path:
    """The path under `save` of the latest training step that fits a pattern beginning with `it*`."""
    found = list((trial / "save").glob(pattern))
    if not found:
        raise FileNotFoundError(f"the run left no save/{pattern} in {trial}")
    step = re.compile(r"it(\d+)-")
    return max(found, key=lambda path: int(step.match(path.relative_to(trial / "save").parts[0])[1]))


def read_picture(picture: Image.Image, pixels: int) -> torch.Tensor:
    """RGB in [0, 1], (3, pixels, pixels); means over areas where it shrinks."""
    if picture.size != (pixels, pixels):
        shrinks = picture.width > pixels
        picture = picture.resize(
            (pixels, pixels), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
        )
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


SHEET_COLUMNS = (
    "prompt",
    *(f"views {side}" for side in ("front", "left", "back", "right")),
    *(f"{what} {azimuth}" for azimuth in (45, 180) for what in ("true", "field", "mesh")),
)


def save_sheet_row(trial: Path, case: HeldOutCase, four_views, field, mesh_views, true_novel) -> None:
    """Keep the pictures of this toy's row of the contact sheet."""
    row = [over_white(case.prompt), *four_views]
    row += [views[index] for index in (1, NOVEL_VIEWS // 2) for views in (true_novel, field, mesh_views)]
    tiles = [np.asarray(to_pil(picture).resize((96, 96), Image.Resampling.BICUBIC)) for picture in row]
    np.savez_compressed(trial.parents[1] / "sheet_row.npz", tiles=np.stack(tiles))


def sheet(results: list[dict], work: Path) -> Image.Image:
    """Contact sheet of the first scored toys."""
    rows = []
    for result in results[:SHEET_TOYS]:
        with np.load(work / result["toy"] / "sheet_row.npz") as stored:
            rows.append(list(torch.from_numpy(stored["tiles"]).permute(0, 3, 1, 2) / 255))
    return contact_sheet(SHEET_COLUMNS, rows)


def toy_row(result: dict) -> dict:
    """One row of the main table."""
    four, field, mesh = result["four views"], result["field"], result["mesh"]
    return {
        "toy": result["toy"],
        "views dB": four["psnr_db"],
        "field dB": field["psnr_db"],
        "field IoU": field["iou"],
        "mesh dB": mesh["psnr_db"],
        "mesh IoU": mesh["iou"],
        "Chamfer": mesh["chamfer"],
        "faces": result["faces"],
        "seconds": result["seconds"],
        "GiB": result["peak_gib"],
    }


def answer_rows(results: list[dict]) -> list[dict]:
    """Means of the model's results, with intervals where there are toys enough, beside the trivial answers."""

    def row(name, four=None, novel=None, chamfer=None):
        four, novel = four or {}, novel or {}
        return {
            "answer": name,
            "views dB": four.get("psnr_db"),
            "views SSIM": four.get("ssim"),
            "3D dB": novel.get("psnr_db"),
            "3D SSIM": novel.get("ssim"),
            "3D IoU": novel.get("iou"),
            "Chamfer": chamfer,
        }

    def mean(*keys):
        chosen = results
        for key in keys:
            chosen = [entry[key] for entry in chosen]
        return mean_scores(chosen)

    def interval(key):
        ends = {
            name: Scores(tuple(result[key][name] for result in results)).interval for name in results[0][key]
        }
        return {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in ends.items()}

    rows = []
    for name, key, views in (
        ("four views", "four views", "four"),
        ("field", "field", "novel"),
        ("exported mesh", "mesh", "novel"),
    ):
        scores = mean(key)
        rows.append(row(name, **{views: scores}, chamfer=scores.get("chamfer")))
        if len(results) >= FEWEST:
            ends = interval(key)
            rows.append(row("95 % interval", **{views: ends}, chamfer=ends.get("chamfer")))
    for name in results[0]["trivial 3D"]:
        lump = mean_scores([{"chamfer": result["ellipsoid chamfer"]} for result in results])["chamfer"]
        chamfer = lump if name == "ellipsoid" else None
        rows.append(row(name, mean("trivial four views", name), mean("trivial 3D", name), chamfer))
    return rows


def report(results: list[dict], settings: Settings) -> str:
    """The tables as Markdown."""
    scored = [result for result in results if "error" not in result]
    failed = [result for result in results if "error" in result]
    overrides = (
        " ".join([f"preset {settings.preset}"] * bool(settings.preset) + [*settings.overrides]) or "none"
    )
    lines = [
        f"`{settings.config}`, {len(scored)} {TOYS[settings.split]} from seed {settings.seed}, overrides: {overrides}, caption: "
        f"{'yes' if settings.caption else 'no'}, {settings.pixels} px, {settings.jobs} at a time on {os.cpu_count()} CPU "
        f"cores{', ' + torch.cuda.get_device_name() if torch.cuda.is_available() else ''}, torch {torch.__version__}",
    ]
    if scored:
        rows = [toy_row(result) for result in scored]
        average = mean_scores([{k: v for k, v in row.items() if k != "toy"} for row in rows])
        phases = mean_scores([result["phases"] for result in scored])
        whole = average["seconds"]
        phases = [{"phase": name, "seconds": value} for name, value in phases.items()]
        lines += [markdown_table([*rows, {"toy": "mean", **average, "faces": round(average["faces"])}])]
        lines += [markdown_table(answer_rows(scored))]
        lines += [markdown_table([*phases, {"phase": "whole run", "seconds": whole}])]
    lines += [f"FAILED {result['toy']}: {result['error']}" for result in failed]
    return "\n\n".join(lines)


def main(settings: Settings) -> int:
    """Run, score and report; 1 if a run failed."""
    bad = [override for override in settings.overrides if "=" not in override]
    if bad:
        sys.exit(f"not an override: {' '.join(bad)}; write key=value")
    if settings.jobs < 1:
        sys.exit(f"--jobs is {settings.jobs}, must be at least 1")
    try:
        checkpoints.check(settings.weights)
        if local_path(settings.weights) is None:
            raise ValueError(f"--weights is {settings.weights}, must be toybox or a model folder")
        cases = held_out_cases(
            settings.n,
            settings.seed,
            largest_prompt_azimuth_deg=settings.prompt_azimuth_deg,
            **unseen_toys(settings.weights, settings.split, settings.seed, settings.n, settings.kinds),
        )
    except ValueError as error:
        sys.exit(str(error))
    settings = replace(settings, work=settings.work.resolve())
    torch.set_num_threads(1)  # scoring is light; leave the cores to the runs
    results = []
    with ThreadPoolExecutor(settings.jobs) as pool:
        for number, result in enumerate(pool.map(lambda case: run_toy(case, settings), cases)):
            results.append(result)
            summary = result.get("error") or "  ".join(
                f"{k} {v:.4g}" for k, v in list(toy_row(result).items())[1:]
            )
            print(f"{number + 1}/{len(cases)} {result['toy']}: {summary}", flush=True)
    text = report(results, settings)
    print("\n" + text)
    if settings.out is not None:
        told = {key: value for key, value in asdict(settings).items() if key not in ("work", "out")}
        scored = [result for result in results if "error" not in result]
        picture = sheet(scored, settings.work) if scored else None
        save_results(settings.out, f"# Toybox to 3D\n\n{text}", {"settings": told, "toys": results}, picture)
    return 1 if any("error" in result for result in results) else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
