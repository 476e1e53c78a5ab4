"""Stable Diffusion and Zero123 at a tiny size: what they pull renders towards, and how cameras and captions get in."""

import math

import PIL.Image
import pytest
import torch
from omegaconf import OmegaConf

import threestudio


def processor(path, **settings):
    settings = {"pretrained_model_name_or_path": path, **settings}
    return threestudio.find("stable-diffusion-prompt-processor")(OmegaConf.create(settings))


@pytest.fixture
def prompt(stable_diffusion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return processor(stable_diffusion, prompt="a dog")()


def cameras(azimuth=(0.0, 180.0), elevation=10.0):
    azimuth = torch.tensor(azimuth)
    return {
        "elevation": torch.full_like(azimuth, elevation),
        "azimuth": azimuth,
        "camera_distances": torch.full_like(azimuth, 1.5),
    }


def sd(path, **settings):
    settings = {"pretrained_model_name_or_path": path, "guidance_scale": 3.0, **settings}
    return threestudio.find("stable-diffusion-guidance")(OmegaConf.create(settings))


def test_captions_are_worded_for_each_side(prompt, stable_diffusion):
    sides = ("side", "front", "back", "overhead")
    assert prompt.prompts_vd == [f"a dog, {side} view" for side in sides]
    both = prompt.get_text_embeddings(*cameras((0.0, 90.0, 180.0, -170.0)).values())
    assert both.shape == (8, 77, 16)
    torch.testing.assert_close(both[:4], prompt.text_embeddings_vd[[1, 0, 2, 2]])
    above = prompt.get_text_embeddings(*cameras(elevation=80.0).values())
    torch.testing.assert_close(above[:2], prompt.text_embeddings_vd[[3, 3]])
    plain = prompt.get_text_embeddings(*cameras().values(), view_dependent_prompting=False)
    torch.testing.assert_close(plain[:2], prompt.text_embeddings.expand(2, -1, -1))
    # a second time they come from the cache
    again = processor(stable_diffusion, prompt="a dog", spawn=False)()
    assert torch.equal(again.text_embeddings_vd, prompt.text_embeddings_vd)
    with pytest.raises(ValueError, match="a prompt has 102 tokens, at most 77 fit: 'aaa"):
        processor(stable_diffusion, prompt="a" * 100)


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

    rgb = torch.rand(2, 10, 10, 3, requires_grad=True)
    guidance(rgb, prompt, **cameras())["loss_sds"].backward()
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()


def test_models_of_another_layout_are_errors(tmp_path):
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
