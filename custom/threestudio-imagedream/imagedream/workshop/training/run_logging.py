"""What a run logs: lines of numbers, and a progress bar."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor


class Statistics(pl.Callback):
    """`stats.jsonl`: one line of numbers every few steps and after each validation; means over all processes.

    `waiting` is the fraction of the time since the last line that the trainer waited for a batch. `seconds_left` does not count
    the steps before the first line, which may have compiled the network.

    Args:
        path: the file, appended to.
        every: steps between lines.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self._started = self._line_at = self._free_at = time.monotonic()
        self._waited, self._line_step = 0.0, 0
        self._steady: tuple[float, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure."""
        self._started = self._line_at = self._free_at = time.monotonic()
        self._line_step = trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        """The batch is there."""
        self._waited += time.monotonic() - self._free_at

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A line of training numbers."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._line_step:
            now = time.monotonic()
            pace = (now - self._line_at) / (step - self._line_step)
            since, first = self._steady or (self._line_at, self._line_step)
            self.write(
                trainer,
                numbers(trainer, "train/"),
                seconds_a_step=pace,
                waiting=min(1.0, self._waited / max(now - self._line_at, 1e-9)),
                seconds_left=(trainer.max_steps - step) * (now - since) / (step - first),
            )
            self._line_at, self._line_step, self._waited = now, step, 0.0
            self._steady = self._steady or (now, step)
        self._free_at = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line of validation numbers; the time it took counts as no waiting."""
        self.write(trainer, numbers(trainer, "validation/"))
        self._free_at = time.monotonic()

    def write(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor], **more: float) -> None:
        """A line; every process must ask."""
        if trainer.world_size > 1:
            values = {name: float(trainer.strategy.reduce(value)) for name, value in values.items()}
        seconds = {"seconds": time.monotonic() - self._started, **more}
        line = {
            "step": trainer.global_step,
            **{name: round(float(value), 3) for name, value in seconds.items()},
            **{name: round(float(value), 6) for name, value in values.items()},
        }
        if trainer.is_global_zero:
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")


def numbers(trainer: pl.Trainer, prefix: str) -> dict[str, Any]:
    """What was logged last under names that begin so, in one order in all processes."""
    metrics = trainer.callback_metrics
    return {name: metrics[name] for name in sorted(metrics) if name.startswith(prefix)}


class Bar(TQDMProgressBar):
    """Lightning's progress bar with the batches of the whole run; its own takes optimiser steps for batches."""

    @property
    def total_train_batches(self) -> int:
        """Batches of the whole run: the data itself has no end."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches
