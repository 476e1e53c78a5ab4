"""The shipped recipes of the network take two steps, with a small model and small data in place of theirs."""

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from imagedream import checkpoints
from imagedream.workshop.training import train
from imagedream.workshop.training.checks import check_unchanged
from imagedream.workshop.training.run import read_config
from tests.tiny import tiny_unet
from tests.workshop.training.conftest import settings

CONFIGS = Path(__file__).parents[3] / "configs" / "train"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def small(recipe, controllers):
    """Overrides that put the small model and its data in place."""
    network = settings(tiny_unet(controllers))
    base = recipe / "base"
    if not base.exists():
        tiny_unet("none").save_pretrained(base)
    sizes = [
        f"model.{name}={json.dumps(network[name])}"
        for name in ("unet_config", "image_projection_config")
        if network[name]
    ]
    return [
        *sizes,
        f"autoencoder={recipe / 'vae'}",
        f"encoder={recipe / 'encoder'}",
        f"data.rendered.folders=[{recipe / 'shards'}]",
        "data.rendered.image_size=16",
        f"data.cache={recipe / 'cache'}",
        "data.validation_objects=1",
        "data.batch_size=1",
        "data.workers=1",
        "data.loader_workers=0",
        "devices=1",
        "nodes=1",
        "precision=32-true",
        "steps=2",
        "validate_every=2",
        "validation_views=0",
        "log_every=1",
    ]


def run(recipe, name, controllers, out, *more):
    overrides = [*small(recipe, controllers), f"out={out}", *more]
    if name.startswith("full"):
        overrides += [f"initial={recipe / 'base'}", f"data.pictures.folders=[{recipe / 'pictures'}]"]
    train(CONFIGS / f"{name}.yaml", overrides)
    lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    return load_file(out / "model" / WEIGHTS)


def test_the_papers_pixel_model_learns_everything(recipe, tmp_path):
    # 2 steps of 2 batches: the last is of pictures
    weights = run(recipe, "full-pixel", "pixel", tmp_path, "optimizer.warmup_steps=0")
    before = tiny_unet("none").state_dict()
    moved = [name for name, tensor in before.items() if not torch.equal(weights[name], tensor)]
    # a bias in front of a group norm of single channels has no influence
    assert len(moved) > 0.9 * len(before)
    pipeline = checkpoints.load(tmp_path / "model")
    assert pipeline.unet.config.no_image == "plain"
    assert pipeline.scheduler.config.prediction_type == "epsilon"


def test_the_papers_local_model_learns_its_controllers(recipe, tmp_path):
    weights = run(recipe, "full-local", "local", tmp_path, "optimizer.warmup_steps=0")
    for name, tensor in tiny_unet("none").state_dict().items():
        assert torch.equal(weights[name], tensor), name
    # only where captions and pictures do not both have the group's one token mean
    assert all(weights[name].abs().max() > 0 for name in weights if ".to_v_ip." in name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "controllers"),
    [
        ("full-global", "global"),
        ("full-mvdream", "none"),
        ("toybox-mvdream", "none"),
        ("toybox-global", "global"),
        ("toybox-local", "local"),
        ("toybox-pixel-only", "pixel-only"),
    ],
)
def test_the_other_recipes(recipe, tmp_path, name, controllers):
    run(recipe, name, controllers, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("controllers", ["global", "local", "diffusion", "pixel-only"])
def test_the_ablations_cameras(recipe, tmp_path, controllers):
    kind = "pixel" if controllers == "diffusion" else controllers
    run(recipe, f"toybox-{controllers}", kind, tmp_path, "model.cameras=relative")
    assert checkpoints.load(tmp_path / "model").unet.config.cameras == "relative"


def test_the_papers_numbers():
    # paper §4: 60K steps, batch 256 with accumulation 2, prompt dropout 0.1, learning rates 1e-4 and 1e-5
    for name, rate, learn in (
        ("global", 1e-4, "controllers"),
        ("local", 1e-4, "controllers"),
        ("pixel", 1e-5, "all"),
    ):
        config = read_config(CONFIGS / f"full-{name}.yaml")
        batch = config.data.batch_size * config.accumulate * config.devices * config.nodes
        assert (config.steps, batch, config.accumulate, config.devices) == (60_000, 256, 2, 8)
        assert (config.optimizer.learning_rate, config.learn) == (rate, learn)
        assert config.conditioning.prompt_dropout == 0.1
        assert (config.data.rendered.image_size, config.data.pictures.share) == (256, 0.3)
    mvdream = read_config(CONFIGS / "full-mvdream.yaml")
    batch = mvdream.data.batch_size * mvdream.accumulate * mvdream.devices * mvdream.nodes
    assert (mvdream.steps, batch) == (50_000, 1024)


def test_the_documented_table():
    text = (CONFIGS.parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    documented = set()
    for row in re.findall(r"^\| `[\w-]+\.yaml`.* × .*", text, flags=re.MULTILINE):
        names, _, _, steps, learning_rate = row.split("|")[1:-1]
        for name in re.findall(r"`([\w-]+)\.yaml`", names):
            config = read_config(CONFIGS / f"{name}.yaml")
            batch = config.data.batch_size * config.accumulate * config.devices * config.nodes
            assert steps.replace("K", "000").strip() == f"{config.steps} × {batch}", name
            assert float(learning_rate.split()[0]) == config.optimizer.learning_rate, name
            documented.add(name)
    assert documented == {path.stem for path in CONFIGS.glob("*.yaml")} - {"lora-own-objects"}


def test_a_run_from_before_an_option_was_there_goes_on(tmp_path):
    config = read_config(CONFIGS / "toybox-diffusion.yaml")
    older = OmegaConf.structured(config)
    for name in ("learn", "objective", "augmentation"):
        older = OmegaConf.masked_copy(older, [key for key in older if key != name])
    OmegaConf.save(older, tmp_path / "config.yaml")
    check_unchanged(config, tmp_path / "config.yaml", tmp_path / "last.ckpt")
    changed = read_config(CONFIGS / "toybox-diffusion.yaml", ["objective.min_snr_gamma=5"])
    with pytest.raises(ValueError, match="min_snr_gamma was None, is 5"):
        check_unchanged(changed, tmp_path / "config.yaml", tmp_path / "last.ckpt")
