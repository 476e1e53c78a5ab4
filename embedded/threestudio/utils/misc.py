"""Schedules, devices, weights files and clean-up."""

import gc
import os
from pathlib import Path
from typing import Any

import torch
from packaging import version

from threestudio.utils.config import config_to_primitive, schedule_segments


def parse_version(text: str) -> version.Version:
    return version.parse(text)


def get_rank() -> int:
    """This process's number among those of a distributed run."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if variable in os.environ:
            return int(os.environ[variable])
    return 0


def get_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    return torch.device(f"cuda:{get_rank()}" if torch.cuda.is_available() else "cpu")


def C(value: Any, epoch: int, global_step: int, interpolation: str = "linear") -> float:
    """A number, or a schedule's value now.

    Args:
        value: a number; `[v0, v1, end]`; `[start, v0, v1, end]`; or `[start, v0, v1, end1, v2, end2, ...]`, constant
            before the start and after the last end. An int end counts steps, a float end counts epochs.
        epoch: the current epoch.
        global_step: the current step.
        interpolation: `"linear"`, or `"exp"` for a geometric one.
    """
    if isinstance(value, int | float):
        return value
    _, segments = schedule_segments(value)
    begin, v0, v1, end = next((s for s in segments if global_step <= s[3]), segments[-1])
    now = global_step if isinstance(end, int) else epoch
    fraction = float(now >= end) if end == begin else min(max((now - begin) / (end - begin), 0.0), 1.0)
    if interpolation == "linear":
        return v0 + (v1 - v0) * fraction
    if interpolation == "exp":
        return v0 * (v1 / v0) ** fraction
    raise ValueError(f"interpolation is {interpolation!r}, must be 'linear' or 'exp'")


def load_module_weights(
    path: str | Path,
    module_name: str | None = None,
    ignore_modules: list[str] | None = None,
    map_location: Any = None,
) -> tuple[dict[str, torch.Tensor], int, int]:
    """A checkpoint's weights, epoch and step.

    Args:
        path: the checkpoint.
        module_name: take only the weights under `module_name.`, with that prefix removed.
        ignore_modules: leave out the weights under these names.
        map_location: as for `torch.load`; by default this process's device.
    """
    if module_name is not None and ignore_modules is not None:
        raise ValueError("module_name and ignore_modules exclude each other")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    checkpoint = torch.load(path, map_location=map_location or get_device(), weights_only=True)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of a system: it has no state_dict")
    state_dict = checkpoint["state_dict"]
    if ignore_modules is not None:
        prefixes = tuple(f"{name}." for name in ignore_modules)
        state_dict = {key: value for key, value in state_dict.items() if not key.startswith(prefixes)}
    if module_name is not None:
        prefix = f"{module_name}."
        known = sorted({key.split(".")[0] for key in state_dict})
        state_dict = {
            key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)
        }
        if not state_dict:
            raise ValueError(f"{path} has no weights of {module_name!r}; it has those of {', '.join(known)}")
    return state_dict, checkpoint.get("epoch", 0), checkpoint.get("global_step", 0)


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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def finish_with_cleanup(function: Any) -> Any:
    """Decorator: `cleanup()` after the call."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        cleanup()
        return result

    return wrapper


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for the other processes, if there are any."""
    if _is_distributed():
        torch.distributed.barrier()


def broadcast(tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
    """Process `src`'s values for everybody, if there are other processes."""
    if not _is_distributed():
        return tensor
    torch.distributed.broadcast(tensor, src=src)
    return tensor


def enable_gradient(model: torch.nn.Module, enabled: bool = True) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(enabled)


__all__ = [
    "C",
    "barrier",
    "broadcast",
    "cleanup",
    "config_to_primitive",
    "enable_gradient",
    "find_last_path",
    "finish_with_cleanup",
    "get_device",
    "get_rank",
    "load_module_weights",
    "parse_version",
]
