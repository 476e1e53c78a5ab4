import jaxtyping
import pytest
import torch

from imagedream.cameras import camera_condition, look_at_origin, orthogonal_azimuths
from imagedream.model import Condition, MultiViewUNet, concatenate_conditions, predict_noise
from tests.tiny import tiny_unet

GROUPS, VIEWS = 2, 4


def inputs(controllers: str = "pixel", groups: int = GROUPS, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    cameras = camera_condition(
        look_at_origin(
            torch.tensor(10.0), orthogonal_azimuths(torch.arange(groups) * 30.0), torch.tensor(1.0)
        )
    )
    features = draw(groups, 24) if controllers == "global" else draw(groups, 5, 32)
    prompt = draw(groups, 1, 4, 4, 4) if controllers == "pixel" else None
    timesteps = torch.arange(groups) * 300 + 100
    return draw(groups, VIEWS, 4, 4, 4), timesteps, cameras, Condition(draw(groups, 12, 16), features, prompt)


def predict(unet, latents, timesteps, cameras, condition):
    return predict_noise(unet, latents, timesteps, cameras, *condition.inputs)


@pytest.mark.parametrize("controllers", ["global", "local", "pixel"])
@torch.no_grad()
def test_two_groups_at_once_equal_one_after_the_other(controllers):
    unet = tiny_unet(controllers)
    latents, timesteps, cameras, condition = inputs(controllers)
    together = predict(unet, latents, timesteps, cameras, condition)
    assert together.shape == latents.shape  # without the prompt's frame
    for i in range(GROUPS):
        row = slice(i, i + 1)
        alone = predict(
            unet, latents[row], timesteps[row], cameras[row], condition.map(lambda t, r=row: t[r])
        )
        torch.testing.assert_close(alone, together[row], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_views_see_each_other_and_groups_do_not():
    unet = tiny_unet("local")
    latents, timesteps, cameras, condition = inputs("local")
    before = predict(unet, latents, timesteps, cameras, condition)
    changed = latents.clone()
    changed[0, 3] += 1
    after = predict(unet, changed, timesteps, cameras, condition)
    assert (after[0, 0] - before[0, 0]).abs().max() > 1e-5
    torch.testing.assert_close(after[1], before[1])


def test_no_condition_is_zeros_in_frames_that_stay():
    _, _, _, condition = inputs()
    nothing = condition.without_image()
    assert nothing.prompt_latents.shape == condition.prompt_latents.shape
    assert nothing.image_features.abs().max() == 0
    assert nothing.prompt_latents.abs().max() == 0
    assert nothing.text_tokens is condition.text_tokens
    half = condition.drop_image(torch.tensor([True, False]))
    assert half.image_features[0].abs().max() == 0
    torch.testing.assert_close(half.image_features[1], condition.image_features[1])
    torch.testing.assert_close(half.prompt_latents[1], condition.prompt_latents[1])


def test_what_does_not_fit():
    latents, timesteps, cameras, condition = inputs()
    with pytest.raises(ValueError, match="prompt_latents"):
        concatenate_conditions([condition, Condition(condition.text_tokens, condition.image_features)])
    with pytest.raises(ValueError, match="'local'"):
        predict(tiny_unet("local"), latents, timesteps, cameras, condition)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="pixel"):
        MultiViewUNet({}, "both", {})
    with pytest.raises(jaxtyping.TypeCheckError):
        predict_noise(tiny_unet(), latents, timesteps, cameras[..., :12], condition.text_tokens)
