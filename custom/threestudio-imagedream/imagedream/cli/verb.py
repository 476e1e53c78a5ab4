"""What all verbs share."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from imagedream.workers import Runner


@dataclass(frozen=True)
class Verb:
    """One verb of the command line: its fields are the options, `run` does it."""

    verbose: bool = False
    """Say more, and show the traceback of an error."""

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


def choose_runner(
    jobs: int,
    ray: str | None,
    timeout_s: float,
    attempts: int = 1,
    gpus: Sequence[int] = (),
    share_cores: bool = True,
) -> "Runner":
    """What `--jobs`, `--ray` and `--timeout-s` ask for.

    Args:
        jobs: workers; over Ray, 0 for as many as there is room for.
        ray: address of a cluster.
        timeout_s: for a task.
        attempts: at a task.
        gpus: whose numbers the processes take in turn; over Ray, whether a worker takes one.
        share_cores: whether workers take all cores between them; otherwise each takes one.

    Raises:
        ValueError: a number is out of range.
    """
    from imagedream.workers import run_processes, run_ray

    if not timeout_s > 0:
        raise ValueError(f"--timeout-s is {timeout_s}, must be larger than 0")
    if jobs < (0 if ray else 1):
        raise ValueError(f"--jobs is {jobs}, must be at least 1")
    threads = max(1, (os.cpu_count() or 1) // max(1, jobs)) if share_cores else 1
    settings = {"timeout_s": timeout_s, "attempts": attempts, "threads": threads}
    if ray is not None:
        return partial(run_ray, address=ray, jobs=jobs or None, gpus=1 if gpus else 0, **settings)
    environments = [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus]
    return partial(run_processes, jobs=jobs, environments=environments, **settings)


def check_ending(path: Path, allowed: Sequence[str]) -> None:
    """Raise ValueError unless the file name of `--out` ends in one of `allowed`."""
    if path.suffix.lower() not in allowed:
        raise ValueError(f"--out is {path}, its name must end in {' or '.join(allowed)}")


def say(line: object) -> None:
    """A result, on stdout; everything else is logged to stderr."""
    sys.stdout.write(f"{line}\n")
