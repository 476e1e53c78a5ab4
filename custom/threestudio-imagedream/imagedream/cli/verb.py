"""What all verbs share."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, get_type_hints

import tyro

from imagedream.runs.ranges import check_value, limits

if TYPE_CHECKING:
    import torch


OutPath = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
"""What `--out` is of."""


@dataclass(frozen=True)
class Verb:
    """One verb of the command line: its fields are the options, `run` does it."""

    logs_itself: ClassVar[bool] = False
    """Whether what it runs sets up the log."""

    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Say more, and show the traceback of an error."""
    quiet: Annotated[bool, tyro.conf.arg(aliases=["-q"])] = False
    """Say nothing but warnings, errors and the result."""

    def check_numbers(self) -> None:
        """Raise ValueError, naming the option, for a number that is given and is not what its annotation allows."""
        kinds = get_type_hints(type(self), include_extras=True)
        for option in fields(self):
            value, kind = getattr(self, option.name), kinds[option.name]
            if limits(kind) and value != option.default:
                check_value(f"--{option.name.replace('_', '-')}", value, kind)

    def run(self) -> int | None:
        """Do it; the exit code, None for 0."""
        raise NotImplementedError


def choose_device(name: str) -> "torch.device":
    """The device that `--device` names; `auto` is CUDA where there is one.

    Raises:
        ValueError: for a device that does not exist.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device is {name}, must be auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device is {name}, but torch finds no CUDA device here; use cpu")
    return device


def check_ending(path: Path, allowed: Sequence[str]) -> None:
    """Raise ValueError unless the file name of `--out` ends in one of `allowed`."""
    if path.suffix.lower() not in allowed:
        raise ValueError(f"--out is {path}, its name must end in {' or '.join(allowed)}")


def say(line: object) -> None:
    """A result, on stdout; everything else is logged to stderr."""
    sys.stdout.write(f"{line}\n")
