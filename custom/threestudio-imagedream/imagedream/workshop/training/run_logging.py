"""What a run tells while it goes on: numbers for machines, a bar, pictures, the model so far."""

import copy
import json
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import Tensor

from imagedream.runs.files import atomic_folder
from imagedream.workshop.training.averaging import AveragedWeights
from imagedream.workshop.training.strategies import whole_model


class Statistics(pl.Callback):
    """`stats.jsonl`: one line of numbers every few steps and after each validation; means over all processes.

    `waiting` is the fraction of the time since the last line that the trainer waited for a batch.

    Args:
        path: the file, appended to.
        every: steps between lines.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self._started = self._line_at = self._free_at = time.monotonic()
        self._waited, self._first_step, self._line_step = 0.0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure."""
        self._started = self._line_at = self._free_at = time.monotonic()
        self._first_step = self._line_step = trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        """The batch is there."""
        self._waited += time.monotonic() - self._free_at

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A line of training numbers."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._line_step:
            now = time.monotonic()
            pace = (now - self._line_at) / (step - self._line_step)
            self.write(
                trainer,
                numbers(trainer, "train/"),
                seconds_a_step=pace,
                waiting=min(1.0, self._waited / max(now - self._line_at, 1e-9)),
                seconds_left=(trainer.max_steps - step) * (now - self._started) / (step - self._first_step),
            )
            self._line_at, self._line_step, self._waited = now, step, 0.0
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
    """A progress bar that knows where the end is, and so how long it will take."""

    @property
    def total_train_batches(self) -> int:
        """Batches of the whole run: the data itself has no end."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches


class Snapshots:
    """The trained part with averaged weights on disk, the same whatever strategy trains it.

    Args:
        path: replaced by each new snapshot.
        average: whose weights are saved.
        save: writes what `finish` of the module returned to an empty folder.
    """

    def __init__(
        self, path: Path, average: AveragedWeights, save: Callable[[Any, Path], None] | None = None
    ) -> None:
        self.path, self.average, self.save = path, average, save or save_pretrained

    def __call__(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it; every process takes part, the first one writes."""
        was_training = pl_module.training
        pl_module.eval()
        with self.average.averaged(pl_module):
            finished = pl_module.finish(list(islice(trainer.datamodule.val_dataloader(), 4)))
            model = whole_model(pl_module.model)
            if trainer.is_global_zero:
                with atomic_folder(self.path, replace=True) as folder:
                    self.save(with_model(finished, pl_module.model, model), folder)
        pl_module.train(was_training)


def with_model(finished: Any, model: Any, other: Any) -> Any:
    """What `finish` returned with another model in the place of the trained one."""
    if finished is model or model is other:
        return other if finished is model else finished
    changed = copy.copy(finished)
    changed.register_modules(**{name: other for name, part in finished.components.items() if part is model})
    return changed


def save_pretrained(finished: Any, folder: Path) -> None:
    """As diffusers does it."""
    finished.save_pretrained(folder, safe_serialization=True)
