"""Seconds, memory and disk of each preset: measured for the small model on a CPU, computed for CUDA cards.

    OMP_NUM_THREADS=2 python benchmarks/presets.py --out benchmarks/results/presets

Each preset of quality is run as a user would, in a process of its own,.
Processor seconds are those of all threads together: on a machine with other work they say more than the clock.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "embedded"), str(ROOT / "custom" / "threestudio-imagedream")]

from imagedream.workshop.evaluation.tables import save_results  # noqa: E402

PICTURE = ROOT / "launch_examples" / "robot.png"
CAPTION = "a gray robot with orange arms, white legs and a green backpack"
GIB = 2**30


@dataclass
class Measured:
    """A run with a preset."""

    preset: str
    steps: int
    seconds: float
    processor_seconds: float
    peak_gib: float
    disk_mib: float
    psnr_db: float
    """Of the exported file against the field."""
    load: float
    """Of the machine, over the last five minutes: above the number of cores, the clock says little."""


def launch(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and processor seconds of a run."""
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "--config", "imagedream-toybox.yaml", *arguments),
        *(f"exp_root_dir={folder}", "name=run", "use_timestamp=false"),
        *(f"system.prompt_processor.image_path={PICTURE}", f"system.prompt_processor.prompt={CAPTION}"),
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, processor


def measure(preset: str, folder: Path) -> Measured:
    """Run a preset."""
    seconds, processor = launch(folder, "--preset", preset, f"tag={preset}")
    trial = folder / "run" / preset
    run_record = json.loads((trial / "save" / "run.json").read_text())
    record = json.loads(next(trial.glob("save/it*-export/model.json")).read_text())
    disk = sum(path.stat().st_size for path in trial.rglob("*") if path.is_file())
    return Measured(
        preset,
        run_record["steps"],
        round(seconds, 1),
        round(processor, 1),
        round(run_record["peak_memory_bytes"] / GIB, 2),
        round(disk / 2**20, 1),
        round(record["files"][0]["psnr_db"], 2),
        round(os.getloadavg()[1], 1),
    )


def table(runs: list[Measured], command: str) -> str:
    """Both tables."""
    from imagedream.presets import PRESETS, preset_settings
    from threestudio.launching.arguments import parse_arguments, read_config

    lines = [
        *("# Presets", "", f"`{command}`", "", "## Quality, measured", ""),
        f"`imagedream-toybox.yaml`, `launch_examples/robot.png`, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')}.",
        "",
        "| preset | steps | seconds | processor seconds | peak memory GiB | disk MiB | mesh against field | load of the machine |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {run.preset} | {run.steps} | {run.seconds:.0f} | {run.processor_seconds:.0f} | "
        f"{run.peak_gib} | {run.disk_mib} | {run.psnr_db} dB | {run.load} |"
        for run in runs
    ]
    arguments = ["--config", "imagedream.yaml", f"system.prompt_processor.image_path={PICTURE}"]
    cfg = read_config(parse_arguments(arguments))
    lines += [
        *("", "## Memory, computed", ""),
        "`imagedream.yaml` with the published weights, in the embedded host. Sums of `imagedream/presets.py`; no GPU was at hand.",
        "",
        "| preset | made for free GiB | weights GiB | images a step | pixels | samples a ray |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for preset in PRESETS.values():
        found = preset_settings(preset, cfg, "embedded")
        shown = [found.get(key, value) for key, value in (
            ("data.batch_size", list(cfg.data.batch_size)),
            ("data.height", list(cfg.data.height)),
            ("system.renderer.num_samples_per_ray", cfg.system.renderer.num_samples_per_ray),
        )]  # fmt: skip
        images, pixels, samples = shown
        needed, weights = preset.needed_bytes / GIB, preset.weight_bytes / GIB
        lines.append(f"| {preset.name} | {needed:.1f} | {weights:.1f} | {images} | {pixels} | {samples} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["preview", "default"])
    parser.add_argument(
        "--out", required=True, help="results as OUT.json and OUT.md; those of other presets stay"
    )
    options = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS")
    kept = Path(f"{options.out}.json")
    command = f"{f'OMP_NUM_THREADS={threads} ' if threads else ''}python benchmarks/presets.py --out benchmarks/results/{kept.stem}"
    earlier = [Measured(**run) for run in json.loads(kept.read_text())] if kept.is_file() else []
    runs = [run for run in earlier if run.preset not in options.presets]
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            runs.append(measure(preset, Path(folder)))
            save_results(options.out, table(runs, command), [asdict(run) for run in runs])


if __name__ == "__main__":
    main()
