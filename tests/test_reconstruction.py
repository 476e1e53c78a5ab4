"""Reconstruction against its definition: perfect denoisers, exact inversion, patches by hand, a fit with known edges."""

import numpy as np
import pytest
import torch

from imagedream.distillation import signal_and_noise
from imagedream.reconstruction import (
    ReconstructionSettings,
    TargetViews,
    complete_views,
    ddim,
    draw_patches,
    turned_azimuth,
    view_loss,
)
from tests.test_distillation import (
    PREDICTION_TYPES,
    condition,
    group_inputs,
    perfect_denoiser,
    scheduler,
)


def complete(latents, level, schedule=None, entry=0.6, seed=0, given=None, **settings):
    given = given or condition()
    return complete_views(
        None,
        schedule or scheduler(),
        latents,
        group_inputs(len(latents))["cameras"],
        given,
        given.without_image(),
        (entry * level, level),
        ReconstructionSettings(**settings),
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_sure_model_is_believed(prediction_type):
    """Whatever it is shown, a model that knows the answer gives it, in every parametrisation."""
    schedule = scheduler(prediction_type)
    latents = group_inputs()["latents"].detach()
    target = torch.linspace(-1, 1, latents[:1].numel()).view_as(latents[:1])
    completed = complete(latents, 0.7, schedule, predict=perfect_denoiser(schedule, target))
    torch.testing.assert_close(completed, target.expand_as(latents), atol=1e-3, rtol=0)


def test_inversion_leads_back():
    """For a model that believes x̂0 = c · x the path is known, step by step, and sampling undoes inversion."""
    schedule = scheduler("sample")
    latents = group_inputs()["latents"].detach()
    up = ddim(lambda noisy, timesteps: 0.3 * noisy, schedule, latents, [100, 300])
    (alpha, sigma), (next_alpha, next_sigma) = (
        signal_and_noise(schedule, torch.tensor([t, t])) for t in (100, 300)
    )
    factor = next_alpha * 0.3 + next_sigma * (1 - alpha * 0.3) / sigma
    torch.testing.assert_close(up, factor * latents)

    def gaussian(noisy, timesteps):  # E[x0 | x_t] of x0 ~ N(0, 1)
        return signal_and_noise(schedule, timesteps)[0] * noisy

    fine = list(range(100, 701, 2))
    there = ddim(gaussian, schedule, latents, fine)
    torch.testing.assert_close(ddim(gaussian, schedule, there, fine[::-1]), latents, atol=0.02, rtol=0)
    # of standard normal latents every x_t is standard normal: the flow does nothing
    torch.testing.assert_close(there, latents, atol=0.02, rtol=0)


def test_less_noise_changes_less_and_guidance_moves():
    schedule = scheduler("sample")
    latents = 0.2 * group_inputs()["latents"].detach()

    def gaussian(unet, noisy, timesteps, cameras, text_tokens, image_features, prompt_latents):
        """E[x0 | x_t] of x0 ~ N(image, 1)."""
        alpha, _ = signal_and_noise(schedule, timesteps)
        mean = image_features.mean((1, 2)).view(-1, 1, 1, 1, 1)
        return mean + alpha * (noisy - alpha * mean)

    def moved(level, **settings):
        return (complete(latents, level, schedule, predict=gaussian, **settings) - latents).abs().mean()

    assert moved(0.02) < 0.2 < moved(0.3) < moved(0.8)
    plain = complete(latents, 0.5, schedule, predict=gaussian, guidance_scale=1.0)
    strong = complete(latents, 0.5, schedule, predict=gaussian, guidance_scale=4.0)
    towards = torch.sign(condition().image_features.mean())
    assert (towards * (strong - plain)).min() > 0
    again = complete(latents, 0.5, schedule, predict=gaussian, guidance_scale=4.0)
    torch.testing.assert_close(strong, again, rtol=0, atol=0)
    assert not torch.equal(
        strong, complete(latents, 0.5, schedule, predict=gaussian, guidance_scale=4.0, seed=1)
    )


@pytest.mark.parametrize(("entry", "calls"), [(0.6, 2 + 3), (1.0, 3)])
def test_evaluations(entry, calls):
    """Inverting asks with the condition alone, denoising with both at once."""
    rows = []

    def predict(unet, noisy, *rest):
        rows.append(len(noisy))
        return noisy

    latents = group_inputs()["latents"].detach()
    complete(latents, 0.5, predict=predict, entry=entry, inversion_steps=2, denoising_steps=3)
    assert rows == [2] * (calls - 3) + [4] * 3


def test_bad_settings():
    latents = group_inputs()["latents"].detach()
    for level, entry in ((1.2, 0.5), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(
            ValueError, match=r"noise levels are \(.*, must be fractions with 0 < first <= second <= 1"
        ):
            complete(latents, level, entry=entry)
    with pytest.raises(ValueError, match="inversion_steps is 0, must be a whole number of at least 1"):
        ReconstructionSettings(inversion_steps=0)
    with pytest.raises(ValueError, match="patches are 8 x 20 pixels, the pictures only 16 x 16"):
        draw_patches(2, 16, 3, 8, 20, torch.Generator())


def test_turned_groups():
    # eight groups of four look from 32 evenly spread directions
    directions = sorted(turned_azimuth(number) + 90 * view for number in range(8) for view in range(4))
    assert directions == [11.25 * number for number in range(32)]
    assert turned_azimuth(1, views=8) == 22.5


def views(count, step=0):
    pixels = torch.arange(count * 6 * 6 * 3, dtype=torch.float32).view(count, 6, 6, 3) / 10**3
    angle = torch.arange(count, dtype=torch.float32)
    return TargetViews(pixels, angle, angle + 1, torch.ones(count, 3), torch.full((count,), step))


def test_target_views():
    both = TargetViews.joined([views(4), views(2, step=10)])
    assert len(both) == 6
    assert len(both.at(9)) == 4
    assert both.at(10, most=3).azimuth_deg.tolist() == [3.0, 0.0, 1.0]
    kept = TargetViews.from_arrays(both.to_arrays())
    assert kept.to_arrays()["images"].dtype == np.uint8
    torch.testing.assert_close(kept.images, both.images, atol=0.5 / 255, rtol=0)
    again = TargetViews.from_arrays(kept.to_arrays())
    assert all(torch.equal(getattr(kept, name), getattr(again, name)) for name in vars(kept))


def test_patches():
    pictures = views(3).images
    patches = draw_patches(3, 6, 50, 2, 4, torch.Generator().manual_seed(0))
    cut = patches.cut(pictures)
    assert cut.shape == (50, 2, 4, 3)
    for number in (0, 49):
        picture, top, left = (int(values[number]) for values in (patches.picture, patches.top, patches.left))
        assert torch.equal(cut[number], pictures[picture, top : top + 2, left : left + 4])
    assert set(patches.picture.tolist()) == {0, 1, 2}
    assert set(patches.top.tolist()) == {0, 1, 2, 3, 4}
    assert set(patches.left.tolist()) == {0, 1, 2}


def test_view_loss():
    """By hand; and of contradicting pictures it is the majority that is fitted, not the mean."""
    foreground, opacity = torch.full((1, 1, 1, 3), 0.2), torch.full((1, 1, 1, 1), 0.5)
    background = torch.tensor([[1.0, 0.0, 0.4]])
    loss = view_loss(foreground, opacity, torch.zeros(1, 1, 1, 3), background)
    assert loss.item() == pytest.approx((0.7 + 0.2 + 0.4) / 3)

    grey = torch.full((1,), 0.5, requires_grad=True)
    optimizer = torch.optim.SGD([grey], 0.05)
    targets = torch.tensor([0.9, 0.9, 0.0]).view(3, 1, 1, 1).expand(-1, -1, -1, 3)
    for _ in range(40):
        optimizer.zero_grad()
        view_loss(grey.expand(3, 1, 1, 3), torch.ones(3, 1, 1, 1), targets, torch.ones(3, 3)).backward()
        optimizer.step()
    assert grey.item() == pytest.approx(0.9, abs=0.03)
