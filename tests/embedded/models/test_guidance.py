"""Stable Diffusion and Zero123 at a tiny size: what they pull renders towards, and how cameras and captions get in."""

import math

import PIL.Image
import pytest
import torch
from omegaconf import OmegaConf

import threestudio


@pytest.fixture
def prompt(stable_diffusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"prompt": "a dog", "pretrained_model_name_or_path": stable_diffusion}
    return threestudio.find("stable-diffusion-prompt-processor")(OmegaConf.create(settings))()


def cameras(azimuth=(0.0, 180.0)):
    azimuth = torch.tensor(azimuth)
    return {
        "elevation": torch.full_like(azimuth, 10.0),
        "azimuth": azimuth,
        "camera_distances": torch.full_like(azimuth, 1.5),
    }


def sd(path, **settings):
    settings = {"pretrained_model_name_or_path": path, "guidance_scale": 3.0, **settings}
    return threestudio.find("stable-diffusion-guidance")(OmegaConf.create(settings))


def test_captions_are_worded_for_each_side(prompt):
    both = prompt.get_text_embeddings(*cameras().values())
    assert both.shape == (4, 77, 16)
    torch.testing.assert_close(both[0], prompt.text_embeddings_vd[1])
    torch.testing.assert_close(both[1], prompt.text_embeddings_vd[2])
    assert not torch.equal(both[0], both[1])


def test_captions_that_are_too_long_are_errors(stable_diffusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"prompt": "a" * 100, "pretrained_model_name_or_path": stable_diffusion}
    with pytest.raises(ValueError, match="a prompt has 102 tokens, at most 77 fit: 'aaa"):
        threestudio.find("stable-diffusion-prompt-processor")(OmegaConf.create(settings))


def test_gradient_of_stable_diffusion_by_hand(stable_diffusion, prompt):
    """∂loss/∂latents = (1 − α) (ε̂ − ε) / B with ε̂ = ε_text + s (ε_text − ε_none)."""
    guidance = sd(stable_diffusion, min_step_percent=0.5, max_step_percent=0.5)
    latents = torch.rand(2, 4, 4, 4, requires_grad=True)  # (batch, height, width, channel)
    torch.manual_seed(3)
    out = guidance(latents, prompt, **cameras(), rgb_as_latents=True)
    out["loss_sds"].backward()
    assert (out["min_step"], out["max_step"]) == (500, 500)

    torch.manual_seed(3)
    torch.randint(500, 501, (2,))
    noise = torch.randn_like(latents.detach().permute(0, 3, 1, 2))
    alpha = guidance.scheduler.alphas_cumprod[500]
    noisy = alpha.sqrt() * latents.detach().permute(0, 3, 1, 2) + (1 - alpha).sqrt() * noise
    embeddings = prompt.get_text_embeddings(*cameras().values())
    with torch.no_grad():
        text, nothing = (guidance.unet(noisy, 500, half).sample for half in embeddings.chunk(2))
    expected = (1 - alpha) * (4 * text - 3 * nothing - noise) / 2
    torch.testing.assert_close(latents.grad, expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-4)


def test_renders_get_a_gradient(stable_diffusion, prompt):
    rgb = torch.rand(2, 10, 10, 3, requires_grad=True)
    sd(stable_diffusion)(rgb, prompt, **cameras())["loss_sds"].backward()
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()


def test_perpendicular_negatives(stable_diffusion, prompt):
    prompt.use_perp_neg = True
    rgb = torch.rand(2, 10, 10, 3, requires_grad=True)
    sd(stable_diffusion)(rgb, prompt, **cameras())["loss_sds"].backward()
    assert rgb.grad.isfinite().all()


def test_bad_settings_are_errors(stable_diffusion, tmp_path):
    with pytest.raises(
        ValueError, match="weighting_strategy is 'none', must be one of sds, uniform, fantasia3d"
    ):
        sd(stable_diffusion, weighting_strategy="none")
    file = tmp_path / "model.ckpt"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; the embedded host reads models in diffusers' layout"):
        sd(str(file))


@pytest.mark.parametrize("name", ["zero123-guidance", "stable-zero123-guidance"])
def test_zero123(zero123, tmp_path, name):
    PIL.Image.new("RGBA", (20, 20), (255, 0, 0, 128)).save(tmp_path / "picture.png")
    settings = {
        "pretrained_model_name_or_path": zero123,
        "cond_image_path": str(tmp_path / "picture.png"),
        "cond_elevation_deg": 30.0,
        "cond_azimuth_deg": 90.0,
    }
    guidance = threestudio.find(name)(OmegaConf.create(settings))
    last = 1.5 - 1.2 if name == "zero123-guidance" else math.pi / 3
    expected = [[math.pi / 9, -1, 0, last], [math.pi / 9, 1, 0, last]]
    camera = guidance.camera(**cameras())
    torch.testing.assert_close(camera, torch.tensor(expected), atol=1e-6, rtol=0)
    rgb = torch.rand(2, 10, 10, 3, requires_grad=True)
    guidance(rgb, **cameras(), c2w=None)["loss_sds"].backward()
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()
