"""Samples in tar shards and folders: found, checked and indexed once, then read one by one in any order.

Reading in any order is what makes a step's batch a function of its number alone, so that a run resumes exactly in the
middle of an epoch. A sample is read in one piece, about 1 MB at 256 pixels and 32 views.
"""

import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from imagedream.runs.files import atomic_path
from imagedream.runs.user_errors import one_line
from imagedream.workshop.rendering.samples import Files, SampleError
from imagedream.workshop.workers import do_all

logger = logging.getLogger(__name__)

_FORMAT = 2
"""Of the index files; another number lets them be made again."""

_LISTED = 3
"""Problems that a message tells one by one."""

_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
}
"""Members that are no files."""


class Entry(NamedTuple):
    """Where a sample lies."""

    path: str
    """Tar file, or folder."""
    key: str
    """Its name in the tar file; empty for a folder."""
    object: str
    """What it shows; samples of one object stay together."""
    start: int
    """First byte in the tar file."""
    stop: int
    """Byte behind its last."""

    @property
    def where(self) -> str:
        """What messages begin with."""
        return f"{self.path}: sample {self.key}" if self.key else self.path


class Members(Mapping[str, bytes]):
    """The files of one sample by name, read when asked for."""

    def __init__(self, open_file: Callable[[str], io.BufferedIOBase], sizes: dict[str, int]):
        self._open, self.sizes = open_file, sizes

    def __getitem__(self, name: str) -> bytes:
        if name not in self.sizes:
            raise KeyError(name)
        with self._open(name) as file:
            return file.read()

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def edges(self, name: str, first: int, last: int) -> tuple[bytes, bytes]:
        """The first and the last bytes of a file."""
        with self._open(name) as file:
            head = file.read(first)
            file.seek(max(0, self.sizes[name] - last))
            return head, file.read(last)


Examine = Callable[[Members, str], str]
"""Checks a sample's files, given what messages begin with; returns the object's name or raises SampleError."""


def read(entry: Entry) -> Files:
    """All files of a sample.

    Raises:
        SampleError: the shard changed since it was indexed.
    """
    if not entry.key:
        return {path.name: path.read_bytes() for path in Path(entry.path).iterdir() if path.is_file()}
    with open(entry.path, "rb") as file:
        file.seek(entry.start)
        content = file.read(entry.stop - entry.start)
    files = {}
    with _naming(entry.where), tarfile.open(fileobj=io.BytesIO(content + bytes(1024)), mode="r:") as tar:
        for member in _members(tar, len(content)):
            key, name = _split(member.name)
            if key != entry.key:
                raise SampleError(f"{entry.path} changed while it was in use: {key} where {entry.key} was")
            _check_plain(member, entry.where)
            files[name] = tar.extractfile(member).read()
    return files


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Whatever damage makes a reader raise becomes a SampleError that names the sample."""
    try:
        yield
    except SampleError:
        raise
    except Exception as error:
        raise SampleError(f"{where}: cannot be read: {type(error).__name__}: {one_line(error)}") from error


def find(folder: str | Path, marker: str, option: str) -> tuple[list[Path], list[Path]]:
    """Shards and folders of one sample each, at any depth.

    Args:
        folder: where to look; a single tar file will do.
        marker: the file by which a folder is known as a sample; empty looks for shards only.
        option: what the folder was named by, for messages.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"{option}: {folder} does not exist")
    if folder.is_file():
        return [folder], []
    visible = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part[0] == "." for part in path.relative_to(folder).parts)
    ]
    shards = [path for path in visible if path.suffix == ".tar" and path.is_file()]
    return shards, [path.parent for path in visible if marker and path.name == marker]


def index(
    shards: Sequence[Path],
    folders: Sequence[Path],
    examine: Examine,
    cache: str | Path,
    workers: int | None = None,
    skip_broken: bool = False,
) -> list[Entry]:
    """All samples of shards and folders, each checked; what is known of a shard is kept until the shard changes.

    Args:
        shards: tar files.
        folders: of one sample each.
        examine: a function of a module, whose name is part of what is kept.
        cache: folder for what is kept.
        workers: processes; all cores when None.
        skip_broken: leave broken samples out with a warning, instead of raising.

    Raises:
        SampleError: counts the broken samples and tells the first ones.
    """
    records = [Path(cache) / "indices" / _name(shard, examine) for shard in shards]
    tasks = zip(shards, records, strict=True)
    missing = [(shard, record) for shard, record in tasks if not record.is_file()]
    do_all(partial(_scan_and_keep, examine=examine), missing, workers, "checking shards", "shard")
    entries, problems = [], []
    for shard, path in zip(shards, records, strict=True):
        record = json.loads(path.read_text(encoding="utf-8"))
        entries += [Entry(str(shard), *row) for row in record["entries"]]
        problems += record["problems"]
    for folder in folders:
        try:
            with _naming(str(folder)):
                entries.append(Entry(str(folder), "", examine(_folder_members(folder), str(folder)), 0, 0))
        except SampleError as error:
            problems.append(str(error))
    if problems:
        told = "; ".join(problems[:_LISTED]) + ("; …" if len(problems) > _LISTED else "")
        message = f"{len(problems)} of {len(problems) + len(entries)} samples cannot be used: {told}"
        if not skip_broken:
            raise SampleError(message)
        logger.warning("%s", message)
    return entries


def _name(shard: Path, examine: Examine) -> str:
    """Of an index file: another one as soon as the shard is another one."""
    status = shard.stat()
    identity = (str(shard.resolve()), status.st_size, status.st_mtime_ns, examine.__qualname__, _FORMAT)
    return sha256(json.dumps(identity).encode()).hexdigest()[:24] + ".json"


def _scan_and_keep(task: tuple[Path, Path], examine: Examine) -> None:
    shard, kept = task
    entries, problems = scan(shard, examine)
    with atomic_path(kept) as temporary:
        rows = [entry[1:] for entry in entries]
        temporary.write_text(json.dumps({"entries": rows, "problems": problems}), encoding="utf-8")


def scan(shard: Path, examine: Examine) -> tuple[list[Entry], list[str]]:
    """The sound samples of a shard, and what is wrong with the others."""
    entries, problems, seen, size = [], [], set(), shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as tar:
            for key, group in groupby(_members(tar, size), key=lambda member: _split(member.name)[0]):
                members = list(group)
                entry = Entry(str(shard), key, "", members[0].offset, _end(members[-1]))
                try:
                    if not key:
                        raise SampleError(f"{shard}: {members[0].name} has no key before a dot")
                    if key in seen:
                        raise SampleError(f"{entry.where} appears twice; its files must follow one another")
                    seen.add(key)
                    with _naming(entry.where):
                        files = _tar_members(tar, members, entry.where)
                        entries.append(entry._replace(object=examine(files, entry.where)))
                except SampleError as error:
                    problems.append(str(error))
    except Exception as error:  # whatever damage makes tarfile raise
        problems.append(
            f"{shard} ({size} bytes) is no complete, uncompressed tar file: {type(error).__name__}: {one_line(error)}"
        )
    if not entries and not problems:
        problems.append(f"{shard} ({size} bytes) holds no files")
    return entries, problems


def _split(name: str) -> tuple[str, str]:
    """Key and file name of a tar member: WebDataset splits at the first dot after the last slash."""
    folder, slash, base = name.rpartition("/")
    key, _, file = base.partition(".")
    return folder + slash + key, file


def _end(member: tarfile.TarInfo) -> int:
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _members(tar: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """All but folders, which hold nothing themselves.

    Raises:
        ReadError: a member claims to reach out of the archive.
    """
    for member in tar:
        if member.size < 0 or (not member.issparse() and member.offset_data + member.size > size):
            raise tarfile.ReadError(f"{member.name} claims {member.size:,} of {size:,} bytes")
        if not member.isdir():
            yield member


def _check_plain(member: tarfile.TarInfo, where: str) -> None:
    """Raise SampleError unless a member is a file whose bytes are all there."""
    if member.issparse() or not member.isreg():
        kind = "sparse" if member.issparse() else _KINDS.get(member.type, f"of type {member.type!r}")
        raise SampleError(f"{where}: {member.name} is {kind}, only plain files are read")


def _tar_members(tar: tarfile.TarFile, members: Sequence[tarfile.TarInfo], where: str) -> Members:
    for member in members:
        _check_plain(member, where)
    by_name = {_split(member.name)[1]: member for member in members}
    if len(by_name) < len(members):
        raise SampleError(f"{where} has {len(members)} files with {len(by_name)} names")
    return Members(lambda name: tar.extractfile(by_name[name]), {name: m.size for name, m in by_name.items()})


def _folder_members(folder: Path) -> Members:
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    return Members(lambda name: open(folder / name, "rb"), sizes)
