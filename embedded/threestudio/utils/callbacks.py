"""What the launcher adds to Lightning's trainer: a snapshot of the run's settings, and progress with time left."""

import json
import platform
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from tqdm import tqdm

import threestudio
from threestudio.utils.config import dump_config
from threestudio.utils.saving import atomic_path

STEPS_BEFORE_TIME_LEFT = 20
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
_PACKAGES = ("torch", "pytorch-lightning", "diffusers", "open-clip-torch", "omegaconf", "numpy", "trimesh")


class Snapshot(Callback):
    """What a run was made with, in the trial's folder.

    `configs/parsed.yaml` is the config with everything resolved, `configs/raw.yaml` the file as it was given;
    `code/versions.txt` has versions and the commit, `code/changes.patch` what was not committed.
    """

    def __init__(self, config_path: str | Path, config: Any, project: str | Path) -> None:
        self.config_path, self.config, self.project = Path(config_path), config, Path(project)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        configs, code = (Path(self.config.trial_dir, name) for name in ("configs", "code"))
        for folder in (configs, code):
            folder.mkdir(parents=True, exist_ok=True)
        dump_config(configs / "parsed.yaml", self.config)
        if self.config_path.resolve() != (configs / "raw.yaml").resolve():
            shutil.copyfile(self.config_path, configs / "raw.yaml")
        commit = self._git("rev-parse", "HEAD") or "unknown"
        lines = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
        for package in _PACKAGES:
            with suppress(metadata.PackageNotFoundError):
                lines.append(f"{package} {metadata.version(package)}")
        text = "\n".join([*lines, f"commit {commit.strip()}", ""])
        (code / "versions.txt").write_text(text, encoding="utf-8")
        patch = self._git("diff", "HEAD")
        if patch:
            (code / "changes.patch").write_text(patch, encoding="utf-8")

    def _git(self, *arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(self.project), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return None


class TimeLeft(Callback):
    """One line after some steps: how long the optimisation will take."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started, self._first = time.time(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step - self._first == STEPS_BEFORE_TIME_LEFT and trainer.max_steps > 0:
            a_step = (time.time() - self._started) / STEPS_BEFORE_TIME_LEFT
            left = tqdm.format_interval(a_step * (trainer.max_steps - trainer.global_step))
            threestudio.info(f"About {left} of training left at this pace, {a_step:.2f} s a step")


class Bars(TQDMProgressBar):
    """Lightning's bars, for a terminal; the endless dataset has as many batches as there are steps."""

    @property
    def total_train_batches(self) -> float:
        return max(self.trainer.max_steps, 0) * self.trainer.accumulate_grad_batches or float("inf")


class Lines(ProgressBar):
    """A line of the log now and then, for where there is no terminal."""

    def __init__(self, seconds_between_lines: float = 15.0) -> None:
        super().__init__()
        self._seconds, self._phase = seconds_between_lines, ""

    def _say(self, phase: str, done: int, total: float) -> None:
        now = time.time()
        if phase != self._phase:
            self._phase, self._begun, self._first, self._shown = phase, now, done - 1, now
        if now - self._shown >= self._seconds or done == total > 1:
            self._shown = now
            shown = {"prefix": phase, "initial": self._first, "bar_format": LINE}
            threestudio.info(tqdm.format_meter(done, total, now - self._begun, **shown))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._say("Training", trainer.global_step, trainer.max_steps)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int, *_: Any) -> None:
        self._say("Rendering", batch_idx + 1, sum(trainer.num_test_batches))


def progress_callbacks() -> list[Callback]:
    """What shows how far the run is."""
    return [TimeLeft(), Bars() if sys.stdout.isatty() else Lines()]


class PhaseTimer:
    """Seconds per phase of the run, and the peak memory, kept in `timings.json` after every phase."""

    def __init__(self, path: str | Path, started: float, keep: bool = False) -> None:
        """With `keep`, phases that an earlier run of the trial noted stay in the file."""
        self.path = Path(path)
        self.started = started
        self.seconds: dict[str, float] = {}
        if keep and self.path.is_file():
            self.seconds = json.loads(self.path.read_text(encoding="utf-8")).get("seconds", {})
            self.seconds.pop("total", None)
        self.facts: dict[str, Any] = {}

    def finish(self, phase: str, since: float) -> float:
        """Note the time from `since` to now, write the file, return now."""
        now = time.time()
        self.seconds[phase] = round(now - since, 3)
        record = {
            "seconds": {**self.seconds, "total": round(sum(self.seconds.values()), 3)},
            "peak_memory_bytes": peak_memory_bytes(),
            **self.facts,
        }
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        threestudio.debug(f"{phase} took {now - since:.1f} s")
        return now


def peak_memory_bytes() -> int:
    """The most memory this process has held so far (resident set)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
