"""Files of `torch.save` from elsewhere: held to named tensors and nothing else, before torch gets to see them.

`torch.load(weights_only=True)` runs no code, but it calls what it knows with whatever arguments a file gives (a
`bytearray` of any size, say), unpacks what is compressed, and gives back dictionaries that may contain themselves.
"""

import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagedream.checkpoints.errors import CheckpointError, refusing

MAX_PICKLE_BYTES = 8 * 2**20
"""Of the names and shapes in a file; those of the 8 GB model take 0.4 MB."""

_MAX_NAME = 1000

_NAMING = ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
"""Operations of a pickle that name a class or function."""

_OF_TENSORS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v[23]|parameter)"
    r"|torch (Size|device|\w+Storage|b?float\d\w*|u?int\d+|bool)|torch\.storage UntypedStorage"
)
"""What plain state dictionaries name. None of it makes more of its arguments than there is in the file."""


def check_pickle(path: Path) -> None:
    """Raise CheckpointError unless a file is uncompressed and names nothing but tensors and dictionaries of them."""
    size = path.stat().st_size
    with (
        refusing(f"{path} ({size} bytes) cannot be read as a torch file, is it complete?"),
        zipfile.ZipFile(path) as archive,
    ):
        members = archive.infolist()
        unpacked = sum(member.file_size for member in members)
        if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(
                f"{path} ({size} bytes) is compressed, to be unpacked to {unpacked:,}; torch's own files are not"
            )
        pickles = [member for member in members if member.filename.endswith(".pkl")]
        beside = sum(member.file_size for member in pickles)
        if beside > MAX_PICKLE_BYTES:
            raise CheckpointError(
                f"{path} has {beside:,} bytes of names and shapes, the limit is {MAX_PICKLE_BYTES:,}"
            )
        strange = {
            str(name) if name else operation.name
            for member in pickles
            for operation, name, _ in pickletools.genops(archive.read(member))
            if operation.name in _NAMING and not _OF_TENSORS.fullmatch(str(name))
        }
    if strange:
        named = ", ".join(sorted(strange)[:4]).replace(" ", ".")
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which are not loaded since they could run code ({named}); use "
            "its .safetensors form"
        )


def unpickle(path: Path) -> dict[str, Tensor]:
    """All tensors of a checked torch file, memory-mapped: nothing is read before it is used.

    Raises:
        CheckpointError: it holds no named tensors, or such as are larger than the file.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch's own text tells how to unpickle without checks
        raise CheckpointError(
            f"{path} cannot be read as a torch file of tensors ({type(error).__name__})"
        ) from error
    if not isinstance(stored, Mapping):
        raise CheckpointError(f"{path} holds a {type(stored).__name__}, not named tensors")
    inner = stored.get("state_dict", stored)
    if not isinstance(inner, Mapping):
        raise CheckpointError(f"{path}: its state_dict is a {type(inner).__name__}, not named tensors")
    tensors = _named_tensors(inner, path)
    size = path.stat().st_size
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if claimed > 2 * size:  # tied weights count twice
        raise CheckpointError(f"{path} ({size} bytes) claims to hold tensors of {claimed:,} bytes")
    return tensors


def _named_tensors(tree: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    """Nested dictionaries as one with dots in its names, each dictionary once."""
    found: dict[str, Tensor] = {}
    seen, waiting = set(), [("", tree)]
    while waiting:
        prefix, branch = waiting.pop()
        if id(branch) in seen or len(prefix) > _MAX_NAME:
            raise CheckpointError(
                f"{path} is no plain nest of dictionaries: {prefix[:40]}… is nested too deeply, or there twice"
            )
        seen.add(id(branch))
        for key, value in branch.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                waiting.append((f"{name}.", value))
            elif isinstance(value, Tensor):
                found[name] = value
    return found
