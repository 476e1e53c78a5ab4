"""Seconds, memory and disk of the presets of the small model on a CPU; `auto` in configs/presets/ rests on them.

    OMP_NUM_THREADS=2 python benchmarks/presets.py --out benchmarks/results/presets

Each is run as a user would, in a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT)]

from benchmarks.watched_process import watch  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402

PICTURE = ROOT / "launch_examples" / "robot.png"
CAPTION = "a gray robot with orange arms, white legs and a green backpack"


def measure(preset: str, folder: Path) -> dict[str, Any]:
    """A run with a preset, as a row of the table."""
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "--config", "imagedream-toybox.yaml", "--preset", preset),
        *(f"exp_root_dir={folder}", "name=run", f"tag={preset}", "use_timestamp=false"),
        *(f"system.prompt_processor.image_path={PICTURE}", f"system.prompt_processor.prompt={CAPTION}"),
    ]
    watched = watch(command, folder / f"{preset}.log", {"CUDA_VISIBLE_DEVICES": ""})
    if watched.code:
        sys.exit((folder / f"{preset}.log").read_text()[-2000:])
    trial = folder / "run" / preset
    run_record = json.loads((trial / "save" / "run.json").read_text())
    record = json.loads(next(trial.glob("save/it*-export/model.json")).read_text())
    disk_bytes = sum(path.stat().st_size for path in trial.rglob("*") if path.is_file())
    return {
        "preset": preset,
        "steps": run_record["steps"],
        "seconds": round(watched.seconds, 1),
        "processor seconds": round(watched.processor_seconds, 1),
        "peak memory GiB": round(run_record["peak_memory_bytes"] / 2**30, 2),
        "disk MiB": round(disk_bytes / 2**20, 1),
        "mesh against field dB": round(record["files"][0]["psnr_db"], 2),
        "load of the machine": round(os.getloadavg()[1], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["preview", "default"])
    parser.add_argument("--out", required=True, help="results as OUT.json and OUT.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(preset, Path(folder)) for preset in options.presets]
    text = (
        f"# Presets\n\n`imagedream-toybox.yaml`, `launch_examples/robot.png`, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}. Load: of the last five minutes; above the number "
        f"of cores the clock says little.\n\n{markdown_table(rows)}"
    )
    save_results(options.out, text, rows)


if __name__ == "__main__":
    main()
