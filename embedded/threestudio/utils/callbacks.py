"""What the launcher adds to Lightning's trainer: a snapshot of the run's settings, and progress with time left."""

import json
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

import threestudio
from threestudio.utils.config import dump_config
from threestudio.utils.saving import atomic_path

STEPS_BEFORE_TIME_LEFT = 20
_PACKAGES = ("torch", "pytorch-lightning", "diffusers", "open-clip-torch", "omegaconf", "numpy", "trimesh")


class ConfigSnapshotCallback(Callback):
    """`configs/parsed.yaml` (everything resolved) and `configs/raw.yaml` (the file as it was given)."""

    def __init__(self, config_path: str | Path, config: Any, savedir: str | Path) -> None:
        self.config_path = Path(config_path)
        self.config = config
        self.savedir = Path(savedir)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        self.savedir.mkdir(parents=True, exist_ok=True)
        dump_config(self.savedir / "parsed.yaml", self.config)
        raw = self.savedir / "raw.yaml"
        if self.config_path.resolve() != raw.resolve():
            shutil.copyfile(self.config_path, raw)


class CodeSnapshotCallback(Callback):
    """`code/versions.txt` with versions and the commit; `code/changes.patch` with what was not committed."""

    def __init__(self, savedir: str | Path, project: str | Path) -> None:
        self.savedir = Path(savedir)
        self.project = Path(project)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        lines = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
        for package in _PACKAGES:
            try:
                lines.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                continue
        commit = self._git("rev-parse", "HEAD")
        lines.append(f"commit {commit.strip() if commit else 'unknown'}")
        self.savedir.mkdir(parents=True, exist_ok=True)
        (self.savedir / "versions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        patch = self._git("diff", "HEAD")
        if patch:
            (self.savedir / "changes.patch").write_text(patch, encoding="utf-8")

    def _git(self, *arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(self.project), *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            return None


class _Lines:
    """What `tqdm` shows, but as a line of the log now and then: for where stderr is no terminal."""

    def __init__(self, desc: str, total: int | None, initial: int, seconds: float) -> None:
        self.desc, self.total, self.n, self.initial = desc, total, initial, initial
        self.seconds, self.postfix = seconds, ""
        self.started = self.shown = time.time()

    def set_postfix(self, values: dict[str, Any], refresh: bool = False) -> None:
        self.postfix = ", ".join(
            f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()
        )

    def update(self, steps: int) -> None:
        self.n += steps
        now = time.time()
        if now - self.shown >= self.seconds or self.n == self.total:
            self.shown = now
            threestudio.info(
                tqdm.format_meter(
                    self.n,
                    self.total,
                    now - self.started,
                    initial=self.initial,
                    prefix=self.desc,
                    postfix=self.postfix,
                    bar_format="{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]",
                )
            )

    def close(self) -> None:
        pass


class TimeLeftProgressBar(pl.callbacks.ProgressBar):
    """One bar a phase with the time left; where stderr is no terminal, a line every few seconds instead."""

    def __init__(self, seconds_between_lines: float = 15.0) -> None:
        super().__init__()
        self._bars: dict[str, Any] = {}
        self._enabled = True
        self._seconds = seconds_between_lines

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def _open(self, phase: str, total: float | None, initial: int = 0) -> None:
        total = int(total) if total is not None and total not in (float("inf"), -1) else None
        if not self._enabled or total == 1:
            return
        if sys.stderr.isatty():
            leave = phase != "Validation"
            self._bars[phase] = tqdm(
                desc=phase, total=total, initial=initial, dynamic_ncols=True, leave=leave, file=sys.stderr
            )
        else:
            self._bars[phase] = _Lines(phase, total, initial, self._seconds)

    def _close(self, phase: str) -> None:
        bar = self._bars.pop(phase, None)
        if bar is not None:
            bar.close()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._open("Training", total, initial=trainer.global_step)
        self._started = (time.time(), trainer.global_step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        bar = self._bars.get("Training")
        if bar is None:
            return
        started, first = self._started
        if trainer.global_step - first == STEPS_BEFORE_TIME_LEFT and trainer.max_steps > 0:
            a_step = (time.time() - started) / STEPS_BEFORE_TIME_LEFT
            left = tqdm.format_interval(a_step * (trainer.max_steps - trainer.global_step))
            threestudio.info(f"About {left} of training left at this pace, {a_step:.2f} s a step")
        metrics = self.get_metrics(trainer, pl_module)
        bar.set_postfix({k: v for k, v in metrics.items() if k != "v_num"}, refresh=False)
        bar.update(trainer.global_step - bar.n)

    def on_train_end(self, *_: Any) -> None:
        self._close("Training")

    def on_exception(self, *_: Any) -> None:
        for phase in list(self._bars):
            self._close(phase)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._open("Validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance("Validation")

    def on_validation_end(self, *_: Any) -> None:
        self._close("Validation")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open("Rendering", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance("Rendering")

    def on_test_end(self, *_: Any) -> None:
        self._close("Rendering")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open("Exporting", sum(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        self._advance("Exporting")

    def on_predict_end(self, *_: Any) -> None:
        self._close("Exporting")

    def _advance(self, phase: str) -> None:
        if phase in self._bars:
            self._bars[phase].update(1)


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
