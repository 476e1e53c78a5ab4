"""From a mesh folder to a trained network on the command line: render, train, resume."""

import json

import pytest
import torch
from safetensors.torch import load_file

from imagedream.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree"),
]


def run(recipe, out, *overrides):
    assert main(["train", "--config", str(recipe / "tiny.yaml"), f"out={recipe / out}", *overrides]) == 0
    return load_file(recipe / out / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def test_two_steps_from_shards(recipe, capsys):
    weights = run(recipe, "two")
    assert capsys.readouterr().out.strip().endswith(str(recipe / "two" / "model"))
    lines = [json.loads(line) for line in (recipe / "two" / "stats.jsonl").read_text().splitlines()]
    assert {"train/loss", "validation/loss"} <= {key for line in lines for key in line}
    assert lines[-1]["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_activations_computed_again_change_nothing(recipe):
    plain = run(recipe, "kept", "validation_views=0")
    again = run(recipe, "again", "validation_views=0", "activation_checkpointing=true")
    for key in plain:
        torch.testing.assert_close(again[key], plain[key])


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_the_middle_of_an_epoch(recipe, workers):
    # 4 samples to train on, 2 a step: step 3 is in the middle of the second epoch; every other step is of pictures
    pictures = [f"data.pictures.folders=[{recipe / 'pictures'}]", "data.pictures.share=0.5"]
    common = [*pictures, f"data.loader_workers={workers}"]
    whole = run(recipe, f"whole-{workers}", *common, "steps=5")
    run(recipe, f"halves-{workers}", *common, "steps=3")
    halves = run(recipe, f"halves-{workers}", *common, "steps=5")
    for key in whole:
        assert torch.equal(halves[key], whole[key]), key


def test_mistakes_in_data_are_noticed_before_weights_load(recipe, tmp_path, capsys):
    for override, message in (
        (f"data.rendered.folders=[{tmp_path}]", f"data.rendered.folders: {tmp_path} holds no shards"),
        ("data.rendered.folders=[nowhere]", "data.rendered.folders: nowhere does not exist"),
        ("data.rendered.own_prompts=2", "own_prompts is 2.0"),
    ):
        command = [
            "train",
            "--config",
            str(recipe / "tiny.yaml"),
            f"out={tmp_path / 'out'}",
            "autoencoder=no",
            override,
        ]
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
