"""Checkpoints that are whole or not there, the newest kept, and found again."""

import logging
import math
import os
import pickle
import pickletools
import re
import time
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from torch.utils._pytree import tree_leaves

from imagedream.runs.files import atomic_path
from imagedream.runs.ranges import Count, Positive, check_value
from imagedream.runs.signals import any_process

logger = logging.getLogger(__name__)


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's files, but written beside their place and moved there: Lightning itself writes over the old file."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a file, wait until it is on the disk, and give it its name.

        Raises:
            OSError: it could not be written; says why, such as a full disk.
        """
        try:
            # through a file of Python's, whose errors say what happened
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


class Checkpoints(Checkpoint):
    """A checkpoint every few minutes, every few steps, and when the run is stopped; the newest ones are kept.

    Lightning's ModelCheckpoint goes either by the clock or by steps, does not save when a run is stopped, and would
    replace the host's own one where a module's `configure_callbacks` returns it.

    Args:
        folder: gets the files.
        minutes: between checkpoints; None goes by steps alone.
        steps: between checkpoints, besides; 0 goes by time alone.
        keep: how many of the newest stay.
        prefix: of the files' names, before the step.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float | None = 10.0,
        steps: int = 0,
        keep: int = 2,
        prefix: str = "recent-step=",
    ) -> None:
        check_value("checkpoint minutes", minutes, Positive | None)
        check_value("checkpoints to keep", keep, Count)
        super().__init__()
        self.folder, self.minutes, self.steps, self.keep, self.prefix = folder, minutes, steps, keep, prefix
        self._written_at = time.monotonic()
        self.written_step = -1
        """Step of the newest checkpoint."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """All checkpoints of the run are whole or not there, the host's own too."""
        trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count; there is nothing new to save yet."""
        check_optimizers(trainer.optimizers)
        self._written_at, self.written_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save when it is time, or when `StopOnSignal`, which comes before this callback, ends the run."""
        waited = time.monotonic() - self._written_at
        late = self.minutes is not None and trainer.is_global_zero and waited > 60 * self.minutes
        by_steps = self.steps > 0 and trainer.global_step % self.steps == 0
        if any_process(trainer, late)[0] or by_steps or trainer.should_stop:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> Path | None:
        """Write a checkpoint unless this step has one; the new file. Every process must ask."""
        if trainer.global_step == self.written_step:
            return None
        path = self.folder / f"{self.prefix}{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        self._written_at, self.written_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob(f"{self.prefix}*.ckpt"))[: -self.keep]:
                old.unlink()
        return path


def newest_checkpoint(folder: str | Path, training: bool | None = True) -> Path | None:
    """The checkpoint of a folder with the most steps that is not damaged; says which it passed over. Runs no code in them."""
    found = [p for p in Path(folder).glob("*.ckpt") if not p.name.startswith(".") and not p.is_symlink()]
    # clocks are set back and files are copied, so their times decide between equal steps only
    for path in sorted(found, key=lambda path: (_step(path), path.stat().st_mtime_ns), reverse=True):
        problem = why_damaged(path, training)
        if problem is None:
            return path
        logger.warning("%s is damaged (%s); taking the one before", path, problem)
    return None


def why_damaged(path: str | Path, training: bool | None = True) -> str | None:
    """What is wrong with a checkpoint file, by its check sums and by what a run needs; None if nothing. Runs no code in it.

    Args:
        path: the file.
        training: whether the run is to be trained on, which needs the optimiser's state too; None looks at sums alone.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "it is no checkpoint"
            if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                return "its parts are compressed, which torch never writes: they may unpack to any size"
            broken = archive.testzip()
            if broken:
                return f"its part {broken} is damaged"
        if training is None:
            return None
        return _why_unfit(torch.load(path, map_location="cpu", weights_only=True, mmap=True), training)
    except pickle.UnpicklingError:  # its message advises to run what is in the file
        return "it holds more than tensors and plain values"
    except Exception as error:  # whatever a file that is none makes its readers raise
        return (str(error) or type(error).__name__).splitlines()[0]


def check_optimizers(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Raise ValueError if a state is that of other parameters, which torch does not look at when it loads one."""
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for name in {"exp_avg", "exp_avg_sq", "momentum_buffer"} & state.keys():
                if state[name].shape != parameter.shape:
                    shapes = f"{tuple(state[name].shape)}, its parameter {tuple(parameter.shape)}"
                    raise ValueError(f"the checkpoint cannot be resumed: an {name} has the shape {shapes}")


_CONTENTS = {"state_dict": dict, "epoch": int, "global_step": int, "pytorch-lightning_version": str}
_OF_TRAINING = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}


def _why_unfit(checkpoint: Any, training: bool) -> str | None:
    """What a run that is resumed would stumble over."""
    if not isinstance(checkpoint, dict):
        return "it is no checkpoint of a run"
    for name, kind in {**_CONTENTS, **_OF_TRAINING}.items():
        needed = name in _CONTENTS or training
        if name not in checkpoint:
            if needed:
                return f"it has no {name}"
        elif not isinstance(checkpoint[name], kind) or isinstance(checkpoint[name], bool):
            return f"its {name} is {type(checkpoint[name]).__name__}, must be {kind.__name__}"
    if not all(isinstance(value, torch.Tensor) for value in checkpoint["state_dict"].values()):
        return "its state_dict holds something else than tensors"
    if min(checkpoint["epoch"], checkpoint["global_step"]) < 0:
        return f"it is of epoch {checkpoint['epoch']}, step {checkpoint['global_step']}"
    if not re.match(r"\d+\.\d+", checkpoint["pytorch-lightning_version"]):
        return f"its pytorch-lightning_version is {checkpoint['pytorch-lightning_version']!r}"
    states = checkpoint.get("optimizer_states", [])
    if training and not (
        states and all(isinstance(state, dict) and "param_groups" in state for state in states)
    ):
        return "its optimizer_states are none"
    for name in ("state_dict", "optimizer_states") if training else ("state_dict",):
        leaves = [leaf for leaf in tree_leaves(checkpoint[name]) if isinstance(leaf, torch.Tensor | float)]
        if any(torch.as_tensor(leaf).isnan().any() for leaf in leaves):
            return f"its {name} holds NaN"
    return None


def _step(path: Path) -> int | float:
    """What a checkpoint says of its step; infinite where it cannot be read, -1 where it does not say."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            key = None
            for operation, argument, _ in pickletools.genops(archive.read(name)):
                if "PUT" in operation.name or operation.name == "MEMOIZE":  # between key and value
                    continue
                if key == "global_step" and isinstance(argument, int):
                    return argument
                key = argument
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile, EOFError, zlib.error):
        return math.inf
    return -1
