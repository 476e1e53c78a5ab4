"""Tensors in files: their names and shapes at once, their values a few at a time.

A file is opened again for every hundred MiB or so, so that what was read through the memory map goes away and loading
never needs much more than the model itself.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from imagedream.checkpoints.errors import CheckpointError, refusing
from imagedream.checkpoints.pickles import check_pickle, unpickle

SAFETENSORS = (".safetensors",)
PICKLED = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = ", ".join((*SAFETENSORS, *PICKLED))
READ_AT_ONCE = 32 * 2**20
"""Numbers that may be held besides the model while it is read: 128 MiB in single precision."""

MAX_TENSORS = 100_000
"""Of one file; the 8 GB model has 1,800."""


class Place(NamedTuple):
    """Where a tensor is stored."""

    file: Path
    name: str
    """There."""
    floating: bool
    """Whether it holds fractions, as weights do, and not whole, truth or complex values."""


@dataclass(frozen=True)
class Tensors:
    """Named tensors in one or several files; nested dictionaries are joined with dots."""

    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, Place]

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, as they are stored; they may be views of the files, so copy what stays."""
        by_file: dict[Path, dict[str, str]] = {}
        for name in names:
            place = self.places[name]
            by_file.setdefault(place.file, {})[place.name] = name
        return {
            name: tensor for path, stored in by_file.items() for name, tensor in _read(path, stored).items()
        }

    def __or__(self, other: "Tensors") -> "Tensors":
        return Tensors({**self.shapes, **other.shapes}, {**self.places, **other.places})

    def under(self, prefix: str) -> "Tensors":
        """The same tensors, their names after a prefix."""
        shapes, places = (
            {prefix + name: value for name, value in mapping.items()}
            for mapping in (self.shapes, self.places)
        )
        return Tensors(shapes, places)


def _read(path: Path, stored: Mapping[str, str]) -> dict[str, Tensor]:
    if path.suffix in SAFETENSORS:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(key) for key, name in stored.items()}
    tensors = unpickle(path)
    return {name: tensors[key] for key, name in stored.items()}


def open_tensors(path: Path) -> Tensors:
    """Names and shapes of a file, or of all weights files in a folder; no values are read.

    Raises:
        CheckpointError: if it is no file of tensors, is cut off, or holds code instead of data.
    """
    if path.is_dir():
        found = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if not found:
            raise CheckpointError(f"{path} holds no weights: neither *.safetensors nor *.bin")
        usual = [file for file in found if "." not in file.stem] or found  # not NAME.fp16, the same again
        parts = [open_tensors(file) for file in usual]
        _check_shards(usual, parts)
        return reduce(or_, parts)
    if path.suffix not in (*SAFETENSORS, *PICKLED):
        raise CheckpointError(f"{path} is no weights file: its name must end in one of {SUFFIXES}")
    if not path.is_file():
        raise CheckpointError(f"{path} is no regular file")
    if path.suffix in SAFETENSORS:
        found = _safetensors_header(path)
    else:
        check_pickle(path)
        found = {
            name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in unpickle(path).items()
        }
    if len(found) > MAX_TENSORS:
        raise CheckpointError(f"{path} holds {len(found):,} tensors, the limit is {MAX_TENSORS:,}")
    return Tensors(
        {name: shape for name, (shape, _) in found.items()},
        {name: Place(path, name, floating) for name, (_, floating) in found.items()},
    )


def _check_shards(files: Sequence[Path], parts: Sequence[Tensors]) -> None:
    """Raise CheckpointError if one of NAME-00001-of-00003 to NAME-00003-of-00003 is missing, or a tensor is in two files."""
    folder, names = files[0].parent, {file.name for file in files}
    shards = filter(None, (re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", name) for name in names))
    for stem, count, suffix in {shard.groups() for shard in shards}:
        every = (f"{stem}-{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1))
        missing = [name for name in every if name not in names]
        if missing:
            raise CheckpointError(f"{folder} lacks {len(missing)} of {int(count)} files: {missing[0]}")
    first: dict[str, Path] = {}
    for file, part in zip(files, parts, strict=True):
        twice = first.keys() & part.shapes.keys()
        if twice:
            name = min(twice)
            raise CheckpointError(
                f"{folder} has {len(twice)} tensors twice, {name} in {first[name].name} and {file.name}; keep one"
            )
        first |= dict.fromkeys(part.shapes, file)


def _safetensors_header(path: Path) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shapes in a safetensors file, and whether they are of fractions."""
    size = path.stat().st_size
    with (
        refusing(
            f"{path} ({size} bytes) is no safetensors file, or not all of one; was it downloaded in full?"
        ),
        safe_open(path, "pt") as file,
    ):
        slices = {name: file.get_slice(name) for name in list(file.keys())[: MAX_TENSORS + 1]}
        return {
            name: (tuple(one.get_shape()), one.get_dtype().startswith(("F", "BF")))
            for name, one in slices.items()
        }


@dataclass(frozen=True)
class Piece:
    """Where a tensor of ours lies in a source: one tensor, several stacked, or a part of one."""

    names: tuple[str, ...]
    part: tuple[int, int] | None = None
    """(index, count): one of `count` equal parts along the first axis."""
    transposed: bool = False
    pointwise: bool = False
    """Stored as a convolution with a 1×1 kernel, which is a linear layer here."""

    @property
    def label(self) -> str:
        """What the tensor is called in the source, for messages."""
        return self.names[0] if self.part is None else f"{self.names[0]}[{int(self.part[0])}/{self.part[1]}]"

    def under(self, prefix: str) -> "Piece":
        """The same with names after a prefix."""
        return replace(self, names=tuple(prefix + name for name in self.names))

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Shape of the tensor, from those of the source."""
        return tuple(
            self.build({name: torch.empty(shapes[name], device="meta") for name in self.names}).shape
        )

    def build(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor, from those of the source."""
        found = [tensors[name] for name in self.names]
        tensor = torch.cat(found) if len(found) > 1 else found[0]
        if self.part:
            index, count = self.part
            tensor = tensor.tensor_split(count)[index]
        if self.pointwise and tensor.shape[2:] == (1, 1):
            tensor = tensor.flatten(1)
        return tensor.T if self.transposed else tensor


def put_back(state: Mapping[str, Tensor], piece: Callable[[str], Piece | None]) -> dict[str, Tensor]:
    """The inverse of `Piece.build`: tensors of ours under the names and in the shapes of the source."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        place = piece(name)
        if place is None:
            continue
        if place.transposed:
            tensor = tensor.T
        if place.pointwise and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        if place.part is not None:
            parts.setdefault(place.names[0], {})[int(place.part[0])] = tensor
        else:
            several = len(place.names) > 1  # a number has no axis to split along
            pieces = tensor.tensor_split(len(place.names)) if several else [tensor]
            found.update(zip(place.names, pieces, strict=True))
    found |= {name: torch.cat([some[index] for index in sorted(some)]) for name, some in parts.items()}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def in_portions(tensors: Tensors, pieces: Mapping[str, Piece]) -> Iterator[dict[str, Tensor]]:
    """The tensors of some pieces, about a hundred MiB at a time."""
    portion: dict[str, Piece] = {}
    held = 0

    def read() -> dict[str, Tensor]:
        found = tensors.read({name for piece in portion.values() for name in piece.names})
        return {name: piece.build(found) for name, piece in portion.items()}

    for name, piece in pieces.items():
        portion[name] = piece
        held += sum(math.prod(tensors.shapes[source]) for source in piece.names)
        if held > READ_AT_ONCE:
            yield read()
            portion, held = {}, 0
    if portion:
        yield read()
