"""The guidance and the system with the real model classes at a tiny size."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import threestudio


def make(weights, **config):
    torch.manual_seed(0)
    return threestudio.find("imagedream-guidance")(OmegaConf.create({"weights": weights, **config}))


@pytest.fixture(scope="module")
def made(extension, weights):
    return make(weights)


@pytest.fixture
def guidance(made):
    """With nothing encoded yet; not to be changed."""
    made._conditions.clear()
    return made


def renders(groups=2, seed=0):
    """Pictures, and the batch of cameras that they might have been rendered from."""
    torch.manual_seed(seed)
    settings = OmegaConf.create({"batch_size": 4 * groups, "height": 16, "width": 16})
    data = threestudio.find("imagedream-camera-datamodule")(settings)
    data.setup("fit")
    return torch.rand(4 * groups, 16, 16, 3, requires_grad=True), data.train_dataset.collate(0)


def test_gradient_reaches_every_view(guidance, prompt):
    rgb, batch = renders()
    before = batch["c2w"].clone()
    out = guidance(rgb, prompt, **batch, rgb_as_latents=False, comp_rgb_bg=torch.ones(8, 16, 16, 3))
    out["loss_sds"].backward()
    assert all(value.ndim == 0 for value in out.values())
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()
    assert torch.equal(batch["c2w"], before)  # the released code rescales it in place
    assert not any(parameter.requires_grad for parameter in guidance.pipeline.unet.parameters())


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 8, 8, 3), {}),  # renders of any size are resized
        ((4, 24, 24, 3), {}),
        ((4, 4, 4, 4), {"rgb_as_latents": True}),
        ((4, 16, 16, 3), {"recon_loss": False}),  # score distillation sampling
    ],
)
def test_other_inputs_and_the_other_loss_have_a_gradient(guidance, weights, prompt, shape, options):
    options = {**options}
    guidance = guidance if options.pop("recon_loss", True) else make(weights, recon_loss=False)
    rgb = torch.rand(*shape, requires_grad=True)
    guidance(rgb, prompt, **renders(groups=1)[1], **options)["loss_sds"].backward()
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()


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


def test_mean_grey_and_the_size_of_the_cache(extension, weights, prompt):
    """On grey the prompt is shown as the released code does, which tests/parity compares with on this grey."""
    guidance = make(weights, prompt_background="mean_grey", encoding_cache_size=2)
    rgb, batch = renders()
    colours = torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.2, 1.0]]).repeat_interleave(4, dim=0)
    guidance(rgb, prompt, **batch, comp_rgb_bg=colours[:, None, None].expand(8, 16, 16, 3))
    assert list(guidance._conditions) == [(115, 115, 115)]  # 255 * 2.7 / 6 = 114.75
    for value in (0.0, 0.5, 0.0, 1.0):
        guidance.encode_prompt(prompt, torch.full((3,), value))
    assert list(guidance._conditions) == [(0, 0, 0), (255, 255, 255)]


def test_schedules_follow_the_step(extension, weights):
    config = {
        "min_step_percent": [0, 0.98, 0.02, 8000],
        "max_step_percent": [0, 0.98, 0.5, 8000],
        "guidance_scale": [0, 5.0, 3.0, 100],
        "grad_clip": [0, 2.0, 8.0, 100],
    }
    guidance = make(weights, **config)
    assert guidance.settings.timestep_range == (0.98, 0.98)
    guidance.do_update_step(0, 4000)
    assert guidance.settings.timestep_range == pytest.approx((0.5, 0.74))
    assert (guidance.settings.guidance_scale, guidance.settings.gradient_clip) == (3.0, 8.0)


def test_incomplete_groups_are_an_error(guidance, prompt):
    rgb, batch = renders(groups=1)
    with pytest.raises(ValueError, match="3 images do not make groups of n_view = 4"):
        guidance(rgb[:3], prompt, **batch)


def test_an_adapter_changes_the_network_that_guides(guidance, weights, tmp_path):
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    width = guidance.pipeline.unet.unet.get_submodule(name).weight.shape[0]
    pair = {f"{name}.lora_A.weight": torch.ones(1, width), f"{name}.lora_B.weight": torch.ones(width, 1)}
    save_file(pair, tmp_path / "adapter.safetensors")
    adapted = make(weights, adapter=str(tmp_path / "adapter.safetensors"), adapter_scale=0.5)
    networks = (adapted.pipeline.unet.unet, guidance.pipeline.unet.unet)
    after, before = (network.get_submodule(name).weight for network in networks)
    torch.testing.assert_close(after - before, torch.full_like(before, 0.5))


def test_controller_weights_follow_the_step(extension, weights, prompt):
    """At step 0 as trained; at step 100 what a guidance gives that is told nothing of picture and caption."""
    faded = {name: [0, 1.0, 0.0, 100] for name in ("ip_weight", "pixel_weight", "caption_weight")}
    rgb, batch = renders(groups=1)
    plain, faded = (
        make(weights, min_step_percent=0.5, max_step_percent=0.5, **settings) for settings in ({}, faded)
    )

    def loss(guidance, picture, step):
        torch.manual_seed(0)
        guidance._conditions.clear()
        guidance.do_update_step(0, step)
        return guidance(rgb, picture, **batch)["loss_sds"].item()

    expected = loss(plain, prompt, 0)
    assert loss(faded, prompt, 0) == expected
    other = replace(prompt, prompt="a house", images=(replace(prompt.images[0], rgba=torch.rand(4, 32, 32)),))
    assert loss(faded, prompt, 100) == pytest.approx(loss(faded, other, 100), rel=1e-5)
    assert loss(plain, other, 100) != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompt_background": "grey"}, "prompt_background is 'grey', must be one of match, mean_grey"),
        ({"pixel_weight": [0, 1.0, -1.0, 100]}, r"pixel_weight is \[0, 1.0, -1.0, 100\]"),
        ({"adapter": "nowhere"}, "adapter nowhere: no such file"),
        ({"precision": "half"}, "precision is 'half', must be one of auto, float32, float16, bfloat16"),
        ({"memory": {"encoder": "free"}}, "encoder is 'free', must be one of keep, offload"),
        ({"memory": {"slicing": True}}, "MemoryOptions: unknown key slicing"),
    ],
)
def test_bad_settings_are_found_before_the_weights_load(extension, weights, config, message):
    with pytest.raises(ValueError, match=message):
        threestudio.find("imagedream-guidance").preflight({"weights": weights, **config})


# ------------------------------------------------------------------------------------------ precision and memory


def gradient_of_a_step(guidance, prompt):
    rgb, batch = renders()
    guidance.do_update_step(0, 0)  # begins its random numbers
    guidance(rgb, prompt, **batch)["loss_sds"].backward()
    return rgb.grad


def test_options_change_no_gradient(guidance, weights, prompt):
    """Each by itself: tests/test_memory_options.py."""
    plain = gradient_of_a_step(guidance, prompt)
    memory = {"encoder": "offload", "vae_slicing": True, "vae_checkpointing": True}
    with_options = gradient_of_a_step(make(weights, memory=memory), prompt)
    assert (with_options - plain).norm() < 1e-4 * plain.norm()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_that_of_the_weights_alone(guidance, weights, prompt, precision):
    plain = gradient_of_a_step(guidance, prompt)
    guidance = make(weights, precision=precision)
    half = gradient_of_a_step(guidance, prompt)
    assert guidance.pipeline.unet.dtype == guidance.pipeline.vae.dtype == getattr(torch, precision)
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([half.flatten(), plain.flatten()]))[0, 1] > 0.95
