"""Runs that end early, whatever ends them, and are resumed."""

import os
import random
import signal
import subprocess
import time

import pytest
import torch
from omegaconf import OmegaConf
from torch.utils._pytree import keystr, tree_flatten_with_path

from imagedream.cli import main
from imagedream.runs.locks import locked
from imagedream.workshop.training.training_data import StepBatches
from tests.workshop.training.conftest import ENVIRONMENT, LIGHTNING_WARNINGS, command, run

pytestmark = LIGHTNING_WARNINGS


def checkpoint(out):
    """Weights, their average, the optimiser's state and the schedule."""
    found = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    return {"average": found["callbacks"]["AveragedWeights"], **{name: found[name] for name in names}}


def assert_same(found, expected, when=""):
    found, expected = (
        {keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]} for tree in (found, expected)
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, f"{name} {when}"


def files(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def newest(out):
    link = out / "checkpoints" / "last.ckpt"
    return os.readlink(link) if link.is_symlink() else None


def test_a_run_folder_takes_one_training(recipe, tmp_path, capsys):
    with locked(tmp_path / "run", "training"):  # as by one that is going on
        assert run(recipe, tmp_path / "run") == 2
        assert "another training is at work there" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_signals_end_a_run_between_batches_and_it_is_resumed_to_the_same_weights(
    recipe, tmp_path, monkeypatch, caplog, number, code
):
    # batch 5 is the second of step 2's: what was accumulated is done again; every other batch is of pictures
    options = [
        "steps=4",
        "accumulate=2",
        f"data.pictures.folders=[{recipe / 'pictures'}]",
        "data.pictures.share=0.5",
        "validate_every=3",
    ]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert run(recipe, whole, *options) == 0
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    original = StepBatches.batch

    def batch(self, step):
        if step == 5:
            signal.raise_signal(number)
        return original(self, step)

    monkeypatch.setattr(StepBatches, "batch", batch)
    if number == signal.SIGINT:
        assert run(recipe, halves, *options) == code
    else:
        with pytest.raises(SystemExit) as ended:
            run(recipe, halves, *options)
        assert ended.value.code == code
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert f"stopped by {number.name} at step 2 of 4; the same command resumes" in caplog.text
    assert files(halves) == ["last.ckpt", "step-00000002.ckpt"]
    assert "validation/" not in (halves / "stats.jsonl").read_text()  # who asks to stop does not wait
    monkeypatch.undo()
    assert run(recipe, halves, *options) == 0
    assert_same(checkpoint(halves), checkpoint(whole))


def test_a_resume_with_another_config_names_the_fields(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(recipe, out) == 0
    config = OmegaConf.load(recipe / "tiny.yaml")
    config.model.unet_config.block_out_channels = [32, 96]
    OmegaConf.save(config, tmp_path / "wider.yaml")
    changed = ["seed=3", "optimizer.learning_rate=0.1", "steps=9", "checkpoint_steps=3"]
    assert main(["train", "--config", str(tmp_path / "wider.yaml"), f"out={out}", *changed]) == 2
    said = capsys.readouterr().err
    for part in (
        "step-00000002.ckpt is of a run with another config",
        "model.unet_config.block_out_channels was [32, 64], is [32, 96]",
        "seed was 0, is 3",
        "optimizer.learning_rate was 0.0001, is 0.1",
        "resume_changed=true",
    ):
        assert part in said
    assert "steps was" not in said  # longer runs are what resumes are for
    assert OmegaConf.load(out / "config.yaml").seed == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_any_moment_a_run_is_resumed_to_the_same_weights(recipe, tmp_path):
    options = [
        "steps=24",
        "accumulate=2",
        "checkpoint_steps=3",
        "data.loader_workers=2",
        f"data.pictures.folders=[{recipe / 'pictures'}]",
        "validation_views=0",
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": ENVIRONMENT}
    subprocess.run(command(recipe, whole, *options), check=True, **quiet)
    process = subprocess.Popen(command(recipe, killed, *options), **quiet, start_new_session=True)
    while newest(killed) is None:
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    time.sleep(random.uniform(0, 1))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    when = f"killed after {newest(killed)}"
    subprocess.run(command(recipe, killed, *options), check=True, **quiet)
    assert_same(checkpoint(killed), checkpoint(whole), when)


@pytest.mark.slow
def test_slurm_asks_with_a_signal_and_gets_the_job_back(recipe, tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    slurm = {"JOB_ID": "17", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    environment = {
        **ENVIRONMENT,
        **{f"SLURM_{name}": value for name, value in slurm.items()},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(recipe, out, "steps=100000", "validate_every=100000", "data.loader_workers=1"),
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (out / "stats.jsonl").exists() or '"train/loss"' not in (out / "stats.jsonl").read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGUSR1)  # all processes of the job, the loader's too
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGUSR1
    assert "stopped by SIGUSR1 at step" in said
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
    assert files(out)[0] == "last.ckpt"
    assert (out / "model" / "unet").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_the_middle_of_an_epoch(recipe, tmp_path, workers):
    # 4 samples to train on, 2 a step: step 3 is in the middle of the second epoch; every other step is of pictures
    pictures = [f"data.pictures.folders=[{recipe / 'pictures'}]", "data.pictures.share=0.5"]
    common = [*pictures, f"data.loader_workers={workers}", "checkpoint_steps=1", "keep_checkpoints=3"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for out, steps in ((whole, 5), (halves, 3), (halves, 5)):
        assert run(recipe, out, *common, f"steps={steps}") == 0
    assert_same(checkpoint(halves), checkpoint(whole))
    kept = [f"step-{step:08d}.ckpt" for step in (3, 4, 5)]
    assert files(halves) == ["last.ckpt", *kept]
    assert newest(halves) == kept[-1]
    # the average at step 5, by hand: (1 + 4) / (10 + 4) of the one before and the rest of the new weights
    before, after = (torch.load(halves / "checkpoints" / name, weights_only=True) for name in kept[1:])
    averages = [one["callbacks"]["AveragedWeights"]["shadow_params"] for one in (before, after)]
    for old, new, weight in zip(*averages, after["state_dict"].values(), strict=True):
        torch.testing.assert_close(new, 5 / 14 * old + 9 / 14 * weight)
