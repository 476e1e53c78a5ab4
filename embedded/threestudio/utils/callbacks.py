"""What the launcher adds to Lightning's trainer: a snapshot of the run's settings, and progress with time left."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar, TQDMProgressBar
from tqdm import tqdm

import threestudio
from threestudio.utils.config import dump_config

STEPS_BEFORE_TIME_LEFT = 20
LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"


class Snapshot(Callback):
    """`configs/parsed.yaml` (the config with everything resolved) and `configs/raw.yaml` (the file as it was given)."""

    def __init__(self, config_path: str | Path, config: Any) -> None:
        self.config_path, self.config = Path(config_path), config

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        folder = Path(self.config.trial_dir, "configs")
        folder.mkdir(parents=True, exist_ok=True)
        dump_config(folder / "parsed.yaml", self.config)
        if self.config_path.resolve() != (folder / "raw.yaml").resolve():
            shutil.copyfile(self.config_path, folder / "raw.yaml")


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

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.initial = trainer.global_step  # what was resumed took no time


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
