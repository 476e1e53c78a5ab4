"""The guidance and the system with the real model classes at a tiny size."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import threestudio
from imagedream.cameras import look_at_origin, orthogonal_azimuths


@pytest.fixture
def guidance(extension, weights):
    torch.manual_seed(0)
    return threestudio.find("imagedream-guidance")(OmegaConf.create({"weights": weights}))


@pytest.fixture
def prompt(extension, picture):
    processor = threestudio.find("imagedream-prompt-processor")
    return processor(OmegaConf.create({"image_path": picture, "prompt": "a brick", "image_size": 32}))()


def renders(groups=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(4 * groups, 16, 16, 3, generator=generator, requires_grad=True)
    azimuth = orthogonal_azimuths(torch.arange(groups) * 10.0).flatten()
    elevation, distance = torch.full_like(azimuth, 5.0), torch.full_like(azimuth, 1.5)
    batch = {
        "elevation": elevation,
        "azimuth": azimuth,
        "camera_distances": distance,
        "c2w": look_at_origin(elevation, azimuth, distance),
        "height": 16,
        "fovy": torch.ones_like(azimuth),
    }
    return rgb, batch


def test_gradient_reaches_every_view(guidance, prompt):
    rgb, batch = renders()
    before = batch["c2w"].clone()
    out = guidance(rgb, prompt, **batch, rgb_as_latents=False, comp_rgb_bg=torch.ones(8, 16, 16, 3))
    out["loss_sds"].backward()
    assert all(value.ndim == 0 for value in out.values())
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()
    assert torch.equal(batch["c2w"], before)  # the released code rescales it in place
    assert not any(parameter.requires_grad for parameter in guidance.pipeline.unet.parameters())


def test_renders_of_any_size_are_resized(guidance, prompt):
    for size in (8, 24):
        _, batch = renders(groups=1)
        rgb = torch.rand(4, size, size, 3, requires_grad=True)
        guidance(rgb, prompt, **batch)["loss_sds"].backward()
        assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()


def test_latents_can_be_distilled_directly(guidance, prompt):
    _, batch = renders(groups=1)
    rgb = torch.rand(4, 4, 4, 4, requires_grad=True)
    guidance(rgb, prompt, **batch, rgb_as_latents=True)["loss_sds"].backward()
    assert rgb.grad.abs().sum() > 0


def test_prompt_is_shown_on_each_groups_own_colour(guidance, prompt):
    rgb, batch = renders()
    colours = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.25, 1.0]]).repeat_interleave(4, dim=0)
    guidance(rgb, prompt, **batch, comp_rgb_bg=colours[:, None, None].expand(8, 16, 16, 3))
    assert set(guidance._conditions) == {(255, 0, 128), (0, 64, 255)}
    # what is cached is what the pipeline makes of that colour
    condition, nothing = guidance._conditions[(0, 64, 255)]
    colour = torch.tensor([0, 64, 255]) / 255
    expected = guidance.pipeline.encode_condition(prompt.images[0].rgba, "a brick", colour)
    torch.testing.assert_close(condition.prompt_latents, expected.prompt_latents)
    torch.testing.assert_close(condition.image_features, expected.image_features)
    assert (nothing.prompt_latents == 0).all()
    assert (nothing.image_features == 0).all()


def test_prompt_can_be_shown_on_the_mean_grey(extension, weights, prompt):
    """As the released code does, which tests/parity compares with on this grey."""
    config = OmegaConf.create({"weights": weights, "prompt_background": "mean_grey"})
    guidance = threestudio.find("imagedream-guidance")(config)
    rgb, batch = renders()
    colours = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.2, 1.0]]).repeat_interleave(4, dim=0)
    guidance(rgb, prompt, **batch, comp_rgb_bg=colours[:, None, None].expand(8, 16, 16, 3))
    assert set(guidance._conditions) == {(115, 115, 115)}  # 255 * 2.7 / 6 = 114.75


def test_other_prompt_backgrounds_are_an_error(extension, weights):
    with pytest.raises(ValueError, match="prompt_background is 'grey', must be 'match' or 'mean_grey'"):
        threestudio.find("imagedream-guidance")({"weights": weights, "prompt_background": "grey"})


def test_cache_forgets_the_oldest_colour(extension, weights, prompt):
    config = OmegaConf.create({"weights": weights, "encoding_cache_size": 2})
    guidance = threestudio.find("imagedream-guidance")(config)
    for value in (0.0, 0.5, 0.0, 1.0):
        guidance.encode_prompt(prompt, torch.full((3,), value))
    assert list(guidance._conditions) == [(0, 0, 0), (255, 255, 255)]


def test_schedules_follow_the_step(extension, weights):
    config = {
        "weights": weights,
        "min_step_percent": [0, 0.98, 0.02, 8000],
        "max_step_percent": [0, 0.98, 0.5, 8000],
        "guidance_scale": [0, 5.0, 3.0, 100],
        "grad_clip": [0, 2.0, 8.0, 100],
    }
    guidance = threestudio.find("imagedream-guidance")(OmegaConf.create(config))
    assert guidance.settings.timestep_range == (0.98, 0.98)
    guidance.do_update_step(0, 4000)
    assert guidance.settings.timestep_range == pytest.approx((0.5, 0.74))
    assert (guidance.settings.guidance_scale, guidance.settings.gradient_clip) == (3.0, 8.0)


def test_score_distillation_is_the_other_loss(extension, weights, prompt):
    config = OmegaConf.create({"weights": weights, "recon_loss": False})
    guidance = threestudio.find("imagedream-guidance")(config)
    rgb, batch = renders(groups=1)
    guidance(rgb, prompt, **batch)["loss_sds"].backward()
    assert rgb.grad.abs().sum() > 0


def test_incomplete_groups_are_an_error(guidance, prompt):
    rgb, batch = renders(groups=1)
    batch = {key: value[:3] if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    with pytest.raises(ValueError, match="3 images do not make groups of n_view = 4"):
        guidance(rgb[:3], prompt, **batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_path": None}, "image_path is None"),
        ({"image_path": "nowhere.png"}, "nowhere.png: no such file"),
        ({"prompt": 5}, "prompt must be text, got 5 .int.; quote it"),
        ({"prompt": None}, "prompt must be text"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt must be text"),
        ({"mask_path": "nowhere.png"}, "nowhere.png: no such file"),
        ({"caption": "a"}, "caption"),
    ],
)
def test_bad_prompts_are_errors(extension, picture, settings, message):
    processor = threestudio.find("imagedream-prompt-processor")
    with pytest.raises((ValueError, TypeError), match=message):
        processor.preflight(OmegaConf.create({"image_path": picture, **settings}))


def test_missing_weights_are_named_without_loading(extension):
    with pytest.raises(ValueError, match=r"8\.05 GB"):
        threestudio.find("imagedream-guidance").preflight({"weights": "sd-v2.1-base-4view-ipmv.pt"})


def test_an_adapter_changes_the_network_that_guides(guidance, weights, tmp_path):
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = guidance.pipeline.unet.unet.get_submodule(name).weight.shape[0]
    pair = {f"{name}.lora_A.weight": torch.ones(1, width), f"{name}.lora_B.weight": torch.ones(width, 1)}
    save_file(pair, tmp_path / "adapter.safetensors")
    config = {"weights": weights, "adapter": str(tmp_path / "adapter.safetensors"), "adapter_scale": 0.5}
    adapted = threestudio.find("imagedream-guidance")(OmegaConf.create(config))
    change = (
        adapted.pipeline.unet.unet.get_submodule(name).weight
        - guidance.pipeline.unet.unet.get_submodule(name).weight
    )
    torch.testing.assert_close(change, torch.full_like(change, 0.5))
    with pytest.raises(ValueError, match="adapter nowhere: no such file"):
        threestudio.find("imagedream-guidance")(OmegaConf.create({**config, "adapter": "nowhere"}))


def test_controller_weights_follow_the_step(extension, weights, prompt):
    """At step 0 as trained; at step 100 what a guidance gives that is told nothing of picture and caption."""
    faded = {name: [0, 1.0, 0.0, 100] for name in ("ip_weight", "pixel_weight", "caption_weight")}
    rgb, batch = renders(groups=1)

    def losses(settings, picture, step):
        torch.manual_seed(0)
        guidance = threestudio.find("imagedream-guidance")(
            OmegaConf.create(
                {"weights": weights, "min_step_percent": 0.5, "max_step_percent": 0.5, **settings}
            )
        )
        guidance.do_update_step(0, step)
        return guidance(rgb, picture, **batch)["loss_sds"].item()

    plain = losses({}, prompt, 0)
    assert losses(faded, prompt, 0) == plain
    other = replace(
        prompt, caption="a house", images=(replace(prompt.images[0], rgba=torch.rand(4, 32, 32)),)
    )
    assert losses(faded, prompt, 100) == pytest.approx(losses(faded, other, 100), rel=1e-5)
    assert losses({}, other, 100) != pytest.approx(plain, rel=1e-4)


def test_controller_weights_that_cannot_be(extension, weights):
    guidance = threestudio.find("imagedream-guidance")
    with pytest.raises(ValueError, match="pixel_weight is -1"):
        guidance.preflight({"weights": weights, "pixel_weight": [0, 1.0, -1.0, 100]})
