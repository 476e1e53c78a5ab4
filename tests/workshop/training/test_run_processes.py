"""Several processes that train together, over gloo on the CPU."""

import json
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tests.workshop.training.test_run_resume import ENVIRONMENT, assert_same, checkpoint, command, files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(recipe, out, *options):
    done = subprocess.run(
        command(recipe, out, *options), env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def one(recipe, tmp_path_factory):
    """Four steps of a single process that takes two batches a step: 2k and 2k + 1 at step k."""
    out = tmp_path_factory.mktemp("processes") / "one"
    run(recipe, out, "steps=4", "accumulate=2")
    return out


def test_two_processes_are_one_with_twice_the_batches(recipe, one, tmp_path):
    # process r of 2 takes batch 2k + r at step k, with the objects and the draws of that number; and the mean of two
    # gradients is the sum of their halves, exactly
    two = tmp_path / "two"
    done = run(recipe, two, "steps=4", "devices=2")
    assert_same(checkpoint(two), checkpoint(one))
    # the second process writes nothing: one command, one line a step, one result
    assert done.stdout.count(str(two / "model")) == 1
    assert len((two / "command.txt").read_text().splitlines()) == 1
    lines = [json.loads(line) for line in (two / "stats.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
    assert files(two) == files(one) == ["last.ckpt", "step-00000004.ckpt"]
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


def test_two_processes_that_share_the_work_of_muon_learn_what_one_does(recipe, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run(recipe, one, "steps=3", "accumulate=2", "optimizer.kind=muon")
    run(recipe, two, "steps=3", "devices=2", "optimizer.kind=muon")
    found, expected = checkpoint(two)["state_dict"], checkpoint(one)["state_dict"]
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=1e-3)


def test_weights_spread_over_processes_learn_and_are_written_the_same(recipe, one, tmp_path):
    spread = tmp_path / "spread"
    run(recipe, spread, "steps=2", "devices=2", "strategy=fsdp")
    run(recipe, spread, "steps=3", "devices=2", "strategy=fsdp")
    run(recipe, spread, "steps=4", "devices=2")  # a checkpoint knows nothing of how it was made
    found, expected = checkpoint(spread), checkpoint(one)
    for name in ("state_dict", "averaged_weights"):
        assert found[name].keys() == expected[name].keys()
        # AdamW moves a weight whose gradient is rounding noise by up to the rate, 1e-4 a step, to either side
        far = []
        for key, tensor in expected[name].items():
            torch.testing.assert_close(found[name][key], tensor, atol=4e-4, rtol=1e-3)
            far.append(~torch.isclose(found[name][key], tensor, atol=1e-4, rtol=1e-3).flatten())
        assert torch.cat(far).float().mean() < 1e-3
    weights = [
        load_file(out / "model" / "unet" / "diffusion_pytorch_model.safetensors") for out in (spread, one)
    ]
    assert weights[0].keys() == weights[1].keys()
    losses = [
        [json.loads(line).get("validation/loss") for line in (out / "stats.jsonl").read_text().splitlines()]
        for out in (spread, one)
    ]
    assert [loss for loss in losses[0] if loss] == pytest.approx(
        [loss for loss in losses[1] if loss], rel=1e-4
    )
