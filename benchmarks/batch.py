"""Throughput of `python -m imagedream batch` with one, two, ... workers, beside `launch.py` once for each picture.

    python benchmarks/batch.py --n 4 --jobs 1 2 [--out benchmarks/results/batch] [key=value ...]

Held-out toys at few steps, so that what a batch saves (imports, loading the model) is seen beside what it cannot save.
Seconds depend on what else the machine does; processor seconds hardly do.
"""

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT)]

import torch  # noqa: E402
import tyro  # noqa: E402

from benchmarks.watched_process import watch  # noqa: E402
from imagedream.pictures import to_pil  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import held_out_cases  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.launched_run import read_run  # noqa: E402

SHORT = (
    *(
        "trainer.max_steps=10",
        "trainer.val_check_interval=10",
        "system.views.steps=10",
        "data.n_test_views=8",
    ),
    *(
        "system.exporter.resolution=64",
        "system.exporter.texture_size=512",
        "system.exporter.target_faces=2000",
    ),
)


@dataclass(frozen=True)
class Settings:
    """What is run."""

    n: int = 4
    """Number of toys."""
    jobs: tuple[int, ...] = (1, 2)
    """Numbers of workers."""
    single: bool = True
    """Also `launch.py` for each picture, one after the other."""
    config: str = "imagedream-toybox.yaml"
    """What `--config` is given."""
    out: Path | None = None
    """Write OUT.md and OUT.json."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = SHORT
    """key=value for every run."""


def measured(commands: list[list[str]], threads: int, log: Path) -> dict:
    """Run commands in turn: seconds, processor seconds of all their processes, load of the machine before."""
    load = os.getloadavg()[0]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # threads that wait for each other leave the cores to others
        "PYTHONPATH": str(ROOT / "custom" / "threestudio-imagedream"),
    }
    runs = []
    for command in commands:
        runs.append(watch(command, log, environment))
        if runs[-1].code:
            sys.exit(f"{' '.join(command)} failed\n{log.read_text()[-2000:]}")
    seconds, processor = sum(run.seconds for run in runs), sum(run.processor_seconds for run in runs)
    return {"seconds": seconds, "processor": processor, "load": load}


def single(pictures: list[Path], settings: Settings, folder: Path) -> dict:
    """`launch.py` for each picture."""
    commands = []
    for picture in pictures:
        command = [sys.executable, "launch.py", "--config", settings.config, *settings.overrides]
        command += [f"system.prompt_processor.image_path={picture}", f"exp_root_dir={folder}"]
        commands.append([*command, f"tag={picture.stem}", "use_timestamp=false"])
    return {"how": "launch.py each", **measured(commands, os.cpu_count() or 1, folder.with_suffix(".log"))}


def batch(jobs: int, pictures: list[Path], settings: Settings, folder: Path) -> dict:
    """One batch; also the mean seconds of workers' first and later pictures."""
    command = [sys.executable, "-m", "imagedream", "batch", str(pictures[0].parent), "--out", str(folder)]
    command += ["--jobs", str(jobs), "--config", settings.config, *settings.overrides]
    result = measured([command], max(1, (os.cpu_count() or 1) // jobs), folder.with_suffix(".log"))
    runs = sorted((read_run(folder / picture.stem) for picture in pictures), key=lambda run: run.started_at)
    workers: dict[tuple, list[float]] = {}
    for run in runs:
        workers.setdefault(tuple(run.process), []).append(run.seconds)
    first = [seconds[0] for seconds in workers.values()]
    later = [second for seconds in workers.values() for second in seconds[1:]]
    return {
        "how": f"batch --jobs {jobs}",
        **result,
        "first": sum(first) / len(first),
        "later": sum(later) / len(later) if later else None,
    }


def report(results: list[dict], settings: Settings) -> str:
    """The table as Markdown."""
    rows = [
        {
            "how": result["how"],
            "pictures/hour": 3600 * settings.n / result["seconds"],
            "s/picture": result["seconds"] / settings.n,
            "processor s/picture": result["processor"] / settings.n,
            "worker's first, s": result.get("first"),
            "later ones, s": result.get("later"),
            "load before": result["load"],
        }
        for result in results
    ]
    jobs = " ".join(map(str, settings.jobs))
    lines = [
        f"`python benchmarks/batch.py --n {settings.n} --jobs {jobs}{'' if settings.single else ' --no-single'}` with `{settings.config}` "
        f"{' '.join(settings.overrides)}; {os.cpu_count()} CPU cores, torch {torch.__version__}",
        "Workers share the cores. *load before*: runnable processes of the machine (mean of a minute) when the row began; "
        "where it is not near 0, other work took its part of the cores and only processor seconds compare.",
        markdown_table(rows),
    ]
    return "\n\n".join(lines)


def main(settings: Settings) -> int:
    """Run, report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        pictures = []
        for case in held_out_cases(settings.n):
            pictures.append(folder / "pictures" / f"{case.label}.png")
            to_pil(case.prompt).save(pictures[-1])
        results = [single(pictures, settings, folder / "single")] if settings.single else []
        for jobs in settings.jobs:
            results.append(batch(jobs, pictures, settings, folder / f"jobs-{jobs}"))
            print(results[-1], flush=True)
    text = report(results, settings)
    print("\n" + text)
    if settings.out is not None:
        save_results(settings.out, f"# Batches\n\n{text}", {"results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
