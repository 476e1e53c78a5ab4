"""What all verbs share."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

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
