"""Every published layout becomes the same model, strictly."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from imagedream import checkpoints
from imagedream.checkpoints import tensors
from imagedream.checkpoints.official import official_state
from imagedream.cli import main
from imagedream.model import predict_noise
from tests.checkpoints.published import (
    reduced_pipeline,
    write_diffusers,
    write_official,
    write_stable_diffusion,
)
from tests.tiny import tiny_scheduler


def assert_same(loaded, original, parts=("unet", "vae", "encoder"), without=(), tolerance=0.0):
    for part in parts:
        ours, theirs = (getattr(pipeline, part).state_dict() for pipeline in (loaded, original))
        names = [name for name in theirs if not any(word in name for word in without)]
        assert set(names) == set(ours) - {name for name in ours if any(word in name for word in without)}
        for name in names:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "controllers",
    ["pixel", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "global"))],
)
def test_official_files(controllers, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "imagedream")
    original = reduced_pipeline(controllers)
    file = write_official(original, tmp_path / "renamed.pt")
    loaded = checkpoints.load(file)
    assert_same(loaded, original)
    config = loaded.unet.config
    assert config.controllers == controllers
    # local and pixel files look the same
    assert ("controllers=local" in caplog.text) == (controllers == "pixel")
    assert config.image_projection_config == original.unet.config.image_projection_config
    for key, value in original.unet.config.unet_config.items():
        found = config.unet_config[key]
        assert (tuple(found) if isinstance(found, list) else found) == value
    assert loaded.vae.config.block_out_channels == [32, 32, 64]
    assert (loaded.vae.config.scaling_factor, loaded.vae.config.latent_channels) == (0.18215, 4)
    assert loaded.encoder.config.text_cfg == original.encoder.config.text_cfg
    assert loaded.scheduler.config.prediction_type == "epsilon"
    assert loaded.config.prompt_suffix == ", 3d asset"  # the demos' of MVDream and ImageDream
    # in portions, and in half precision
    monkeypatch.setattr(tensors, "READ_AT_ONCE", 1_500_000)
    half = checkpoints.load(file, dtype=torch.float16).unet.state_dict()
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in original.unet.state_dict().items())
    other = "local" if controllers == "global" else "global"
    with pytest.raises(
        checkpoints.CheckpointError,
        match=f"controllers is '{other}', but these weights have '{controllers}'",
    ):
        checkpoints.load(file, controllers=other)


def test_names_agree_with_diffusers_own_converters():
    pipeline = reduced_pipeline("none")
    config = dict(pipeline.unet.config.unet_config, class_embed_type=None)
    stock = UNet2DConditionModel(**config)
    state = official_state(pipeline)
    unet = {name: tensor for name, tensor in state.items() if "camera_embed" not in name}
    stock.load_state_dict(convert_ldm_unet_checkpoint(unet, config))
    for name, tensor in stock.state_dict().items():
        assert torch.equal(tensor, pipeline.unet.state_dict()[f"unet.{name}"])
    vae = AutoencoderKL.from_config(pipeline.vae.config)
    vae.load_state_dict(convert_ldm_vae_checkpoint(state, pipeline.vae.config))
    for name, tensor in vae.state_dict().items():
        assert torch.equal(tensor, pipeline.vae.state_dict()[name])


@pytest.mark.parametrize("form", ["mv_unet", "split"])
@pytest.mark.parametrize("controllers", ["none", "pixel"])
def test_diffusers_conversions_of_imagedream_and_mvdream(controllers, form, tmp_path):
    original = reduced_pipeline(controllers)
    loaded = checkpoints.load(write_diffusers(original, tmp_path / "m", form, torch.float32))
    assert_same(loaded, original, ("unet", "vae"))
    assert loaded.unet.config.controllers == controllers
    assert loaded.encoder.config.caption_tokens == "last"
    assert loaded.encoder.reads_images == (controllers == "pixel")
    if controllers == "pixel":
        pixels = torch.rand(1, 3, 28, 28)
        hidden = [pipeline.encoder.encode_image(pixels).hidden for pipeline in (loaded, original)]
        torch.testing.assert_close(*hidden)
    tokens = torch.randint(0, 50, (1, 77))
    for pipeline in (loaded, original):
        pipeline.encoder.tokenize = lambda captions: tokens
    torch.testing.assert_close(loaded.encoder.encode_text([""]), original.encoder.encode_text([""]))


@pytest.mark.parametrize("form", ["model.safetensors", "model.ckpt", "folder"])
def test_stable_diffusion_starts_without_influence_of_cameras(form, tmp_path):
    original = reduced_pipeline("none")
    if form == "folder":
        path = write_diffusers(original, tmp_path / form, "stable-diffusion", torch.float32)
    else:
        path = write_stable_diffusion(original, tmp_path / form)
    loaded = checkpoints.load(path)
    assert_same(loaded, original, ("unet", "vae"), without=("class_embedding",))
    assert loaded.config.prompt_suffix == ""
    latents, text = torch.randn(1, 4, 4, 8, 8), torch.randn(1, 77, 64)
    first, second = (
        predict_noise(loaded.unet, latents, torch.tensor([500]), camera, text)
        for camera in torch.randn(2, 1, 4, 16)
    )
    assert torch.equal(first, second)
    assert loaded.unet.state_dict()["unet.class_embedding.linear_1.weight"].std() > 0


def test_missing_unexpected_and_misshapen_weights_stop_it_before_anything_is_read(tmp_path):
    whole = official_state(reduced_pipeline("pixel"))
    state = dict(whole)
    for index in range(3):
        state[f"model.diffusion_model.surprise.{index}.weight"] = torch.zeros(2)
    del state["model.diffusion_model.out.2.bias"]
    state["vae_model.quant_conv.bias"] = torch.zeros(5)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(checkpoints.CheckpointError) as error:
        checkpoints.load(tmp_path / "m.pt")
    for part in (
        "looks like an ImageDream checkpoint (pixel)",
        "1 missing: model.diffusion_model.out.2.bias",
        "3 unexpected: model.diffusion_model.* (3)",
        "vae_model.quant_conv.bias (5,) instead of (8,)",
    ):
        assert part in str(error.value)
    whole["clip_model.model.token_embedding.weight"] = torch.zeros(0, 64)
    torch.save(whole, tmp_path / "m.pt")
    with pytest.raises(checkpoints.CheckpointError, match="1 tensors hold nothing: clip_model"):
        checkpoints.load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("state", "guess"),
    [
        ({"image_proj.latents": torch.zeros(1)}, "an IP-Adapter without its UNet"),
        ({"lora_unet_down.lora_up.weight": torch.zeros(1)}, "a LoRA"),
        ({"decoder.conv_in.weight": torch.zeros(1)}, "an autoencoder alone"),
        ({"something": torch.zeros(1)}, "nothing known: 1 tensors"),
        ({}, "an empty file"),
    ],
)
def test_other_files_are_guessed(state, guess, tmp_path):
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(checkpoints.CheckpointError, match=guess):
        checkpoints.load(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["m.pt", "m.safetensors"])
def test_cut_off_files_are_named(name, tmp_path):
    file = tmp_path / name
    (torch.save if name.endswith("pt") else save_file)({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(checkpoints.CheckpointError, match=name):
        checkpoints.load(file)


def test_what_the_official_layout_cannot_say_is_refused_or_said(caplog):
    pipeline = reduced_pipeline("pixel")
    pipeline.register_to_config(guidance_scale=2.0)
    official_state(pipeline)
    assert "no place for guidance_scale: 2.0" in caplog.text
    pipeline.register_modules(scheduler=tiny_scheduler("v_prediction"))
    pipeline.vae.register_to_config(scaling_factor=1.5)
    with pytest.raises(
        checkpoints.CheckpointError,
        match=r"prediction_type v_prediction \(it means epsilon\); vae\.scaling_factor 1\.5 \(it means 0\.18215\)",
    ):
        official_state(pipeline)


def test_convert_there_and_back_gives_the_same_tensors(tmp_path, capsys):
    official = write_official(reduced_pipeline("pixel"), tmp_path / "a.pt")
    assert main(["convert", str(official), "--out", str(tmp_path / "folder")]) == 0
    assert (
        main(["convert", str(tmp_path / "folder"), "--out", str(tmp_path / "b.pt"), "--to", "official"]) == 0
    )
    first, second = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    weights = {name for name in first if "." in name}
    assert weights == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in weights)
    capsys.readouterr()
    assert main(["convert", str(official), "--out", str(tmp_path / "folder")]) == 2
    assert "exists already" in capsys.readouterr().err
    arguments = ["--dtype", "float16", "--controllers", "local"]
    assert main(["convert", str(official), "--out", str(tmp_path / "m"), *arguments]) == 0
    stored = load_file(next((tmp_path / "m" / "unet").glob("*.safetensors")))
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert checkpoints.part_config(tmp_path / "m", "unet")["controllers"] == "local"
