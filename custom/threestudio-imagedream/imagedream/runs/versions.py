"""What a run was made with."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from imagedream.runs.files import atomic_path
from imagedream.runs.project import project_folder

PACKAGES = (
    *("torch", "pytorch-lightning", "diffusers", "open_clip_torch", "safetensors"),
    *("numpy", "omegaconf", "peft", "trimesh"),
)
"""Whose versions may matter to a result."""


def write_versions(folder: Path) -> None:
    """Write `versions.json`, and `changes.patch` where the code has changes that are in no commit."""
    with atomic_path(folder / "versions.json") as path:
        path.write_text(json.dumps(versions(), indent=1) + "\n", encoding="utf-8")
    changes = _git("diff", "HEAD")
    if changes:
        with atomic_path(folder / "changes.patch") as path:
            path.write_text(changes + "\n", encoding="utf-8")


def versions() -> dict[str, Any]:
    """Python, packages, devices, and the commit of the code (`-dirty` if files differ) if it lies in a git repository."""
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices or [f"CPU, {os.cpu_count()} cores"],
        "git": _git("describe", "--always", "--abbrev=40", "--dirty"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says of this code; None where the project's own folder is no repository."""
    try:
        folder = project_folder()
        here_only = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        command, options = ["git", "-C", str(folder), *arguments], {"capture_output": True, "text": True}
        return subprocess.run(command, check=True, timeout=20, env=here_only, **options).stdout.strip()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
