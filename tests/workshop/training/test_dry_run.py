"""The dry run's numbers against the real module's, and against a layer counted by hand."""

import json
from functools import cache

import pytest

from imagedream.cli import main
from imagedream.workshop.training.build import build_module
from imagedream.workshop.training.dry_run import DEFAULT_TFLOPS, downloads, plan
from imagedream.workshop.training.train_config import read_config
from tests.tiny import tiny_unet
from tests.workshop.training.conftest import CONFIGS

BASE = ("devices=2", "accumulate=3", "precision=32-true")


@pytest.fixture(scope="module")
def planned(recipe):
    @cache
    def make(*overrides):
        return plan(read_config(recipe / "tiny.yaml", list(overrides)))

    return make


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


@pytest.mark.slow
def test_parameters_memory_and_time_of_the_real_module(recipe, planned):
    found = planned(*BASE)
    module = build_module(read_config(recipe / "tiny.yaml"))
    total = count(module.model.parameters())
    assert found.parameters == {
        "total": total,
        "learned": total,
        "autoencoder": count(module.pipeline.vae.parameters()),
        "encoder": count(module.pipeline.encoder.parameters()),
    }
    assert found.memory["weights"] == found.memory["gradients"] == 4 * total
    assert found.memory["state of adamw"] == 8 * total
    assert found.missing == ()
    # each device has 2 objects in each of 3 batches
    assert found.step_seconds(10.0) == pytest.approx(2 * 3 * found.object_operations / 1e13)
    report = found.report(DEFAULT_TFLOPS)
    assert "a step: 12 objects" in report
    assert "at 124.8 TFLOP/s a device" in report


@pytest.mark.slow
def test_a_layer_counted_by_hand_and_what_saves_memory(recipe, planned):
    # without the gradient of its kernel, the first convolution does half: of 5 frames of 4 x 4 latents, 4 -> 32 channels,
    # kernels of 3 x 3, a multiplication and an addition each; its input has no gradient either way
    tiny_unet().save_pretrained(recipe / "network")
    rest = json.dumps(["image_projection", "unet.[!c]*", "unet.class_embedding", "unet.conv_[!i]*"])
    whole = planned(*BASE)
    without = planned(*BASE, f"initial={recipe / 'network'}", f"learn={rest}")
    assert whole.object_operations - without.object_operations == 2 * 5 * 4 * 4 * 4 * 32 * 9
    assert whole.parameters["learned"] - without.parameters["learned"] == 4 * 32 * 9 + 32
    lean = planned(*BASE, "activation_checkpointing=true", "optimizer.kind=muon")
    activations = next(name for name in whole.memory if name.startswith("activations"))
    assert lean.memory[activations] < whole.memory[activations]
    assert lean.object_operations > whole.object_operations  # what is not kept is computed again
    assert lean.memory["state of muon"] < whole.memory["state of adamw"] * 0.6


@pytest.mark.slow
def test_on_the_command_line(recipe, tmp_path, capsys):
    config = ["train", "--config", str(recipe / "tiny.yaml"), "--dry-run"]
    missing = f"data.rendered.folders=[{tmp_path / 'no'}]"
    assert main([*config, "--tflops", "100", missing, "initial=a/b"]) == 1
    said = capsys.readouterr().out
    for words in (
        "parameters:",
        "learned",
        "TFLOP each",
        "at 100 TFLOP/s a device",
        "GiB  weights",
        "in all",
        f"missing: data.rendered.folders: {tmp_path / 'no'} does not exist",
        "to download: initial: a/b (Hugging Face hub)",
    ):
        assert words in said


def test_mistakes_on_the_command_line(recipe, capsys):
    config = ["train", "--config", str(recipe / "tiny.yaml")]
    assert main([*config, "--dry-run", "encoder=nowhere.pt"]) == 2
    assert "encoder: no weights at nowhere.pt" in capsys.readouterr().err
    assert main([*config, "--tflops", "1"]) == 2
    assert "is for --dry-run only" in capsys.readouterr().err


def test_what_the_papers_run_downloads():
    initial, autoencoder, encoder = downloads(read_config(CONFIGS / "full-pixel.yaml"))
    assert "MVDream/MVDream/sd-v2.1-base-4view.pt (Hugging Face hub)" in initial
    assert initial.removeprefix("initial") == autoencoder.removeprefix("autoencoder")
    assert encoder == "encoder: ViT-H-14:laion2b_s32b_b79k (open_clip)"


def test_what_is_not_counted(recipe, planned):
    tiny_unet("none").save_pretrained(recipe / "captions")
    with pytest.raises(ValueError, match=r"the starting point does not fit the model: .* of another shape"):
        planned(f"initial={recipe / 'captions'}", "model.unet_config.block_out_channels=[32,96]")
    for name, what in (("lora-own-objects", "lora.rank 16"), ("toybox-encoder", "part encoder")):
        with pytest.raises(ValueError, match=f"trainings of the network itself, not of {what}"):
            plan(read_config(CONFIGS / f"{name}.yaml"))
