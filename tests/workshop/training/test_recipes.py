"""The shipped recipes take two steps: the toybox's three parts as they are, networks with a small model and small data."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from imagedream import checkpoints
from imagedream.workshop.training import train
from imagedream.workshop.training.train_config import TrainConfig, read_config
from tests.tiny import tiny_unet
from tests.workshop.training.conftest import CONFIGS, LIGHTNING_WARNINGS, NETWORK, ROOT, lines, settings

pytestmark = LIGHTNING_WARNINGS


def two_steps(recipe, out):
    """Overrides of any recipe for two steps on small data."""
    return [
        f"out={out}",
        f"data.rendered.folders=[{recipe / 'shards'}]",
        "data.rendered.image_size=16",
        f"data.cache={recipe / 'cache'}",
        *("data.validation_objects=1", "data.batch_size=1", "data.workers=1", "data.loader_workers=0"),
        *("devices=1", "nodes=1", "precision=32-true", "steps=2", "validate_every=2", "validation_views=0"),
        "log_every=1",
    ]


def take_two_steps(recipe, name, controllers, out, *more):
    network = settings(tiny_unet(controllers))
    sizes = [f"model.{key}={json.dumps(network[key])}" for key in ("unet_config", "image_projection_config")]
    base = recipe / "base"
    if not base.exists():
        tiny_unet("none").save_pretrained(base)
    overrides = [
        *sizes,
        *two_steps(recipe, out),
        f"autoencoder={recipe / 'vae'}",
        f"encoder={recipe / 'encoder'}",
        *more,
    ]
    if (
        name == "toybox-real"
    ):  # its shards and toys are of one size, its weights of 24 channels, its start the small model
        overrides += [
            "initial=",
            "objective.channel_weights=null",
            "data.sample.image_size=16",
            "data.objects=2",
        ]
    if name.startswith("full"):
        overrides += [f"initial={base}", f"data.pictures.folders=[{recipe / 'pictures'}]"]
    train(CONFIGS / f"{name}.yaml", overrides)
    assert lines(out)[-1]["step"] == 2
    return load_file(out / NETWORK)


def test_the_papers_pixel_model_learns_everything(recipe, tmp_path):
    # 2 steps of 2 batches: the last is of pictures
    weights = take_two_steps(recipe, "full-pixel", "pixel", tmp_path, "optimizer.warmup_steps=0")
    before = tiny_unet("none").state_dict()
    moved = [name for name, tensor in before.items() if not torch.equal(weights[name], tensor)]
    # a bias in front of a group norm of single channels has no influence
    assert len(moved) > 0.9 * len(before)
    pipeline = checkpoints.load(tmp_path / "model")
    assert pipeline.unet.config.no_image == "plain"
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def test_the_papers_local_model_learns_its_controllers(recipe, tmp_path):
    weights = take_two_steps(recipe, "full-local", "local", tmp_path, "optimizer.warmup_steps=0")
    for name, tensor in tiny_unet("none").state_dict().items():
        assert torch.equal(weights[name], tensor), name
    # only where captions and pictures do not both have the group's one token mean
    assert all(weights[name].abs().max() > 0 for name in weights if ".to_v_ip." in name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "controllers", "cameras"),
    [
        ("full-global", "global", "canonical"),
        ("full-mvdream", "none", "canonical"),
        ("toybox-mvdream", "none", "canonical"),
        ("toybox-global", "global", "relative"),
        ("toybox-local", "local", "relative"),
        ("toybox-diffusion", "pixel", "relative"),
        ("toybox-pixel-only", "pixel-only", "relative"),
        ("toybox-real", "pixel", "canonical"),
    ],
)
def test_the_other_recipes_and_the_cameras_of_the_ablation(recipe, tmp_path, name, controllers, cameras):
    take_two_steps(recipe, name, controllers, tmp_path, f"model.cameras={cameras}")
    assert checkpoints.load(tmp_path / "model").unet.config.cameras == cameras


def test_the_decoder_learns_alone(recipe, tmp_path):
    small = [*two_steps(recipe, tmp_path), "data.sample.image_size=16", "data.objects=2"]
    train(CONFIGS / "toybox-decoder.yaml", small)
    before, after = (checkpoints.load_part(where, "vae")[0] for where in ("toybox", str(tmp_path / "model")))
    assert after.config.scaling_factor == before.config.scaling_factor
    trained = dict(after.named_parameters())
    for name, value in before.named_parameters():
        moved = not torch.allclose(trained[name], value.float(), atol=0)
        assert moved == name.startswith(("decoder", "post_quant_conv")), name


def test_the_papers_numbers():
    # paper §4: 60K steps, batch 256 with accumulation 2, prompt dropout 0.1, learning rates 1e-4 and 1e-5
    for name, rate, learn in (
        ("global", 1e-4, "controllers"),
        ("local", 1e-4, "controllers"),
        ("pixel", 1e-5, "all"),
    ):
        config = read_config(CONFIGS / f"full-{name}.yaml")
        assert (config.steps, objects(config), config.accumulate, config.devices) == (60_000, 256, 2, 8)
        assert (config.optimizer.learning_rate, config.learn) == (rate, learn)
        assert config.conditioning.prompt_dropout == 0.1
        assert (config.data.rendered.image_size, config.data.pictures.share) == (256, 0.3)
    mvdream = read_config(CONFIGS / "full-mvdream.yaml")
    assert (mvdream.steps, objects(mvdream)) == (50_000, 1024)


def objects(config: TrainConfig) -> int:
    return config.data.batch_size * config.accumulate * config.devices * config.nodes


def test_the_documented_table():
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    documented = set()
    for row in re.findall(r"^\| `[\w-]+\.yaml`.* × .*", text, flags=re.MULTILINE):
        names, _, _, steps, learning_rate = row.split("|")[1:-1]
        for name in re.findall(r"`([\w-]+)\.yaml`", names):
            config = read_config(CONFIGS / f"{name}.yaml")
            assert steps.replace("K", "000").strip() == f"{config.steps} × {objects(config)}", name
            assert float(learning_rate.split()[0]) == config.optimizer.learning_rate, name
            documented.add(name)
    assert documented == {path.stem for path in CONFIGS.glob("*.yaml")} - {"lora-own-objects"}
    assert read_config(CONFIGS / "lora-own-objects.yaml").lora.rank == 16
