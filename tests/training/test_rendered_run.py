"""From a mesh folder to a trained network on the command line: render, train, resume."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file

from imagedream.cli import main
from tests.tiny import tiny_encoder, tiny_scheduler, tiny_unet, tiny_vae

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree"),
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Shards of three toys, a folder of pictures, a tiny model."""
    root = tmp_path_factory.mktemp("run")
    options = ["--size", "16", "--views", "8", "--jobs", "1", "--prompts", "1"]
    assert main(["render", "toybox:3", "--out", str(root / "shards"), *options]) == 0
    (root / "pictures").mkdir()
    for name in ("red", "blue", "green"):
        Image.new("RGB", (20, 16), name).save(root / "pictures" / f"{name}.png")
        (root / "pictures" / f"{name}.txt").write_text(f"all {name}")
    tiny_vae().save_pretrained(root / "vae")
    tiny_encoder().save_pretrained(root / "encoder")
    config = {
        "part": "diffusion",
        "out": str(root / "out"),
        "autoencoder": str(root / "vae"),
        "encoder": str(root / "encoder"),
        "model": {name: value for name, value in tiny_unet().config.items() if not name.startswith("_")},
        "scheduler": {
            name: value for name, value in tiny_scheduler().config.items() if not name.startswith("_")
        },
        "data": {
            "rendered": {"folders": [str(root / "shards")], "image_size": 16},
            "cache": str(root / "cache"),
            "validation_objects": 1,
            "batch_size": 2,
            "workers": 1,
        },
        "optimizer": {"final_fraction": 1.0, "warmup_steps": 1},
        "steps": 2,
        "validate_every": 2,
        "log_every": 1,
        "validation_views": 1,
        "validation_view_steps": 1,
    }
    OmegaConf.save(config, root / "tiny.yaml")
    return root


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
