"""The three trainings through their real entry, at a size that tests can afford."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imagedream import checkpoints
from imagedream.workshop.training import train
from imagedream.workshop.training.assemble import assemble, plot_curves
from imagedream.workshop.training.run import TrainConfig, read_config
from tests.tiny import tiny_pipeline

CONFIGS = Path(__file__).parents[3] / "configs" / "train"
SMALL = [
    "data.objects=4",
    "data.validation_objects=2",
    "data.batch_size=2",
    "data.workers=1",
    "steps=2",
    "validate_every=2",
    "log_every=1",
    "precision=32-true",
    "validation_views=0",
]

# Lightning speaks of its own internals and of choices made on purpose here
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All three parts of the shipped recipes, two steps each."""
    root = tmp_path_factory.mktemp("train")
    common = [*SMALL, f"data.cache={root / 'cache'}"]
    for part in ("autoencoder", "encoder"):
        train(CONFIGS / f"toybox-{part}.yaml", [*common, f"out={root / part}"])
    parts = [f"{part}={root / part / 'model'}" for part in ("autoencoder", "encoder")]
    train(CONFIGS / "toybox-diffusion.yaml", [*common, *parts, f"out={root / 'diffusion'}"])
    return root


def test_every_recipe_takes_two_steps(trained):
    for part in ("autoencoder", "encoder", "diffusion"):
        lines = [json.loads(line) for line in (trained / part / "stats.jsonl").read_text().splitlines()]
        assert {"train/loss", "validation/loss"} <= {key for line in lines for key in line}
        assert lines[-1]["step"] == 2
        assert (trained / part / "config.yaml").exists()
        assert (trained / part / "checkpoints" / "last.ckpt").exists()


def test_the_parts_make_a_model(trained):
    out = assemble(trained / "diffusion", trained / "autoencoder", trained / "model", guidance_scale=1.5)
    pipeline = checkpoints.load(out)
    assert pipeline.config.guidance_scale == 1.5
    assert pipeline.config.negative_caption == ""  # as caption dropout teaches it
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(torch.rand(4, 64, 64), "a toy", num_inference_steps=1)
    assert output.images.shape == (4, 3, 64, 64)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    assert size < 40 * 2**20


def test_models_are_averaged(trained, tmp_path):
    parts = trained / "diffusion", trained / "autoencoder"
    before, moved = (checkpoints.load(assemble(*parts, tmp_path / name)) for name in ("one", "other"))
    with torch.no_grad():
        for part in (moved.unet, moved.encoder):
            for parameter in part.parameters():
                parameter.add_(1.0)
    moved.unet.register_to_config(trained_on=[*moved.unet.config.trained_on, {"data": "more"}])
    moved.save_pretrained(tmp_path / "moved")
    mean = checkpoints.load(assemble(*parts, tmp_path / "mean", torch.float32, others=[tmp_path / "moved"]))
    for part in ("unet", "encoder"):
        for (name, old), new in zip(
            getattr(before, part).named_parameters(), getattr(mean, part).parameters(), strict=True
        ):
            torch.testing.assert_close(new, old + 0.5, atol=2e-3, rtol=2e-3, msg=name)
    assert mean.unet.config.trained_on == moved.unet.config.trained_on
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match="tiny has another unet, which cannot be averaged: "):
        assemble(*parts, tmp_path / "wrong", others=[tmp_path / "tiny"])
    assert not (tmp_path / "wrong").exists()


def test_parts_that_do_not_belong_together(trained, tmp_path):
    common = [*SMALL, f"data.cache={trained / 'cache'}", "seed=5"]
    train(CONFIGS / "toybox-autoencoder.yaml", [*common, f"out={tmp_path / 'other'}"])
    with pytest.raises(ValueError, match="another encoder"):
        assemble(trained / "diffusion", tmp_path / "other", tmp_path / "model")


def test_an_interrupted_run_equals_an_uninterrupted_one(trained, tmp_path):
    common = [*SMALL, f"data.cache={trained / 'cache'}"]
    recipe = CONFIGS / "toybox-encoder.yaml"
    # the schedule's length is part of the run, so the first half is stopped by its own step count
    long, short = ["steps=4", "optimizer.final_fraction=1.0"], ["steps=2", "optimizer.final_fraction=1.0"]
    train(recipe, [*common, *long, f"out={tmp_path / 'whole'}"])
    train(recipe, [*common, *short, f"out={tmp_path / 'halves'}"])
    train(recipe, [*common, *long, f"out={tmp_path / 'halves'}"])
    checkpoints = sorted(file.name for file in (tmp_path / "halves" / "checkpoints").iterdir())
    assert checkpoints == ["last.ckpt", "step-00000002.ckpt", "step-00000004.ckpt"]
    whole, halves = (
        load_file(tmp_path / run / "model" / "diffusion_pytorch_model.safetensors")
        for run in ("whole", "halves")
    )
    for key in whole:
        assert torch.equal(halves[key], whole[key]), key


def test_a_resumed_autoencoder_keeps_its_encoder(trained, tmp_path):
    out, weights = tmp_path / "autoencoder", "diffusion_pytorch_model.safetensors"
    common = [*SMALL, f"data.cache={trained / 'cache'}", f"out={out}"]
    train(CONFIGS / "toybox-autoencoder.yaml", common)
    before = load_file(out / "model" / weights)
    train(CONFIGS / "toybox-autoencoder.yaml", [*common, "steps=3", "data.objects=3", "resume_changed=true"])
    after = load_file(out / "model" / weights)
    for key in before:
        if key.startswith("encoder."):
            assert torch.equal(before[key], after[key]), key


def test_training_goes_on_from_finished_weights(trained, tmp_path):
    common = [*SMALL, f"data.cache={trained / 'cache'}", "optimizer.learning_rate=0.0"]
    weights = trained / "encoder" / "model"
    train(CONFIGS / "toybox-encoder.yaml", [*common, f"initial={weights}", f"out={tmp_path / 'more'}"])
    before, after = (
        load_file(folder / "diffusion_pytorch_model.safetensors")
        for folder in (weights, tmp_path / "more" / "model")
    )
    for key in before:
        torch.testing.assert_close(after[key], before[key])


def test_curves_are_drawn(trained, tmp_path):
    picture = plot_curves([trained / "encoder", trained / "diffusion"], tmp_path / "curves.png")
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_parses(path):
    assert isinstance(read_config(path), TrainConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "stepz"),
        ("data.objectz=3", "objectz"),
        ("steps=many", "steps"),
        ("part=music", "encoder, auto"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(ValueError, match=message):
        read_config(CONFIGS / "toybox-encoder.yaml", [override])


def test_a_config_that_is_not_there():
    with pytest.raises(ValueError, match=r"no training config at nowhere\.yaml"):
        read_config("nowhere.yaml")


def test_a_recipe_that_is_a_change_of_another(tmp_path):
    (tmp_path / "first.yaml").write_text(
        "part: diffusion\nout: runs/first\nsteps: 7\noptimizer: {learning_rate: 0.5}\n"
    )
    (tmp_path / "second.yaml").write_text(
        "base: first.yaml\nout: runs/second\noptimizer: {warmup_steps: 3}\n"
    )
    (tmp_path / "third.yaml").write_text("base: second.yaml\nsteps: 9\n")
    second, third = (read_config(tmp_path / f"{name}.yaml", ["seed=4"]) for name in ("second", "third"))
    assert (second.out, second.steps, second.seed) == ("runs/second", 7, 4)
    assert (second.optimizer.learning_rate, second.optimizer.warmup_steps) == (0.5, 3)
    assert (third.out, third.steps, third.optimizer.warmup_steps) == ("runs/second", 9, 3)
