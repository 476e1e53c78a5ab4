"""What goes wrong in a run is said so that it can be put right."""

import json
import logging
import os

import pytest
import pytorch_lightning as pl
import torch

from imagedream.memory_options import computes_in_bfloat16
from imagedream.workshop.training.checkpointing import TrainingCheckpoints, link
from imagedream.workshop.training.checks import check_space, memory_advice
from imagedream.workshop.training.train_config import read_config
from imagedream.workshop.training.trainer import choose_precision
from imagedream.workshop.training.training_data import StepBatches
from tests.workshop.training.conftest import LIGHTNING_WARNINGS, run

pytestmark = LIGHTNING_WARNINGS


@pytest.fixture
def good(recipe, tmp_path):
    """Two steps of a run."""
    assert run(recipe, tmp_path / "out", "precision=auto") == 0
    return tmp_path / "out"


def test_a_loss_that_is_no_number_stops_the_run(recipe, good, capsys, monkeypatch):
    original = StepBatches.batch

    def batch(self, step):
        found = original(self, step)
        if step == 3:
            found["targets"][0, 0, 0, 0, 0] = torch.nan
        return found

    monkeypatch.setattr(StepBatches, "batch", batch)
    assert run(recipe, good, "precision=auto", "steps=5") == 2
    said = capsys.readouterr().err
    assert "the loss is nan at step 3, of " in said
    assert "000000.tar: sample toy-" in said
    assert "last checkpoint: " in said
    assert "step-00000002.ckpt" in said
    assert os.readlink(good / "checkpoints" / "last.ckpt") == "step-00000002.ckpt"
    # the folder says what was run
    assert len((good / "command.txt").read_text().splitlines()) == 2
    versions = json.loads((good / "versions.json").read_text())
    assert versions["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(versions["git"].removesuffix("-dirty")) == 40
    assert "steps: 5" in (good / "config.yaml").read_text()


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    module = pl.LightningModule()
    module.bias = torch.nn.Parameter(torch.tensor([0.0, torch.inf]))
    checkpoints = TrainingCheckpoints(tmp_path, 5.0, 1, 1, snapshot=lambda *_: None)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[checkpoints], enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.strategy.model = module
    problem = "weights are not finite after step 0: 1 parameters, first bias; no checkpoint was written"
    with pytest.raises(FloatingPointError, match=problem):
        checkpoints.save(trainer)
    assert not list(tmp_path.iterdir())


def test_where_links_need_a_permission_the_last_checkpoint_has_a_second_name(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(type(tmp_path), "symlink_to", refused)
    (tmp_path / "step-1.ckpt").write_text("whole")
    link(tmp_path / "last.ckpt", tmp_path / "step-1.ckpt")
    assert (tmp_path / "last.ckpt").read_text() == "whole"


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
        "optimizer.kind=muon (is adamw)",
    ):
        assert part in str(caught.value)
    with pytest.raises(MemoryError, match="out of memory on the GPU"), memory_advice(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="something else"), memory_advice(config):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # before weights are asked for, which are not there
        ("autoencoder=no data.rendered.folders=[{folder}]", "folders: {folder} holds no shards"),
        ("autoencoder=no data.rendered.folders=[nowhere]", "data.rendered.folders: nowhere does not exist"),
        ("autoencoder=no data.pictures.folders=[nowhere]", "data.pictures.folders: nowhere does not exist"),
        ("autoencoder=no data.rendered.own_prompts=2", "own_prompts is 2.0"),
        ("autoencoder=no data.rendered.image_size=64", "1 of 1 shards were rendered smaller"),
        ("autoencoder=no out={folder}/file", "the run folder {folder}/file cannot be made: {folder}/file is"),
        # what the parts or the machine do not allow
        ("data.rendered.image_size=15", "data.rendered.image_size is 15, must be divisible by 4"),
        ("devices=1000", "devices is 1000, must be at most "),
        ("encoder=ViT-B-32:/etc/passwd", "is no file that ends in one of .safetensors"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(recipe, tmp_path, capsys, overrides, message):
    (tmp_path / "file").write_text("")
    given = overrides.format(folder=tmp_path).split()
    assert run(recipe, tmp_path / "out", *given) == 2
    assert message.format(folder=tmp_path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_noticed_before_the_first_step(tmp_path):
    model = torch.nn.Linear(2**20, 2**12, device="meta")  # 16 GiB; kept times weights, average and moments
    check_space(tmp_path, torch.nn.Linear(2, 2), keep=2)
    with pytest.raises(
        OSError, match=r"the run needs \d+ MiB \(a checkpoint takes 65536 MiB, keep_checkpoints is 90\)"
    ):
        check_space(tmp_path, model.requires_grad_(True), keep=90)


def test_precision_is_what_the_device_computes_in(caplog):
    caplog.set_level(logging.INFO)
    able = computes_in_bfloat16("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_precision("auto") == ("bf16-mixed" if able else "32-true")
    assert f"precision {choose_precision('auto')}" in caplog.text
    caplog.clear()
    assert choose_precision("32-true") == "32-true"
    assert choose_precision("bf16-mixed") == "bf16-mixed"  # as asked, but told
    assert ("precision is bf16-mixed, which this device does not compute in" in caplog.text) == (not able)
