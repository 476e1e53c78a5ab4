"""What happens around the steps: averaged weights, a log for machines, models on disk while training goes on."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from diffusers.training_utils import EMAModel

from imagedream.files import atomic_folder


class AveragedWeights(pl.Callback):
    """Exponential moving average of `module.model`'s weights, used for validation and for what is saved.

    Args:
        decay: of the average; early steps use less, (1 + step) / (10 + step).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}, must be in [0, 1)")
        self.decay = decay
        self._average: EMAModel | None = None
        self._restored: dict[str, Any] | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or from the resumed average."""
        self._average = EMAModel(pl_module.model.parameters(), decay=self.decay)
        if self._restored is not None:
            self._average.load_state_dict(self._restored)
        self._average.to(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take the new weights in, once an optimiser step."""
        if (trainer.fit_loop.total_batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._average.step(pl_module.model.parameters())

    @contextmanager
    def averaged(self, model: torch.nn.Module) -> Iterator[None]:
        """The model with averaged weights inside the block."""
        self._average.store(model.parameters())
        self._average.copy_to(model.parameters())
        try:
            yield
        finally:
            self._average.restore(model.parameters())

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        self._average.store(pl_module.model.parameters())
        self._average.copy_to(pl_module.model.parameters())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights being trained."""
        self._average.restore(pl_module.model.parameters())

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {} if self._average is None else self._average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._restored = state_dict or None


class Statistics(pl.Callback):
    """`stats.jsonl`: one line of numbers every few steps and after each validation.

    Args:
        path: the file, appended to.
        every: steps between lines.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self._started = path, every, time.monotonic()

    def _write(self, trainer: pl.Trainer, prefix: str) -> None:
        values = {
            name: round(float(value), 6)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(prefix)
        }
        line = {"step": trainer.global_step, "seconds": round(time.monotonic() - self._started, 1), **values}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """A line of training numbers."""
        if trainer.global_step % self.every == 0:
            self._write(trainer, "train/")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line of validation numbers."""
        if not trainer.sanity_checking:
            self._write(trainer, "validation/")


class Snapshots(pl.Callback):
    """The trained part with averaged weights as a folder, every few minutes and at the end.

    Args:
        folder: replaced by each new snapshot.
        average: whose weights are saved.
        minutes: between snapshots.
    """

    def __init__(self, folder: Path, average: AveragedWeights, minutes: float) -> None:
        self.folder, self.average, self.minutes, self._last = folder, average, minutes, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """A snapshot when it is time."""
        if time.monotonic() - self._last > 60 * self.minutes:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last one."""
        self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it."""
        self._last = time.monotonic()
        was_training = pl_module.training
        pl_module.eval()
        with self.average.averaged(pl_module.model), atomic_folder(self.folder, replace=True) as folder:
            finished = pl_module.finish(list(islice(trainer.datamodule.val_dataloader(), 4)))
            finished.save_pretrained(folder, safe_serialization=True)
        pl_module.train(was_training)
