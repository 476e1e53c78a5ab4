"""What a run leaves on disk so that nothing is lost: checkpoints to resume from, and the trained part itself."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from imagedream.runs.atomic_checkpoints import Checkpoints
from imagedream.runs.files import atomic_path
from imagedream.runs.signals import any_process


class TrainingCheckpoints(Checkpoints):
    """`step-N.ckpt` every few minutes and every few steps, at the end, and when the run is stopped.

    Between batches weights, average and counts agree, and a step whose gradients are still being accumulated begins
    again after a resume, so a resumed run repeats an uninterrupted one to the bit.

    Args:
        folder: gets the files, and `last.ckpt`, a link to the newest.
        minutes: between checkpoints.
        steps: between checkpoints; 0 goes by time alone.
        keep: how many of the newest stay.
        snapshot: called with trainer and module after each checkpoint but those before a stop, and at the end.
    """

    def __init__(self, folder: Path, minutes: float, steps: int, keep: int, snapshot: Callable) -> None:
        super().__init__(folder, minutes, steps, keep, prefix="step-")
        self.snapshot = snapshot

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write when it is time."""
        before = self.written_step
        super().on_train_batch_end(trainer, pl_module)
        if self.written_step != before and not trainer.should_stop:
            self.snapshot(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last one, then the trained part."""
        self.save(trainer)
        self.snapshot(trainer, pl_module)

    def save(self, trainer: pl.Trainer) -> Path | None:
        """Write a checkpoint and the link to it."""
        path = super().save(trainer)
        if path is not None and trainer.is_global_zero:
            with atomic_path(self.folder / "last.ckpt") as temporary:
                link(temporary, path)
        return path

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Count the batches that went into the weights, not those of a step that is not done.

        Raises:
            FloatingPointError: a weight is not finite; nothing is written.
        """
        check_finite(trainer)
        batches = trainer.global_step * trainer.accumulate_grad_batches
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), batches))


def link(new: Path, old: Path) -> None:
    """Make `new` lead to `old`, beside it; where links need a permission, as on Windows, it is a second name."""
    try:
        new.symlink_to(old.name)
    except OSError:
        os.link(old, new)


def check_finite(trainer: pl.Trainer) -> None:
    """Raise FloatingPointError, in every process, if a learned weight is infinite or no number."""
    broken = [
        name
        for name, parameter in trainer.lightning_module.named_parameters()
        if parameter.requires_grad and not parameter.detach().isfinite().all()
    ]
    if any_process(trainer, bool(broken))[0]:
        told = f"{len(broken)} parameters, first {broken[0]}" if broken else "parameters of another process"
        problem = f"weights are not finite after step {trainer.global_step}: {told}"
        raise FloatingPointError(f"{problem}; no checkpoint was written")


def slurm_job() -> str | None:
    """The job as `scontrol requeue` wants it; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Put a stopped job into SLURM's queue again."""
    subprocess.run(["scontrol", "requeue", slurm_job()], check=True)
