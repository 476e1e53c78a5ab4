"""A program run by a benchmark: how long it took, on the clock and on the processor, and its peak memory."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A small process in between: a child's peak starts at the size of its parent, which is large here.
_WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call(sys.argv[2:])
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss], open(sys.argv[1], "w"))
"""


@dataclass(frozen=True)
class Watched:
    """What a program took."""

    code: int
    """It ended with."""
    seconds: float
    processor_seconds: float
    """Of all its threads and processes together: where a machine has other work they say more than the clock."""
    peak_gib: float
    """Of its largest process."""


def watch(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Watched:
    """Run a program in the project's folder.

    Args:
        command: the program and its arguments.
        log: file for what it prints.
        environment: variables besides those of this process.
    """
    with log.open("wb") as output, tempfile.NamedTemporaryFile("r") as numbers:
        watched = [sys.executable, "-c", _WATCH, numbers.name, *command]
        everything = {**os.environ, **(environment or {})}
        subprocess.run(watched, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=everything, check=True)
        code, seconds, processor_seconds, peak = json.load(numbers)
    per_gib = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB elsewhere
    return Watched(code, seconds, processor_seconds, peak / per_gib)
