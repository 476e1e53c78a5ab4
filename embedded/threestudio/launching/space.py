"""Where a run writes: whether it can, and whether the disk has room for it."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

MIB = 2**20
LEAST_FREE_BYTES = 200 * MIB
"""For the mesh, its textures, the report and the logs."""


def nearest_folder(path: str | Path) -> Path:
    """The folder itself, or the first of those around it that exists."""
    nearest = Path(path).absolute()
    while not nearest.exists():
        nearest = nearest.parent
    return nearest


def check_output_folder(folder: str | Path, needed_bytes: int = LEAST_FREE_BYTES, what: str = "") -> None:
    """Raise an OSError unless `folder` can be made and written, on a disk with enough space.

    Args:
        folder: where files will go; need not exist.
        needed_bytes: space that must be free.
        what: what the space is for, for the message.
    """
    nearest = nearest_folder(folder)
    if not nearest.is_dir():
        raise NotADirectoryError(f"the run folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"the run folder {folder} cannot be written: {nearest} is not writable")
    free = shutil.disk_usage(nearest).free
    if free < needed_bytes:
        wanted = f"{needed_bytes / MIB:.0f} MiB{what}"
        raise OSError(errno.ENOSPC, f"only {free / MIB:.0f} MiB free at {nearest}, a run needs {wanted}")


def check_trial(trial: str | Path, system: Any, cfg: Any) -> None:
    """Raise an OSError unless the trial's folders can be written and the disk has room for all of a training run.

    Args:
        trial: the trial's folder.
        system: the system that will be trained.
        cfg: the experiment's config.
    """
    checkpoint = checkpoint_bytes(system)
    checkpoints = checkpoint * checkpoint_count(cfg)
    pictures = picture_bytes(cfg)
    what = (
        f" ({checkpoints / MIB:.0f} of checkpoints, {pictures / MIB:.0f} of pictures, "
        f"{LEAST_FREE_BYTES / MIB:.0f} of other files)"
    )
    check_output_folder(trial, checkpoints + pictures + LEAST_FREE_BYTES, what)
    for name in ("ckpts", "save", "configs", "code", "csv_logs"):
        check_output_folder(Path(trial, name), 0)


def checkpoint_bytes(system: Any) -> int:
    """Size of a checkpoint: the state, and two moments of everything that is trained, as with Adam."""
    state = sum(value.nbytes for value in system.state_dict().values())
    return state + 2 * sum(p.nbytes for p in system.parameters() if p.requires_grad)


def checkpoint_count(cfg: Any) -> int:
    """Checkpoints on disk at a time at most, the one being written among them."""
    options = cfg.get("checkpoint") or {}
    steps, every = cfg.trainer.get("max_steps", -1), options.get("every_n_train_steps") or 0
    kept = options.get("save_top_k", 1)
    written = steps // every if every > 0 and steps > 0 else 1
    by_steps = written if kept == -1 else min(kept, written)
    return by_steps + bool(options.get("save_last")) + options.get("keep", 2) + 1


def picture_bytes(cfg: Any) -> int:
    """Validation views and turntable: three squares side by side, which PNG makes half as large or smaller."""
    data, trainer = cfg.get("data") or {}, cfg.trainer
    steps, every = max(trainer.get("max_steps", 0), 0), trainer.get("val_check_interval") or 0
    validations = steps // every if isinstance(every, int) and every > 0 else 1
    views = data.get("n_test_views", 0) + validations * data.get("n_val_views", 0)
    return views * data.get("eval_height", 0) * data.get("eval_width", 0) * 3 * 3 // 2
