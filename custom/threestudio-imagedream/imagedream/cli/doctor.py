"""`doctor`: what this machine has, and what would run on it."""

import importlib.metadata
import os
import platform
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from imagedream.cli.verb import Verb, say
from imagedream.runs.project import project_folder

_OPTIONAL = {
    "nerfacc": "faster volume rendering on CUDA, in a real threestudio",
    "tinycudann": "faster hash grids on CUDA, in a real threestudio",
    "triton": "what torch.compile needs on CUDA",
}
_FOLDERS = (".", "checkpoints", "ckpts", "models", "weights")
"""Where people put downloads, from the working directory."""

PUBLISHED_PARAMETERS = 2_011_436_204
"""Of the published model: U-Net, autoencoder, encoder."""
PUBLISHED_DECODING_NUMBERS = 4 * 48 * 2**20
"""That decoding four views keeps at a time, the most of all steps of sampling."""
_DIFFUSERS_FOLDERS = ("imagedream", "mvdream", "multi-view-diffusion")
"""What the names of repositories with other forms of the weights contain."""


@dataclass(frozen=True)
class Doctor(Verb):
    """What this machine has: versions, device, memory, weights; and what would run on it."""

    def run(self) -> int:  # noqa: D102
        say(f"python      {sys.version.split()[0]} on {platform.platform()}, {os.cpu_count()} cores")
        missing = []
        for requirement in _requirements():
            name, found = requirement.name, _version(requirement.name)
            if requirement.marker is not None:
                extra = str(requirement.marker).split('"')[1]
                if extra != "all":
                    say(f"optional    {name} {found or f'not installed: imagedream[{extra}]'}")
            elif found and requirement.specifier.contains(found, prereleases=True):
                say(f"ok          {name} {found}")
            else:
                say(f"MISSING     {name}{requirement.specifier}, {found or 'not installed'}")
                missing.append(f'"{name}{requirement.specifier}"')
        for name, use in _OPTIONAL.items():
            say(f"optional    {name} {_version(name) or 'not installed'}: {use}")
        if missing:
            say("MISSING     install them with: pip install " + " ".join(missing))
            return 1
        problems = 0
        for kind, line in [*memory_lines(), *weight_lines(), *plan_lines()]:
            problems += kind == "MISSING"
            say(f"{kind:<11} {line}")
        return 1 if problems else 0


def memory_lines() -> Iterator[tuple[str, str]]:
    """The devices that torch can use, and their memory."""
    import psutil
    import torch

    from imagedream.memory_options import computes_in_bfloat16
    from imagedream.runs.settings import GIB

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        major, minor = torch.cuda.get_device_capability(index)
        name, memory = torch.cuda.get_device_name(index), f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
        kind = f"compute capability {major}.{minor}, CUDA {torch.version.cuda}"
        yield "device", f"{name}, {memory} (cuda:{index}, {kind})"
    if not torch.cuda.is_available():
        yield "device", f"CPU with {torch.get_num_threads()} threads; no CUDA device that torch can use"
        own = computes_in_bfloat16("cpu")
        width = "bfloat16" if own else "float32, since this CPU has no bfloat16 of its own"
        yield "precision", f"training with precision=auto is in {width}"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"


def weight_lines() -> Iterator[tuple[str, str]]:
    """Which weights are here, and where those come from that are not."""
    from huggingface_hub import constants

    from imagedream import checkpoints

    try:
        checkpoints.check("toybox")
        yield "ok", "weights of the small model that ships: toybox"
    except checkpoints.CheckpointError as error:
        yield "MISSING", str(error)
    cache = Path(constants.HF_HUB_CACHE)
    mode = ", offline: nothing is downloaded" if constants.is_offline_mode() else ""
    yield "cache", f"{cache} (Hugging Face{mode}; HF_HOME moves it, HF_HUB_OFFLINE=1 keeps it from the net)"
    here = [Path(folder) / name for folder in _FOLDERS for name in checkpoints.PUBLISHED]
    found = {str(path): f"{path.stat().st_size / 1e9:.2f} GB" for path in here if path.is_file()}
    found |= _in_cache(cache)
    for source, place in sorted(found.items()):
        yield "ok", f"weights {source}: {place}"
    for name, entry in checkpoints.PUBLISHED.items():
        if not any(name in source for source in found):
            what = f"weights {name} ({entry.what}, {entry.size})"
            yield "not here", f"{what}: weights={entry.repository}/{name} downloads them"


def _in_cache(cache: Path) -> dict[str, str]:
    """Complete files and folders of this model's repositories in the hub's cache, as sources for `checkpoints.load`."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    from imagedream import checkpoints

    try:
        repositories = scan_cache_dir(cache).repos
    except CacheNotFound:
        return {}
    found = {}
    for repository in repositories:
        files = {file for revision in repository.revisions for file in revision.files}
        published = [file for file in files if file.file_name in checkpoints.PUBLISHED]
        for file in published:
            place = f"{file.size_on_disk / 1e9:.2f} GB at {file.file_path}"
            found[f"{repository.repo_id}/{file.file_name}"] = place
        if not published and any(part in repository.repo_id.lower() for part in _DIFFUSERS_FOLDERS):
            found[repository.repo_id] = f"{repository.size_on_disk / 1e9:.2f} GB at {repository.repo_path}"
    return found


def plan_lines() -> Iterator[tuple[str, str]]:
    """What would run here: the small model anywhere, the published one where its memory is."""
    import psutil
    import torch

    from imagedream.memory_options import computes_in_bfloat16
    from imagedream.runs.settings import GIB, choose, cuda_memory, read_presets

    yield "would run", "small model: four views and the 3D run (launch.py --config imagedream-toybox.yaml)"
    presets = read_presets(project_folder() / "configs" / "presets")
    if torch.cuda.is_available() and presets:
        memory = cuda_memory(torch.cuda.get_device_name(), *torch.cuda.mem_get_info())
        try:
            preset, reason = choose(presets, ["imagedream"], memory)
            yield (
                "would run",
                f"published model, 3D run: --preset {preset} ({reason}): {presets[preset].about}",
            )
        except ValueError as error:
            yield "too small", f"published model, 3D run: {error}"
        return
    free = psutil.virtual_memory().available / GIB
    for name, width in (("float32", 4), ("bfloat16", 2)):
        needed = (PUBLISHED_PARAMETERS + PUBLISHED_DECODING_NUMBERS) * width / GIB
        fits = "would run" if needed < free else "too small"
        slow = "" if width == 4 or computes_in_bfloat16("cpu") else "; far slower here than in float32"
        yield (
            fits,
            f"published model, four views on the CPU in {name}: needs {needed:.1f} GiB, {free:.1f} are free{slow}",
        )
    needs = [preset.auto["imagedream"]["cuda"] for preset in presets.values() if "imagedream" in preset.auto]
    if needs:
        yield (
            "not here",
            f"published model, 3D run: wants a CUDA device with {min(needs):.1f} GiB free or more (its 12 500 steps are 4 "
            "trillion operations each)",
        )


def _requirements() -> list[Requirement]:
    """What the project declares: the optional ones with a marker that names their extra."""
    try:
        declared = importlib.metadata.requires("imagedream") or []
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        declared = tomllib.loads((project_folder() / "pyproject.toml").read_text(encoding="utf-8"))[
            "project"
        ]["dependencies"]
    return [Requirement(line) for line in declared]


def _version(distribution: str) -> str | None:
    for name in (distribution, distribution.removesuffix("-headless")):  # opencv comes under two names
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
