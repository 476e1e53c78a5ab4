"""A compiled training."""

import json
import shutil
import subprocess

import pytest
from safetensors.torch import load_file

from tests.workshop.training.test_run_resume import ENVIRONMENT, command


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_training_learns_the_same(recipe, tmp_path):
    # in processes of their own, because the shape checks of the tests cannot be compiled
    losses, names = [], []
    for option in ("compile=false", "compile=true"):
        out = tmp_path / option
        done = subprocess.run(
            command(recipe, out, "steps=4", option), env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
        losses.append(
            [line[kind] for line in lines for kind in ("train/loss", "validation/loss") if kind in line]
        )
        names.append(load_file(out / "model" / "unet" / "diffusion_pytorch_model.safetensors").keys())
    assert len(losses[0]) == 6  # four steps, two validations
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert names[1] == names[0]
