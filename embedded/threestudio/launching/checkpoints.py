"""Writing checkpoints: whole or not at all, every so many steps, and by the clock."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from threestudio.utils.saving import atomic_path


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's files, but written beside their place and moved there, so that one is whole or not there."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: Any = None) -> None:
        try:
            # through a file of Python's, whose errors say what happened, such as a full disk
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch raises an error of its own while it handles that of the file
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            problem = f"{path} could not be written: {cause.strerror}; what was written before is whole"
            raise OSError(cause.errno, problem) from error


class RecentCheckpoints(Callback):
    """Saves by the clock, and removes all but the newest of what it saved."""

    prefix = "recent-step="

    def __init__(self, folder: str | Path, every_n_minutes: float = 10, keep: int = 2) -> None:
        if not (isinstance(every_n_minutes, int | float) and every_n_minutes > 0):
            raise ValueError(
                f"checkpoint.every_n_minutes is {every_n_minutes!r}, must be a number of minutes, or null for never"
            )
        if not (isinstance(keep, int) and keep >= 1):
            raise ValueError(f"checkpoint.keep is {keep!r}, must be 1 or more checkpoints")
        self.folder = Path(folder)
        self.seconds = 60 * every_n_minutes
        self.keep = keep
        self.saved = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.saved = time.monotonic()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if time.monotonic() - self.saved < self.seconds:
            return
        trainer.save_checkpoint(self.folder / f"{self.prefix}{trainer.global_step}.ckpt")
        self.saved = time.monotonic()
        recent = sorted(self.folder.glob(f"{self.prefix}*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        for path in recent[: -self.keep]:
            path.unlink(missing_ok=True)


def checkpoint_callbacks(options: dict[str, Any], folder: Path) -> list[Callback]:
    """The callbacks that save checkpoints.

    Args:
        options: `checkpoint` of the config: arguments of Lightning's ModelCheckpoint, where `save_top_k` without a
            `monitor` keeps that many of the newest; and `every_n_minutes` and `keep`, those of `RecentCheckpoints`.
        folder: where they go.
    """
    by_clock = {name: options[name] for name in ("every_n_minutes", "keep") if name in options}
    by_steps = {name: value for name, value in options.items() if name not in by_clock}
    if by_steps.get("monitor") is None and by_steps.get("save_top_k", 1) > 1:
        by_steps |= {"monitor": "step", "mode": "max"}
    # a resumed trial goes on with the same last.ckpt instead of starting a last-v1.ckpt
    callbacks = [ModelCheckpoint(dirpath=str(folder), **{"enable_version_counter": False, **by_steps})]
    if by_clock.get("every_n_minutes", 10) is not None:
        callbacks.append(RecentCheckpoints(folder, **by_clock))
    return callbacks
