"""Schedules, devices, weights files and clean-up."""

import gc
import os
import sys
from pathlib import Path
from typing import Any

import torch
from packaging import version

from threestudio import get_rank
from threestudio.utils.config import schedule_segments


def parse_version(text: str) -> version.Version:
    return version.parse(text)


def get_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    return torch.device(f"cuda:{get_rank()}" if torch.cuda.is_available() else "cpu")


def C(value: Any, epoch: int, global_step: int) -> float:
    """A number, or a schedule's value now.

    Args:
        value: a number; `[v0, v1, end]`; `[start, v0, v1, end]`; or `[start, v0, v1, end1, v2, end2, ...]`, linear
            between, constant before the start and after the last end. An int end counts steps, a float end epochs.
        epoch: the current epoch.
        global_step: the current step.
    """
    if isinstance(value, int | float):
        return value
    segments = schedule_segments(value)
    begin, v0, v1, end = next((s for s in segments if global_step <= s[3]), segments[-1])
    now = global_step if isinstance(end, int) else epoch
    fraction = float(now >= end) if end == begin else min(max((now - begin) / (end - begin), 0.0), 1.0)
    return v0 + (v1 - v0) * fraction


def load_module_weights(
    path: str | Path, map_location: Any = None
) -> tuple[dict[str, torch.Tensor], int, int]:
    """A checkpoint's weights, epoch and step.

    Args:
        path: the checkpoint.
        map_location: as for `torch.load`; by default this process's device.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    checkpoint = torch.load(path, map_location=map_location or get_device(), weights_only=True)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of a system: it has no state_dict")
    return checkpoint["state_dict"], checkpoint.get("epoch", 0), checkpoint.get("global_step", 0)


def find_last_path(path: str) -> str:
    """`dir/my prompt@LAST/x` -> the same in the newest folder whose name begins with `my_prompt@`."""
    if "LAST" not in path:
        return path
    path = path.replace(" ", "_")
    before, _, after = path.partition("LAST")
    folder, prefix = os.path.split(before)
    siblings = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
    matching = [name for name in siblings if name.startswith(prefix)]
    found = os.path.join(folder, matching[-1]) + after if matching else None
    if found is None or not os.path.exists(found):
        raise FileNotFoundError(f"{path}: {found or before + '*'} does not exist")
    return found


def cleanup() -> None:
    """Give unused memory back."""
    gc.collect()
    tinycudann = sys.modules.get("tinycudann")  # where a guidance of some extension uses it
    if tinycudann is not None:
        tinycudann.free_temporary_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
