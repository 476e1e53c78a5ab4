"""The folder of a run: that it can hold what will be written, and what was run there."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from imagedream.runs.files import atomic_path
from imagedream.runs.records import write_versions
from imagedream.runs.space import MIB, check_folder, checkpoint_bytes

if TYPE_CHECKING:
    from imagedream.workshop.training.run import TrainConfig


def check_space(folder: Path, module: torch.nn.Module, keep: int) -> None:
    """Raise OSError if the disk cannot hold what a run will write.

    A checkpoint has, of what is learned, the average and two moments besides; one more than is kept is there while the
    next is written, and twice the trained part.
    """
    checkpoint = checkpoint_bytes(module, copies=3)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    needed = (keep + 1) * checkpoint + 2 * checkpoint_bytes(module, copies=0) - there
    check_folder(folder, needed, f"a checkpoint takes {checkpoint // MIB} MiB, keep_checkpoints is {keep}")


@rank_zero_only
def write_record(out: Path, config: "TrainConfig") -> None:
    """What was run: `command.txt` (a line a start), `config.yaml` (resolved), `versions.json` (packages, git, devices)."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "command.txt", "a") as file:
        file.write(shlex.join(sys.argv) + "\n")
    with atomic_path(out / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.structured(config), temporary)
    write_versions(out)
