"""Writing files so that nobody ever sees half of one."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".unfinished-"
"""How the names of files and folders begin that are being written; see `imagedream.runs.locks.locked`."""


def _beside(path: Path) -> Path:
    """A fresh hidden name in the same folder, hence on the same disk, that keeps the ending writers go by."""
    return path.with_name(f"{UNFINISHED}{uuid.uuid4().hex[:8]}{path.suffix}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and is removed when it does not.

    Missing parent folders are made. Example: `with atomic_path("model.glb") as temporary: mesh.export(temporary)`.

    Args:
        path: the file to write; what was there stays untouched until the new file is complete.

    Yields:
        The path to write to, with the same ending as `path`.

    Raises:
        IsADirectoryError: when `path` is a folder.
        NotADirectoryError: when its parent is a file.
        FileNotFoundError: when the block wrote nothing.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a file to {path}: it is a folder")
    if path.parent.is_file():
        raise NotADirectoryError(f"cannot write {path}: {path.parent} is a file, not a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well and is removed when it does not.

    Args:
        path: the folder to make; it must not exist yet or be empty, unless `replace`.
        replace: let the new folder take the place of an old one.

    Yields:
        The (existing, empty) folder to fill.

    Raises:
        FileExistsError: when `path` is a file or holds something already.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and (replace or not any(path.iterdir()))):
        raise FileExistsError(f"{path} exists already; name a new or an empty folder")
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            # a folder cannot be replaced in one step: move the old one aside, then remove it
            old = _beside(path)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def with_digest(name: str, source: str, most_bytes: int) -> str:
    """A file name cut to so many bytes of UTF-8, that ends in a digest of its source so that others are others.

    >>> with_digest("机器人" * 99, "a.png", 20)
    '机器-7f071235805f'
    """
    digest = hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()[:12]
    return name.encode(errors="surrogateescape")[: most_bytes - 13].decode(errors="ignore") + f"-{digest}"
