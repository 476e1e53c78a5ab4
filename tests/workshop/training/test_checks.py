"""What goes wrong in a run is said so that it can be put right."""

import json
import logging
import os

import pytest
import torch

from imagedream.cli import main
from imagedream.offloading import computes_in_bfloat16
from imagedream.workshop.training.checks import memory_advice
from imagedream.workshop.training.objects import StepBatches
from imagedream.workshop.training.run import read_config
from imagedream.workshop.training.run_folder import check_space
from imagedream.workshop.training.trainer import choose_precision

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree"),
]


def run(recipe, out, *overrides):
    settings = [f"out={out}", "validation_views=0", "precision=auto", *overrides]
    return main(["train", "--config", str(recipe / "tiny.yaml"), *settings])


@pytest.fixture
def good(recipe, tmp_path):
    """Two steps of a run."""
    assert run(recipe, tmp_path / "out") == 0
    return tmp_path / "out"


def test_a_loss_that_is_no_number_stops_the_run(recipe, good, capsys, monkeypatch):
    original = StepBatches.batch

    def batch(self, step):
        found = original(self, step)
        if step == 3:
            found["targets"][0, 0, 0, 0, 0] = torch.nan
        return found

    monkeypatch.setattr(StepBatches, "batch", batch)
    assert run(recipe, good, "steps=5") == 2
    said = capsys.readouterr().err
    assert "the loss is nan at step 3, of " in said
    assert "000000.tar: sample toy-" in said
    assert "last checkpoint: " in said
    assert "step-00000002.ckpt" in said
    assert os.readlink(good / "checkpoints" / "last.ckpt") == "step-00000002.ckpt"


def test_weights_that_are_not_finite_are_never_written(recipe, tmp_path, capsys):
    assert run(recipe, tmp_path / "out", "optimizer.learning_rate=.inf", "checkpoint_steps=1") == 2
    assert "weights are not finite after step 1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert not (tmp_path / "out" / "model").exists()


def test_running_out_of_memory_says_what_needs_less(recipe):
    config = read_config(recipe / "tiny.yaml", ["accumulate=3", "precision=bf16-mixed"])
    with pytest.raises(MemoryError) as caught, memory_advice(config):
        torch.empty(2**55)
    for part in (
        "out of memory on the CPU",
        "data.batch_size (2) with a larger accumulate (3)",
        "(6 objects)",
        "activation_checkpointing=true (is false)",
        "precision=bf16-mixed (is bf16-mixed)",
        "strategy=fsdp on several devices (is auto on 1)",
    ):
        assert part in str(caught.value)
    with pytest.raises(MemoryError, match="out of memory on the GPU"), memory_advice(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="something else"), memory_advice(config):
        raise RuntimeError("something else")


def test_a_folder_that_cannot_be_written_is_noticed_before_weights_load(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(recipe, tmp_path / "file", "autoencoder=nowhere") == 2
    assert (
        f"the run folder {tmp_path / 'file'} cannot be made: {tmp_path / 'file'} is a file"
        in capsys.readouterr().err
    )


def test_a_disk_without_room_is_noticed_before_the_first_step(tmp_path):
    model = torch.nn.Linear(2**20, 2**12, device="meta")  # 16 GiB; kept times weights, average and moments
    check_space(tmp_path, torch.nn.Linear(2, 2), keep=2)
    with pytest.raises(
        OSError, match=r"the run needs \d+ MiB \(a checkpoint takes 65536 MiB, keep_checkpoints is 90\)"
    ):
        check_space(tmp_path, model.requires_grad_(True), keep=90)


def test_the_run_folder_says_what_was_run(recipe, good):
    assert run(recipe, good, "steps=3") == 0
    assert len((good / "command.txt").read_text().splitlines()) == 2
    versions = json.loads((good / "versions.json").read_text())
    assert versions["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(versions["git"].removesuffix("-dirty")) == 40
    assert "steps: 3" in (good / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("strategy=zero", "strategy is 'zero', must be one of auto, ddp, fsdp"),
        (
            "strategy=fsdp optimizer.kind=muon",
            "optimizer.kind is muon, which needs whole matrices, and strategy is fsdp",
        ),
        ("precision=bf16", "precision is 'bf16', must be one of auto, 32-true, bf16-mixed"),
        ("devices=0", "devices is 0, must be at least 1"),
        ("keep_checkpoints=0", "keep_checkpoints is 0, must be at least 1"),
    ],
)
def test_settings_that_cannot_be(recipe, overrides, message):
    with pytest.raises(ValueError, match=message):
        read_config(recipe / "tiny.yaml", overrides.split())


def test_precision_is_what_the_device_computes_in(caplog):
    caplog.set_level(logging.INFO)
    able = computes_in_bfloat16("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_precision("auto") == ("bf16-mixed" if able else "32-true")
    assert f"precision {choose_precision('auto')}" in caplog.text
    caplog.clear()
    assert choose_precision("32-true") == "32-true"
    assert choose_precision("bf16-mixed") == "bf16-mixed"  # as asked, but told
    assert ("precision is bf16-mixed, which this device does not compute in" in caplog.text) == (not able)
