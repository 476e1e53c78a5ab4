"""The folder of a run: that it can be written, and what was run there."""

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from imagedream.runs.files import atomic_path

if TYPE_CHECKING:
    from imagedream.workshop.training.run import TrainConfig

MIB = 2**20

PACKAGES = ("torch", "pytorch-lightning", "diffusers", "open_clip_torch", "safetensors", "numpy", "peft")
"""Whose versions may matter to what is learned."""


def check_run_folder(folder: Path) -> None:
    """Raise OSError if nothing can be written to a run folder, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(f"the run folder out={folder} cannot be written: {error.strerror or error}") from error


def check_space(folder: Path, module: torch.nn.Module, keep: int) -> None:
    """Raise OSError if the disk cannot hold what a run will write.

    A checkpoint has the weights, and of what is learned the average and two moments; one more than is kept is there
    while the next is written, and twice the trained part.
    """
    everything = sum(parameter.nbytes for parameter in module.parameters())
    learned = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    needed = (keep + 1) * (everything + 3 * learned) + 2 * everything - there
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the run needs {needed // MIB} MiB in {folder}, where {free // MIB} MiB are free: a checkpoint takes "
            f"{(everything + 3 * learned) // MIB} MiB, keep_checkpoints is {keep}"
        )


@rank_zero_only
def write_record(out: Path, config: "TrainConfig") -> None:
    """What was run: `command.txt` (a line a start), `config.yaml` (resolved), `versions.json` (packages, git, devices)."""
    with open(out / "command.txt", "a") as file:
        file.write(shlex.join(sys.argv) + "\n")
    with atomic_path(out / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.structured(config), temporary)
    with atomic_path(out / "versions.json") as temporary:
        temporary.write_text(json.dumps(versions(), indent=1) + "\n")


def versions() -> dict[str, Any]:
    """Python, packages, devices, and the revision of the code if it lies in a git repository."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = None
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed,
        "devices": devices or [f"CPU, {os.cpu_count()} cores"],
        "git": git_revision(),
    }


def git_revision() -> str | None:
    """The commit of this code, with `-dirty` if files differ from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
