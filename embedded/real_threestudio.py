"""A real threestudio checkout: what it lacks on this machine, and how to run it without changing a file of it."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.version import Version

TESTED_VERSION = "0.2.3"
MINIMUM_VERSION = "0.2.0"

_REQUIREMENTS = {
    "cv2": "opencv-python-headless",
    "PIL": "Pillow",
    "IPython": "ipython",
    "controlnet_aux": "controlnet-aux",
    "envlight": "git+https://github.com/ashawkey/envlight.git",
    "igl": '"libigl<2.6"',
    "nvdiffrast": "git+https://github.com/NVlabs/nvdiffrast.git",
    "pytorch_lightning": "pytorch-lightning",
    "tinycudann": '"git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"',
}
"""What to install for an import, where the two have different names."""

_IMPORTED_LATE = {"tensorboard": "launch.py"}
"""What a run imports at some time without naming it."""


_HARMLESS = re.compile(
    r"omegaconf\.(listconfig\.ListConfig|dictconfig\.DictConfig|base\.(Container)?Metadata|nodes\.\w+Node)"
    r"|collections\.(defaultdict|OrderedDict|Counter|deque)|typing\.Any|pathlib\.\w*Path"
    r"|numpy(\.core|\._core)?\.(multiarray\.(_reconstruct|scalar)|ndarray|dtype)"
    r"|(pytorch_lightning|lightning_fabric)\.utilities\.\w+\.AttributeDict"
    r"|builtins\.(int|float|str|bytes|bool|list|dict|set|tuple|slice|complex|object)"
    r"|copyreg\._reconstructor|_codecs\.encode"
)
"""Classes and functions that checkpoints of Lightning and threestudio name; none of them runs what it is given."""


def check_checkpoint(path: str | Path) -> None:
    """Raise ValueError if a checkpoint names anything that could run code: threestudio unpickles it as it is.

    Raises:
        ValueError: it does, or it is no checkpoint.
    """
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception as error:  # whatever a file that is none makes it raise
        raise ValueError(f"resume={path} is no checkpoint: {str(error).splitlines()[0]}") from error
    strange = sorted(name for name in names if not _HARMLESS.fullmatch(name))
    if strange:
        raise ValueError(
            f"resume={path} names {', '.join(strange[:4])}, which could run code; a checkpoint of a run does not"
        )


@dataclass(frozen=True)
class Clash:
    """A version that threestudio 0.2.3 was not written for."""

    distribution: str
    broken_since: str
    effect: str
    remedy: str
    used_by: tuple[str, ...] = ()
    """Registered names that the effect is limited to; empty: nothing works."""


CLASHES = (
    Clash("libigl", "2.6", "threestudio/utils/ops.py imports names that it lacks", '"libigl<2.6"'),
    Clash(
        "diffusers",
        "0.20",
        "its LoRA processors cannot be built",
        '"diffusers<0.20"',
        (
            "stable-diffusion-vsd-guidance",
            "stable-diffusion-unified-guidance",
            "zero123-unified-guidance",
        ),
    ),
    Clash(
        "transformers",
        "5.0",
        "load_in_8bit is gone",
        '"transformers<5"',
        ("deep-floyd-prompt-processor",),
    ),
)


def check_folder(folder: Path, named_by: str) -> str | None:
    """What is worth noting about a checkout's version, if anything.

    Args:
        folder: where it should be.
        named_by: what to say where the folder was named.

    Raises:
        ValueError: it is none, or one too old to have extensions.
    """
    package = folder / "threestudio" / "__init__.py"
    if not (folder / "launch.py").is_file() or not package.is_file():
        raise ValueError(f"{named_by} is no threestudio: it has no launch.py and threestudio/__init__.py")
    found = re.search(r"^__version__\s*=\s*[\"']([^\"']+)", package.read_text(encoding="utf-8"), re.M)
    if found is None or Version(found[1]) < Version(MINIMUM_VERSION):
        version = f"threestudio {found[1]}" if found else "a threestudio from before 0.2.0"
        raise ValueError(
            f"{named_by} is {version}, which loads no extensions; needed is {MINIMUM_VERSION} or newer: "
            "git clone https://github.com/threestudio-project/threestudio"
        )
    if found[1] != TESTED_VERSION:
        return f"{named_by} is threestudio {found[1]}, tested is {TESTED_VERSION}"
    return None


def missing_packages(folder: Path) -> dict[str, str]:
    """Packages that `import threestudio` needs and this Python lacks, each with a file that imports it.

    Nothing is imported: the files that would be are read for their unconditional imports.
    """
    wanted = dict(_IMPORTED_LATE)
    seen: set[str] = set()
    waiting = ["threestudio"]
    while waiting:
        module = waiting.pop()
        source = _source(folder, module)
        if module in seen or source is None:
            continue
        seen.add(module)
        package = module if source.name == "__init__.py" else module.rpartition(".")[0]
        for name in _imports(source, package):
            if _source(folder, name.split(".")[0]) is None:
                wanted.setdefault(name.split(".")[0], source.relative_to(folder).as_posix())
            else:  # importing a.b.c imports a and a.b too
                parts = name.split(".")
                waiting += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return {name: where for name, where in sorted(wanted.items()) if importlib.util.find_spec(name) is None}


def _source(folder: Path, module: str) -> Path | None:
    path = folder.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None and path.is_dir() and any(path.glob("**/*.py")) and "." not in module:
        return path  # a folder without __init__.py is a package too
    return found


def _imports(source: Path, package: str) -> Iterator[str]:
    """Absolute names of what a file imports unconditionally."""
    if source.is_dir():
        return
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                above = package.split(".")[: len(package.split(".")) - statement.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in statement.names)


def clashes(names: set[str]) -> list[Clash]:
    """Known clashes with installed versions, of those that matter to a config's registered names."""
    found = []
    for clash in CLASHES:
        try:
            version = Version(metadata.version(clash.distribution))
        except metadata.PackageNotFoundError:
            continue
        if version >= Version(clash.broken_since) and (not clash.used_by or names & set(clash.used_by)):
            found.append(clash)
    return found


def check(folder: Path, names: set[str]) -> list[str]:
    """Notes for the user.

    Args:
        folder: the checkout.
        names: registered names that the config uses.

    Raises:
        ValueError: it cannot run; says what is missing or clashes, and the command that mends it.
    """
    missing = missing_packages(folder)
    broken = clashes(names)
    problems = [f"{name} is missing (imported by {where})" for name, where in missing.items()]
    problems += [
        f"{clash.distribution} {metadata.version(clash.distribution)} clashes: {clash.effect}"
        + (f" ({', '.join(sorted(names & set(clash.used_by)))})" if clash.used_by else "")
        for clash in broken
    ]
    if problems:
        wanted = [_REQUIREMENTS.get(name, name) for name in missing]
        wanted += [clash.remedy for clash in broken if clash.remedy not in wanted]
        raise ValueError(
            f"threestudio at {folder} cannot run: {'; '.join(problems)}. Mend it with: pip install {' '.join(wanted)}"
        )
    if shutil.which("nvidia-smi") is None and not Path("/proc/driver/nvidia").exists():
        return ["no NVIDIA driver was found; threestudio runs on CUDA only (the embedded host runs without)"]
    return []


_PROBE = """
import torch
if torch.cuda.is_available():
    import nerfacc.cuda._backend, tinycudann
    if nerfacc.cuda._backend._C is None:
        raise ImportError("nerfacc was installed without its CUDA part, for want of nvcc")
    tinycudann.Encoding(3, {"otype": "Identity"})(torch.zeros(256, 3, device="cuda"))
"""


def why_no_cuda() -> str | None:
    """Why what threestudio has compiled cannot use this machine's GPU; None where it can, is not there, or no GPU is."""
    if any(importlib.util.find_spec(name) is None for name in ("nerfacc", "tinycudann")):
        return None
    answer = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    return answer.stderr.strip().splitlines()[-1] if answer.returncode else None


def registering(folder: Path, name: str) -> list[Path]:
    """Entries of the checkout's `custom/` that register a name and would be loaded, clones of this repository too."""
    pattern = re.compile(rf"register\(\s*[\"']{re.escape(name)}[\"']")
    found = []
    for entry in sorted((folder / "custom").glob("*")):
        files = [entry] if entry.is_file() else [*entry.glob("*.py"), *entry.glob("custom/*/*.py")]
        if entry.name.endswith("_disabled"):
            continue
        if any(pattern.search(file.read_text(encoding="utf-8")) for file in files if file.suffix == ".py"):
            found.append(entry)
    return found


@contextmanager
def working_folder(folder: Path, extension: Path, cache: Path, inside: Path | None = None) -> Iterator[Path]:
    """A folder to run the checkout's launch.py in: everything of the checkout, and the extension in `custom/`.

    It holds links only, so that the checkout stays as it is and may be read-only.

    Args:
        folder: the checkout.
        extension: the extension's folder; where the checkout's `custom/` has one of that name, that one stays.
        cache: where threestudio's cache of text embeddings goes.
        inside: where it is made; by default among the system's temporary folders.
    """
    with tempfile.TemporaryDirectory(prefix="threestudio-", dir=inside) as name:
        top = Path(name)
        for entry in folder.iterdir():
            if entry.name not in ("custom", cache.name):
                (top / entry.name).symlink_to(entry)
        cache.mkdir(parents=True, exist_ok=True)
        (top / cache.name).symlink_to(cache)
        custom = top / "custom"
        custom.mkdir()
        for entry in [*(folder / "custom").glob("*"), extension]:
            if not (custom / entry.name).is_symlink():
                (custom / entry.name).symlink_to(entry.resolve())
        yield top
