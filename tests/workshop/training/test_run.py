"""The toybox's three parts through their real entry, and what is made of them."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from imagedream import checkpoints
from imagedream.workshop.training import train
from imagedream.workshop.training.assemble import assemble, average, plot_curves, read_stats
from tests.tiny import tiny_encoder, tiny_pipeline
from tests.workshop.training.conftest import CONFIGS, LIGHTNING_WARNINGS, lines

SMALL = [
    *("data.objects=4", "data.validation_objects=2", "data.batch_size=2", "data.workers=1"),
    *("steps=2", "validate_every=2", "log_every=1", "precision=32-true", "validation_views=0"),
]
WEIGHTS = "model/diffusion_pytorch_model.safetensors"

pytestmark = LIGHTNING_WARNINGS


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


FIRST_LOSSES = {
    "autoencoder": (1.676369, 0.855711),
    "encoder": (0.759313, 0.828589),
    "diffusion": (0.947123, 1.006511),
}
"""Of the first two steps: what changes them changes the recipes."""


def test_every_part_takes_two_steps(trained, tmp_path):
    for part, expected in FIRST_LOSSES.items():
        losses = [line["train/loss"] for line in lines(trained / part) if "train/loss" in line]
        assert losses == pytest.approx(expected, rel=2e-3), part
        assert {"step", "validation/loss"} <= lines(trained / part)[-1].keys()
        assert (trained / part / "config.yaml").exists()
        assert (trained / part / "checkpoints" / "last.ckpt").exists()
    picture = plot_curves([trained / "encoder", trained / "diffusion"], tmp_path / "curves.png")
    assert picture.stat().st_size > 1000


@pytest.fixture(scope="module")
def assembled(trained):
    return assemble(trained / "diffusion", trained / "autoencoder", trained / "model", guidance_scale=1.5)


def test_the_parts_make_a_model(assembled):
    pipeline = checkpoints.load(assembled)
    assert pipeline.config.guidance_scale == 1.5
    assert pipeline.config.negative_prompt == ""  # as caption dropout teaches it
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(torch.rand(4, 64, 64), "a toy", num_inference_steps=1, output_type="pt")
    assert output.images.shape == (4, 3, 64, 64)
    size = sum(file.stat().st_size for file in assembled.rglob("*") if file.is_file())
    assert size < 40 * 2**20


@pytest.mark.slow
def test_models_are_averaged(trained, assembled, tiny_model, tmp_path):
    parts = trained / "diffusion", trained / "autoencoder"
    before, moved = checkpoints.load(assembled), checkpoints.load(assembled)
    with torch.no_grad():
        for part in (moved.unet, moved.encoder):
            for parameter in part.parameters():
                parameter.add_(1.0)
    moved.unet.register_to_config(trained_on=[*moved.unet.config.trained_on, {"data": "more"}])
    moved.save_pretrained(tmp_path / "moved")
    mean = checkpoints.load(assemble(*parts, tmp_path / "mean", others=[tmp_path / "moved"]))
    for part in ("unet", "encoder"):
        for (name, old), new in zip(
            getattr(before, part).named_parameters(), getattr(mean, part).parameters(), strict=True
        ):
            torch.testing.assert_close(new, old + 0.5, atol=2e-3, rtol=2e-3, msg=name)
    assert mean.unet.config.trained_on == moved.unet.config.trained_on
    with pytest.raises(
        ValueError, match=r"tiny has beta_end 0.012, which cannot be averaged with beta_end 0.03"
    ):
        assemble(*parts, tmp_path / "wrong", others=[tiny_model])
    assert not (tmp_path / "wrong").exists()


def test_what_cannot_be_put_together_is_refused_before_it_is(trained, tiny_model, tmp_path):
    other = tiny_pipeline()
    other.register_modules(encoder=tiny_encoder(embed_dim=32))
    for pipeline, message in (
        (tiny_pipeline("local"), "has controllers pixel, which cannot be averaged with controllers local"),
        (tiny_pipeline(prediction_type="epsilon"), "prediction_type v_prediction, which cannot be averaged"),
        (other, r"another encoder, which cannot .* of another shape"),
    ):
        with pytest.raises(ValueError, match=message):
            average(pipeline, [tiny_model])
    with pytest.raises(FileExistsError, match="diffusion is no model folder that could be replaced"):
        assemble(trained / "diffusion", None, trained / "diffusion")
    with pytest.raises(ValueError, match=r"refine_strength is 2.0, must be .* up to 1"):
        assemble(trained / "diffusion", None, tmp_path / "model", refine_strength=2.0)
    for stats, message in (
        (None, "is no run folder of `train`: it has no stats.jsonl"),
        ('{"step": 1}\n[1]', "line 2 holds a list"),
        ('{"step": "a"}', "line 1 must have numbers for step and losses"),
        ('{"train/loss": 1}', "line 1 must have numbers"),
    ):
        if stats:
            (tmp_path / "stats.jsonl").write_text(stats)
        with pytest.raises(ValueError, match=message):
            read_stats(tmp_path)


def test_parts_that_do_not_belong_together(trained, tmp_path):
    shutil.copytree(trained / "autoencoder", tmp_path / "other")
    vae = checkpoints.load_part(str(tmp_path / "other" / "model"), "vae")[0]
    torch.nn.init.ones_(vae.encoder.conv_in.bias)
    vae.save_pretrained(tmp_path / "other" / "model")
    with pytest.raises(ValueError, match=r"another encoder .*\['encoder.conv_in.bias'\]"):
        assemble(trained / "diffusion", tmp_path / "other", tmp_path / "model")
    pipeline = checkpoints.load(trained / "diffusion" / "model")
    pipeline.register_modules(vae=vae)
    pipeline.save_pretrained(tmp_path / "averaged")
    with pytest.raises(ValueError, match=r"autoencoder with another encoder, .*\['encoder.conv_in.bias'\]"):
        assemble(trained / "diffusion", None, tmp_path / "model", others=[tmp_path / "averaged"])
    vae = checkpoints.load_part(str(trained / "autoencoder" / "model"), "vae")[0]
    torch.nn.init.constant_(vae.decoder.conv_in.bias, 1e5)
    vae.save_pretrained(tmp_path / "other" / "model")
    with pytest.raises(ValueError, match=r"decoder.conv_in.bias: .* numbers are not finite in float16"):
        assemble(trained / "diffusion", tmp_path / "other", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_resumed_autoencoder_keeps_its_encoder(trained, tmp_path):
    shutil.copytree(trained / "autoencoder", tmp_path / "out")
    common = [*SMALL, f"data.cache={trained / 'cache'}", f"out={tmp_path / 'out'}"]
    train(CONFIGS / "toybox-autoencoder.yaml", [*common, "steps=3", "data.objects=3", "resume_changed=true"])
    before, after = load_file(trained / "autoencoder" / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith("encoder.")} <= same < before.keys()


@pytest.mark.slow
def test_training_starts_from_finished_weights(trained, tmp_path):
    common = [*SMALL, f"data.cache={trained / 'cache'}", "optimizer.learning_rate=0.0"]
    weights = trained / "encoder" / "model"
    train(CONFIGS / "toybox-encoder.yaml", [*common, f"initial={weights}", f"out={tmp_path / 'more'}"])
    before, after = load_file(trained / "encoder" / WEIGHTS), load_file(tmp_path / "more" / WEIGHTS)
    for key in before:
        torch.testing.assert_close(after[key], before[key])
