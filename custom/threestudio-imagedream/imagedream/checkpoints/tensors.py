"""Tensors in files: their names and shapes at once, their values a few at a time.

A file is opened again for every hundred MiB or so, so that what was read through the memory map goes away and loading
never needs much more than the model itself.
"""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from imagedream.checkpoints.errors import CheckpointError
from imagedream.runs.settings import flatten

SAFETENSORS = (".safetensors",)
PICKLED = (".pt", ".pth", ".ckpt", ".bin")
SUFFIXES = ", ".join((*SAFETENSORS, *PICKLED))
READ_AT_ONCE = 32 * 2**20
"""Numbers that may be held besides the model while it is read: 128 MiB in single precision."""


@dataclass(frozen=True)
class Tensors:
    """Named tensors in one or several files; nested dictionaries are joined with dots."""

    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[Path, str]]
    """File and name there, by name."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some tensors, as they are stored; they may be views of the files, so copy what stays."""
        by_file: dict[Path, dict[str, str]] = {}
        for name in names:
            path, stored = self.places[name]
            by_file.setdefault(path, {})[stored] = name
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
    tensors = _unpickle(path)
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
        parts = [open_tensors(file) for file in found]
        return reduce(or_, parts)
    if path.suffix in SAFETENSORS:
        shapes = safetensors_shapes(path)
    elif path.suffix in PICKLED:
        shapes = {name: tuple(tensor.shape) for name, tensor in _unpickle(path).items()}
    else:
        raise CheckpointError(f"{path} is no weights file: its name must end in one of {SUFFIXES}")
    return Tensors(shapes, {name: (path, name) for name in shapes})


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, from its header.

    Raises:
        CheckpointError: if it is no such file, or not all of it.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or not all of one ({path.stat().st_size} bytes; {error}); was it downloaded in "
            "full?"
        ) from error


def _unpickle(path: Path) -> dict[str, Tensor]:
    """All tensors of a torch file, memory-mapped: nothing is read before it is used, and no code is run."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which are not loaded since they could run code ({reason}); "
            "use its .safetensors form"
        ) from error
    except (RuntimeError, EOFError) as error:
        reason = str(error).split("\n", 1)[0]
        raise CheckpointError(f"{path} cannot be read as a torch file, is it complete? ({reason})") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not named tensors")
    entries = flatten(stored.get("state_dict", stored))
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)}


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
