"""Our classes against the official ImageDream code, both with the same seeded weights and inputs.

Everywhere, against numbers kept in `golden/`; and where `IMAGEDREAM_ROOT` points to a checkout of
github.com/bytedance/ImageDream, against the code itself, run in a process of its own. `pytest -s` prints each error.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imagedream import checkpoints
from tests.parity import cases, ours

HERE = Path(__file__).parent
LAYOUT = json.loads((HERE / "golden" / "layout.json").read_text())
ROOT = os.environ.get("IMAGEDREAM_ROOT")
ADAPTERS = sorted(cases.IMAGE_TOKENS)

TOLERANCE = 1e-4
RESIZED_TOLERANCE = 1e-2
"""Pillow, which the official code resizes with, rounds to 8 bits after each of its two passes; ours does not round."""

needs_official_code = pytest.mark.skipif(
    ROOT is None, reason="IMAGEDREAM_ROOT does not point to a checkout of github.com/bytedance/ImageDream"
)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape, f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
    difference = (found.double() - expected.double()).norm()
    return (difference / expected.double().norm()).item()


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance=TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    errors = {name: relative_error(found[name], expected[name]) for name in sorted(expected)}
    table = "\n".join(f"{name:32} {error:.1e}" for name, error in errors.items())
    print(f"\n{table}")
    limits = {"image_resized": RESIZED_TOLERANCE}
    beyond = [name for name, error in errors.items() if not error <= limits.get(name, tolerance)]
    assert not beyond, f"relative errors above {tolerance}: {', '.join(beyond)}\n{table}"


def golden(adapter: str) -> dict[str, torch.Tensor]:
    return load_file(HERE / "golden" / f"{adapter}.safetensors")


def run_official_code(size: str, adapter: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """The file of weights that the official model writes, and its outputs."""
    command = [sys.executable, "-I", str(HERE / "official.py"), "--root", ROOT, "--out", str(folder)]
    done = subprocess.run(
        [*command, "--size", size, "--adapter", adapter], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "model.pt", load_file(folder / "outputs.safetensors")


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_ours_says_what_the_official_code_said(adapter, tmp_path):
    shapes = LAYOUT["shared"] | LAYOUT[adapter]
    weights = {key: cases.seeded_weight(key, tuple(shape)) for key, shape in shapes.items()}
    torch.save(weights, tmp_path / "model.pt")
    pipeline = checkpoints.load(tmp_path / "model.pt")
    compare(ours.outputs(pipeline, cases.SIZES["reduced"], adapter), golden(adapter))


@needs_official_code
@pytest.mark.timeout(600)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_official_code_still_says_so(adapter, tmp_path):
    """And ours reads the file that the official model writes, noise schedule and all."""
    file, official = run_official_code("reduced", adapter, tmp_path)
    compare(golden(adapter), official)
    compare(ours.outputs(checkpoints.load(file), cases.SIZES["reduced"], adapter), official)


@needs_official_code
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_full_size(adapter, tmp_path):
    """Writes and removes 8 GB; needs 12 GB of memory."""
    file, official = run_official_code("full", adapter, tmp_path)
    try:
        pipeline = checkpoints.load(file)
    finally:
        file.unlink()
    compare(ours.outputs(pipeline, cases.SIZES["full"], adapter), official)
