"""The dry run's numbers against the real module's, and against a layer counted by hand."""

import json
from functools import cache
from pathlib import Path

import pytest

from imagedream.cli import main
from imagedream.workshop.training.build import build_module
from imagedream.workshop.training.dry_run import DEFAULT_TFLOPS, downloads, plan
from imagedream.workshop.training.run import read_config
from tests.tiny import tiny_unet

BASE = ("devices=2", "accumulate=3")
CONFIGS = Path(__file__).parents[3] / "configs" / "train"


@pytest.fixture(scope="module")
def planned(recipe):
    @cache
    def make(*overrides):
        return plan(read_config(recipe / "tiny.yaml", list(overrides)))

    return make


def count(parameters):
    return sum(parameter.numel() for parameter in parameters)


def test_parameters_and_memory_of_the_real_module(recipe, planned):
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
    assert found.objects == 2 * 2 * 3
    assert found.missing == found.downloads == ()
    # time is operations over the rate of all devices
    assert found.step_seconds(10.0) == pytest.approx(12 * found.object_operations / 2e13)


@pytest.mark.slow
def test_a_layer_counted_by_hand(recipe, planned):
    # without the gradient of its kernel, the first convolution does half: of 5 frames of 4 x 4 latents, 4 -> 32 channels,
    # kernels of 3 x 3, a multiplication and an addition each; its input has no gradient either way
    tiny_unet().save_pretrained(recipe / "network")
    rest = json.dumps(["image_projection", "unet.[!c]*", "unet.class_embedding", "unet.conv_[!i]*"])
    whole = planned(*BASE)
    without = planned(*BASE, f"initial={recipe / 'network'}", f"learn={rest}")
    assert whole.object_operations - without.object_operations == 2 * 5 * 4 * 4 * 4 * 32 * 9
    assert whole.parameters["learned"] - without.parameters["learned"] == 4 * 32 * 9 + 32


@pytest.mark.slow
def test_what_saves_memory(planned):
    plain = planned(*BASE)
    lean = planned("activation_checkpointing=true", "strategy=fsdp", "devices=4", "optimizer.kind=adafactor")
    activations = next(name for name in plain.memory if name.startswith("activations"))
    assert lean.memory[activations] < plain.memory[activations]
    assert lean.object_operations > plain.object_operations  # what is not kept is computed again
    assert lean.memory["weights"] * 4 == plain.memory["weights"]
    assert lean.memory["state of adafactor"] < plain.memory["state of adamw"] / 4


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
    assert main([*config, "encoder=nowhere.pt"]) == 2
    assert "encoder: no weights at nowhere.pt" in capsys.readouterr().err
    assert main([*config[:-1], "--tflops", "1"]) == 2
    assert "is for --dry-run only" in capsys.readouterr().err


def test_what_the_papers_run_downloads():
    config = read_config(CONFIGS / "full-pixel.yaml")
    initial, autoencoder, encoder = downloads(config)
    assert "MVDream/MVDream/sd-v2.1-base-4view.pt (Hugging Face hub)" in initial
    assert initial.removeprefix("initial") == autoencoder.removeprefix("autoencoder")
    assert encoder == "encoder: ViT-H-14:laion2b_s32b_b79k (open_clip)"


def test_the_rate_that_is_assumed(planned):
    assert "at 40% of an A100's 312 TFLOP/s" in planned(*BASE).report(DEFAULT_TFLOPS)


def test_a_starting_point_that_does_not_fit_is_noticed(recipe, planned):
    tiny_unet("none").save_pretrained(recipe / "captions")
    with pytest.raises(ValueError, match=r"the starting point does not fit the model: .* of another shape"):
        planned(f"initial={recipe / 'captions'}", "model.unet_config.block_out_channels=[32,96]")
