"""Trainings in processes of their own: several that train together over gloo on the CPU, and compiled ones."""

import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from tests.workshop.training.conftest import ENVIRONMENT, NETWORK, command, lines
from tests.workshop.training.test_run_resume import assert_same, checkpoint, files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(recipe, out, *options):
    done = subprocess.run(command(recipe, out, *options), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_are_one_with_twice_the_batches(recipe, tmp_path):
    # process r of 2 takes batch 2k + r at step k, with the objects and the draws of that number; and the mean of two
    # gradients is the sum of their halves, exactly
    one, two = tmp_path / "one", tmp_path / "two"
    run(recipe, one, "steps=4", "accumulate=2")
    done = run(recipe, two, "steps=4", "devices=2")
    assert_same(checkpoint(two), checkpoint(one))
    # the second process writes nothing: one command, one line a step, one result
    assert done.stdout.count(str(two / "model")) == 1
    assert len((two / "command.txt").read_text().splitlines()) == 1
    assert [line["step"] for line in lines(two) if "train/loss" in line] == [1, 2, 3, 4]
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


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_training_learns_the_same(recipe, tmp_path):
    losses, names = [], []
    for option in ("compile=false", "compile=true"):
        out = tmp_path / option
        run(recipe, out, "steps=4", option)
        kinds = ("train/loss", "validation/loss")
        losses.append([line[kind] for line in lines(out) for kind in kinds if kind in line])
        names.append(load_file(out / NETWORK).keys())
    assert len(losses[0]) == 6  # four steps, two validations
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert names[1] == names[0]
