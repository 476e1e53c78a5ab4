"""Who works where: a folder is one program's at a time, and what a killed one left half-written is removed by the next."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from imagedream.runs.files import UNFINISHED

_TEMPORARY = "imagedream-"


@contextmanager
def locked(folder: str | Path, what: str, beside: bool = False) -> Iterator[None]:
    """A folder for this process alone, without the unfinished files that a killed one left there.

    The system gives the lock back however the process ends, so that of a dead one is in nobody's way.

    Args:
        folder: is made if need be.
        what: works there, for the message.
        beside: keeps the lock file beside the folder, which may be moved or not be there then.

    Raises:
        ValueError: another process is at work there.
    """
    folder = Path(folder).absolute()
    lock = folder.with_name(f".{folder.name}.lock") if beside else folder / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, folder)
        try:
            stack.enter_context(_held(lock))
        except Timeout as error:
            raise ValueError(
                f"{folder}: another {what} is at work there; wait for it or name another folder"
            ) from error
        for path in folder.rglob(f"{UNFINISHED}*"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def remove_dead(lock: Path) -> None:
    """Remove a lock file that nobody holds."""
    with suppress(Timeout, OSError), _held(lock):
        pass


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder that is gone when the block ends; those of processes that were killed are removed first."""
    parent = Path(tempfile.gettempdir())
    for lock in parent.glob(f"{_TEMPORARY}*.lock"):
        with suppress(Timeout, OSError), _held(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    folder = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    with _held(folder.with_suffix(".lock")):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """A lock file that is there as long as it is held; raises `Timeout` if another process holds it."""
    lock = FileLock(path, thread_local=False)
    with lock.acquire(blocking=False):
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows, where an open file stays
                path.unlink(missing_ok=True)  # still held: whoever waits finds it gone and makes its own
