"""What a run leaves on disk so that nothing is lost: checkpoints to go on from, and the trained part itself."""

import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from imagedream.runs.files import atomic_path
from imagedream.workshop.training.strategies import any_process

logger = logging.getLogger(__name__)

LAST = "last.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoint files that are there whole or not at all, whatever ends the process."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a file beside `path`, wait until it is on the disk, and give it its name."""
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run, if there is any."""
    return max(folder.glob("step-*.ckpt"), key=_step, default=None)


def _step(path: Path) -> int:
    return int(re.search(r"\d+", path.stem)[0])


class Checkpoints(Checkpoint):
    """A checkpoint every few minutes and every few steps, at the end, and when someone asks the run to stop.

    SIGTERM, Ctrl-C and, under SLURM, SIGUSR1 are heeded between two batches, by all processes at the same one; a
    second Ctrl-C ends at once and the last checkpoint stays. Between batches weights, average and counts agree, and a
    step whose gradients are still being accumulated begins again after a resume, so a resumed run repeats an
    uninterrupted one to the bit.

    Args:
        folder: gets `step-N.ckpt`, and `last.ckpt`, a link to the newest.
        minutes: between checkpoints.
        steps: between checkpoints; 0 goes by time alone.
        keep: how many of the newest stay.
        snapshot: called with trainer and module after each checkpoint but those before a stop, and at the end.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        steps: int,
        keep: int,
        snapshot: Callable[[pl.Trainer, pl.LightningModule], None],
    ) -> None:
        super().__init__()
        self.folder, self.minutes, self.steps, self.keep, self.snapshot = (
            folder,
            minutes,
            steps,
            keep,
            snapshot,
        )
        self.signal: signal.Signals | None = None
        """What asked the run to stop."""
        self._handlers: dict[signal.Signals, Any] = {}
        self._written_at, self._written_step, self._step = time.monotonic(), -1, -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remember what signals did before the run."""
        if threading.current_thread() is threading.main_thread():
            wanted = [signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if _slurm_job() else [])]
            self._handlers = {number: signal.getsignal(number) for number in wanted}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take signals over from Lightning, which heeds them wherever it is, and in each process at another batch."""
        self._written_at, self._step = time.monotonic(), trainer.global_step
        self._written_step = trainer.global_step if trainer.ckpt_path else -1
        for number in self._handlers:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write when it is time."""
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        late = trainer.is_global_zero and time.monotonic() - self._written_at > 60 * self.minutes
        stop, late = any_process(trainer, self.signal is not None, late)
        if stop:
            self.signal = self.signal or signal.SIGTERM  # another process was asked
            trainer.should_stop = True
            trainer.limit_val_batches = 0  # Lightning would validate before it stops
            self.save(trainer)
        elif stepped and (late or (self.steps and self._step % self.steps == 0)):
            self.save(trainer)
            self.snapshot(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last one, then the trained part; under SLURM a stopped job is put in the queue again."""
        self.save(trainer)
        self.snapshot(trainer, pl_module)
        if self.signal == signal.SIGUSR1 and trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", _slurm_job()], check=True)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint, unless this step has one.

        Raises:
            FloatingPointError: a weight is not finite; nothing is written.
        """
        if trainer.global_step == self._written_step:
            return
        check_finite(trainer)
        path = self.folder / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        self._written_at, self._written_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            with atomic_path(self.folder / LAST) as temporary:
                temporary.symlink_to(path.name)
            for old in sorted(self.folder.glob("step-*.ckpt"), key=_step)[: -self.keep]:
                old.unlink()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Count the batches that went into the weights, not those of a step that is not done."""
        batches = trainer.global_step * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), batches))


def check_finite(trainer: pl.Trainer) -> None:
    """Raise FloatingPointError, in every process, if a learned weight is infinite or no number."""
    broken = [
        name
        for name, parameter in trainer.lightning_module.named_parameters()
        if parameter.requires_grad and not parameter.detach().isfinite().all()
    ]
    if any_process(trainer, bool(broken))[0]:
        told = (
            f"{len(broken)} parameters, the first is {broken[0]}"
            if broken
            else "parameters of another process"
        )
        raise FloatingPointError(
            f"weights are not finite after step {trainer.global_step}: {told}; no checkpoint was written"
        )


def _slurm_job() -> str | None:
    """The job as `scontrol requeue` wants it."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")
