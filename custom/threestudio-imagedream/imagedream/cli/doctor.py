"""`doctor`: what this machine has."""

import importlib.metadata
import os
import sys
from dataclasses import dataclass

from imagedream.cli.verb import Verb, say

_REQUIRED = (
    *("torch", "diffusers", "open_clip_torch", "safetensors", "numpy", "pillow", "opencv-python-headless"),
    *("jaxtyping", "omegaconf", "pytorch-lightning", "tyro"),
    *("trimesh", "embreex", "xatlas", "scikit-image", "fast-simplification", "imageio", "imageio-ffmpeg"),
)
_OPTIONAL = {
    "rembg": "better background removal (needs its model file too)",
    "nerfacc": "faster volume rendering on CUDA",
    "tinycudann": "faster hash grids on CUDA",
}


@dataclass(frozen=True)
class Doctor(Verb):
    """What this machine has: versions, device, weights, and what is missing."""

    def run(self) -> int:  # noqa: D102
        from imagedream import checkpoints

        say(f"python      {sys.version.split()[0]} on {sys.platform}, {os.cpu_count()} cores")
        missing = []
        for name in _REQUIRED:
            version = _version(name)
            missing += [name] if version is None else []
            say(f"{'ok     ' if version else 'MISSING'}     {name} {version or ''}".rstrip())
        if "torch" not in missing:
            import torch

            if torch.cuda.is_available():
                free, total = torch.cuda.mem_get_info()
                name = torch.cuda.get_device_name()
                say(
                    f"device      {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free (CUDA {torch.version.cuda})"
                )
            else:
                say("device      CPU; no CUDA device that torch can use")
        for name, use in _OPTIONAL.items():
            say(f"optional    {name} {_version(name) or 'not installed'}: {use}")
        try:
            checkpoints.check("toybox")
            say("ok          weights of the small model")
        except checkpoints.CheckpointError as error:
            missing.append("weights")
            say(f"MISSING     {error}")
        return 1 if missing else 0


def _version(distribution: str) -> str | None:
    names = (
        ("opencv-python-headless", "opencv-python") if distribution.startswith("opencv") else (distribution,)
    )
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
