"""What a trial's folder says of the run: the record in `save/run.json`, and the report that is made of what is there."""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from omegaconf import OmegaConf

from imagedream.cameras import view_name
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.runs.files import atomic_path


@dataclass(frozen=True)
class RunRecord:
    """A JSON file that training, resuming, testing and exporting add to."""

    path: Path

    def read(self) -> dict[str, Any]:
        """All that is noted."""
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def note(self, **entries: Any) -> None:
        """Add entries."""
        with atomic_path(self.path) as path:
            path.write_text(json.dumps({**self.read(), **entries}), encoding="utf-8")

    def lap(self, phase: str, start: float) -> None:
        """Note a phase's seconds, since a time of `time.perf_counter`, and the most memory that was held so far."""
        seconds = {**self.read().get("seconds", {}), phase: round(time.perf_counter() - start, 2)}
        self.note(seconds=seconds, peak_memory_bytes=peak_memory_bytes())

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Note how long the body took."""
        start = time.perf_counter()
        yield
        self.lap(phase, start)

    def note_cameras(self, when: str, cameras: Sequence[PromptCamera]) -> None:
        """Add estimates of where the pictures were taken from, by the field at some time."""
        known = self.read().get("prompt_cameras", {})
        self.note(prompt_cameras={**known, when: [camera.to_dict() for camera in cameras]})

    def cameras(self, when: str | None = None) -> list[PromptCamera]:
        """The estimates of some time, or the newest; empty if there are none."""
        known = self.read().get("prompt_cameras", {})
        when = list(known)[-1] if known and when is None else when
        return [PromptCamera.from_dict(one) for one in known.get(when, ())]


def write_trial_report(trial_dir: Path, record: RunRecord, cfg: Any) -> Path:
    """Write `report.html` about what the folder holds by now, from this run or an earlier one.

    Args:
        trial_dir: the trial's folder.
        record: its record.
        cfg: the system's config.
    """
    from imagedream.report import write_report

    save, noted = trial_dir / "save", record.read()
    picture = cfg.prompt_processor.get("image_path") or trial_dir.name
    parts: dict[str, Any] = {
        "title": noted.get("prompt") or Path(picture).stem,
        "prompts": [save / "prompt.png", *sorted(save.glob("prompt-*.png"))],
        "timings": noted.get("seconds"),
        "settings": OmegaConf.to_container(cfg),
        "warnings": noted.get("warnings", ()),
        "prompt_cameras": noted.get("prompt_cameras", {}),
    }
    if (save / "views.npz").exists():
        with np.load(save / "views.npz") as views:
            parts["views"] = [PIL.Image.fromarray(image) for image in views["images"]]
            parts["view_names"] = [view_name(float(azimuth)) for azimuth in views["azimuths_deg"]]
    if (save / "targets.npz").exists():
        parts["rounds"] = _rounds(save / "targets.npz")
    parts["snapshots"] = []
    for step, path in by_step(save, r"it(\d+)-0\.png"):
        with PIL.Image.open(path) as grid:  # colour is the leftmost square
            parts["snapshots"].append((f"step {step}", grid.crop((0, 0, grid.height, grid.height))))
    for key, pattern in (("turntable", r"it(\d+)-test\.mp4"), ("mesh", r"it(\d+)-export/.*\.glb")):
        found = by_step(save, pattern)
        if found:
            parts[key] = found[-1][1]
    name = re.escape(cfg.exporter.get("save_name", "model"))
    exports = by_step(save, rf"it(\d+)-export/{name}\.json")
    if exports:
        newest = exports[-1][1]
        parts["mesh_record"] = json.loads(newest.read_text(encoding="utf-8"))
        levels = newest.with_name(f"{newest.stem}-levels.png")
        parts["mesh_levels"] = levels if levels.exists() else None
    return write_report(trial_dir / "report.html", **parts)


def _rounds(path: Path) -> list[tuple[str, PIL.Image.Image]]:
    """Labels and strips of the pictures that reconstruction was fitted to, those of each step together."""
    with np.load(path) as targets:
        images, steps = targets["images"], targets["step"]
    return [
        (f"from step {step} on", PIL.Image.fromarray(np.concatenate(images[steps == step], axis=1)))
        for step in np.unique(steps)
    ]


def by_step(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """(step, path) of the files below a folder whose relative name matches, earliest step first."""
    files = [
        (re.fullmatch(pattern, path.relative_to(folder).as_posix()), path) for path in folder.rglob("*.*")
    ]
    return sorted((int(match[1]), path) for match, path in files if match)


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (resident set)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
