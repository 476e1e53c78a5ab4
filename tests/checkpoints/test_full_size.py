"""The published sizes: random files in every layout are loaded strictly, within the memory bound.

Each case writes up to 8 GB below pytest's temporary folder and takes minutes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.random_weights import random_pipeline
from imagedream.workshop.training.architectures import published_architecture
from tests.checkpoints.published import write_diffusers, write_official, write_stable_diffusion

SCRIPT = """
import json, re, sys, time
import torch
from imagedream import checkpoints
from imagedream.cli import main
from imagedream.encoders import ImageTextEncoder
from imagedream.pipeline import ImageDreamPipeline
def peak_gib():
    # getrusage would count the memory of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**20
before, found = peak_gib(), {}
if sys.argv[1] == "convert":
    assert main(sys.argv[1:]) == 0
else:
    pipeline = checkpoints.load(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
    weights = [p for part in (pipeline.unet, pipeline.vae, pipeline.encoder) for p in part.parameters()]
    found = {"controllers": pipeline.unet.config.controllers}
    found["model_gib"] = sum(p.numel() * p.element_size() for p in weights) / 2**30
print(json.dumps({**found, "above_libraries_gib": peak_gib() - before}))
"""


def run(*arguments):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    sys.stdout.write(f"{' '.join(arguments)}: {found}\n")
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, as on Linux"
)


@pytest.fixture
def folder(tmp_path):
    """A temporary folder whose files go as soon as the test ends: they are large."""
    yield tmp_path
    for file in sorted(tmp_path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


@pytest.mark.slow
@needs_proc
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["official", "mvdream", "mv_unet", "split", "stable-diffusion"])
def test_loading_needs_the_model_and_at_most_one_gibibyte_more(layout, dtype, folder):
    controllers = "none" if layout in ("mvdream", "stable-diffusion") else "pixel"
    pipeline = random_pipeline(published_architecture(controllers))
    path = folder / "weights"
    if layout == "official" or layout == "mvdream":
        path = write_official(pipeline, path.with_suffix(".pt"))
    elif layout == "stable-diffusion":
        path = write_stable_diffusion(pipeline, path.with_suffix(".ckpt"))
    else:
        write_diffusers(pipeline, path, layout)
    del pipeline
    found = run(str(path), dtype)
    assert found["controllers"] == controllers
    assert found["above_libraries_gib"] - found["model_gib"] < 1
    # at least a milliard of numbers
    assert torch.finfo(getattr(torch, dtype)).bits // 8 * 0.25 < found["model_gib"]


@pytest.mark.slow
@needs_proc
@pytest.mark.timeout(1800)
def test_converting_there_and_back_needs_the_model_and_at_most_one_gibibyte_more(folder):
    write_official(random_pipeline(published_architecture("pixel")), folder / "a.pt")

    def convert(*arguments):
        return run("convert", *arguments)["above_libraries_gib"]

    model_gib = 7.49
    assert convert(f"{folder}/a.pt", "--out", f"{folder}/half", "--dtype", "float16") < model_gib / 2 + 1
    assert convert(f"{folder}/a.pt", "--out", f"{folder}/single") < model_gib + 1
    assert convert(f"{folder}/single", "--out", f"{folder}/b.pt", "--to", "official") < model_gib + 1
    first, second = (torch.load(folder / name, weights_only=True, mmap=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert {name for name in first if "." in name} == second.keys()
