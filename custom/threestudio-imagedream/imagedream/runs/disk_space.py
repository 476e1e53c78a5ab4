"""Where a run writes: whether it can, and whether the disk has room for it."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

MIB = 2**20
LEAST_FREE_BYTES = 200 * MIB
"""For the mesh, its textures, the report and the logs."""


def check_folder(folder: str | Path, needed_bytes: int = 0, what: str = "") -> None:
    """Raise an OSError unless a folder can be made and written, on a disk with enough space.

    Args:
        folder: where files will go; need not exist.
        needed_bytes: space that must be free.
        what: what the space is for, for the message.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(f"the run folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"the run folder {folder} cannot be written: {nearest} is not writable")
    free = shutil.disk_usage(nearest).free
    if free < needed_bytes:
        wanted = f"{needed_bytes / MIB:.0f} MiB{f' ({what})' if what else ''}"
        raise OSError(errno.ENOSPC, f"only {free / MIB:.0f} MiB free at {nearest}, the run needs {wanted}")


def checkpoint_bytes(module: Any, copies: int = 2) -> int:
    """Size of a module's checkpoint.

    Args:
        module: the `torch.nn.Module` that is trained; its parameters and buffers are in the checkpoint.
        copies: of all that learns, besides: two moments as with Adam, and an average where there is one.
    """
    state = sum(value.nbytes for value in module.state_dict().values())
    return state + copies * sum(p.nbytes for p in module.parameters() if p.requires_grad)
