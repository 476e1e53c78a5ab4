"""Several image prompts at once (MultiImageDream) and the weights between them, from tensors to the command line."""

import math
from dataclasses import replace

import jaxtyping
import pytest
import torch

from imagedream.attention import MultiViewAttnProcessor
from imagedream.model import Condition, predict_noise
from tests.test_model import VIEWS, inputs, predict
from tests.tiny import tiny_unet

CONTROLLERS = ("global", "local", "pixel")
UNSEEN = -50.0  # e⁻⁵⁰ is nothing, yet adding it costs few digits of the logits


def several(controllers: str, seeds=(0, 1, 2)):
    """Network, inputs and a condition with as many prompts as seeds."""
    latents, timesteps, cameras, first = inputs(controllers)
    singles = [inputs(controllers, seed=seed)[3] for seed in seeds]
    latents_of = [one.prompt_latents for one in singles]
    condition = Condition(
        first.text_tokens,
        torch.stack([one.image_features for one in singles], dim=1),
        torch.cat(latents_of, dim=1) if controllers == "pixel" else None,
    )
    return tiny_unet(controllers), (latents, timesteps, cameras), condition


def choose(condition: Condition, prompts: list[int]) -> Condition:
    latents = condition.prompt_latents
    return replace(
        condition,
        image_features=condition.image_features[:, prompts],
        prompt_latents=None if latents is None else latents[:, prompts],
    )


@pytest.mark.parametrize("controllers", CONTROLLERS)
@torch.no_grad()
def test_one_prompt_with_and_without_its_axis_is_the_same_to_the_bit(controllers):
    unet, arguments, condition = several(controllers, seeds=(0,))
    assert torch.equal(predict(unet, *arguments, condition), predict(unet, *inputs(controllers)))


@pytest.mark.parametrize("controllers", CONTROLLERS)
@torch.no_grad()
def test_tokens_of_all_prompts_follow_one_another(controllers):
    unet, _, condition = several(controllers)
    tokens = unet.image_tokens(condition.image_features)
    assert tokens.shape[1] == 3 * 4
    expected = [unet.image_projection(condition.image_features[:, index]) for index in range(3)]
    torch.testing.assert_close(tokens, torch.cat(expected, dim=1))


@pytest.mark.parametrize("controllers", CONTROLLERS)
@torch.no_grad()
def test_every_prompt_counts_and_their_order_does_not(controllers):
    unet, arguments, condition = several(controllers)
    all_three = predict(unet, *arguments, condition)
    torch.testing.assert_close(
        predict(unet, *arguments, choose(condition, [2, 0, 1])), all_three, atol=1e-5, rtol=1e-4
    )
    for left in ([0, 1], [0, 2], [1, 2]):
        assert (predict(unet, *arguments, choose(condition, left)) - all_three).abs().max() > 1e-4


@torch.no_grad()
def test_clean_latents_are_the_last_frames_with_zero_cameras():
    unet, (latents, timesteps, cameras), condition = several("pixel")
    frames = torch.cat([latents, condition.prompt_latents], dim=1)
    zeros = torch.zeros(len(latents), 3, 16)
    by_hand = unet(
        frames, timesteps, torch.cat([cameras, zeros], 1), condition.text_tokens, condition.image_features
    )
    torch.testing.assert_close(
        predict(unet, latents, timesteps, cameras, condition), by_hand[:, :VIEWS], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("controllers", ["global", "local"])
@torch.no_grad()
def test_the_same_prompt_several_times_is_that_prompt_once(controllers):
    unet, arguments, condition = several(controllers)
    once = predict(unet, *arguments, choose(condition, [1]))
    torch.testing.assert_close(
        predict(unet, *arguments, choose(condition, [1, 1, 1])), once, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("controllers", CONTROLLERS)
@torch.no_grad()
def test_no_bias_is_a_bias_of_zero(controllers):
    unet, arguments, condition = several(controllers)
    biased = condition.with_prompt_bias(torch.zeros(2, VIEWS, 3))
    torch.testing.assert_close(
        predict(unet, *arguments, biased), predict(unet, *arguments, condition), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("controllers", ["global", "local"])
@torch.no_grad()
def test_a_prompt_that_outweighs_the_others_is_alone(controllers):
    unet, arguments, condition = several(controllers)
    bias = torch.full((2, VIEWS, 3), UNSEEN)
    bias[..., 2] = 0
    torch.testing.assert_close(
        predict(unet, *arguments, condition.with_prompt_bias(bias)),
        predict(unet, *arguments, choose(condition, [2])),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("controllers", ["global", "local"])
@torch.no_grad()
def test_weight_two_is_the_prompt_given_twice(controllers):
    unet, arguments, condition = several(controllers)
    bias = torch.tensor([math.log(2), 0.0, 0.0]).expand(2, VIEWS, 3)
    torch.testing.assert_close(
        predict(unet, *arguments, condition.with_prompt_bias(bias)),
        predict(unet, *arguments, choose(condition, [0, 0, 1, 2])),
        atol=1e-5,
        rtol=1e-4,
    )


@torch.no_grad()
def test_a_frame_that_no_view_looks_at_is_as_if_not_there():
    unet, arguments, condition = several("pixel", seeds=(0,))
    unseen = predict(unet, *arguments, condition.with_prompt_bias(torch.full((2, VIEWS, 1), UNSEEN)))
    torch.testing.assert_close(
        unseen, predict(unet, *arguments, replace(condition, prompt_latents=None)), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_weight_two_is_the_frame_given_twice():
    torch.manual_seed(0)
    attn = tiny_unet().unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    views, prompts = torch.randn(2, VIEWS, 3, 32), torch.randn(2, 2, 3, 32)  # 3 tokens a frame
    process = MultiViewAttnProcessor()

    def of_views(prompts, bias=None):
        frames = torch.cat([views, prompts], dim=1)
        output = process(attn, frames.flatten(0, 1), frames=frames.shape[1], prompt_bias=bias)
        return output.unflatten(0, frames.shape[:2])[:, :VIEWS]

    bias = torch.zeros(2, VIEWS, 2)
    bias[0, :, 1] = math.log(2)
    torch.testing.assert_close(of_views(prompts, bias)[0], of_views(prompts[:, [0, 1, 1]])[0])
    torch.testing.assert_close(of_views(prompts, bias)[1], of_views(prompts)[1])
    # one view's weights are that view's alone
    bias = torch.zeros(2, VIEWS, 2)
    bias[:, 2, 0] = UNSEEN
    changed = (of_views(prompts, bias) - of_views(prompts)).abs().amax((0, 2, 3))
    assert (changed > 1e-6).tolist() == [False, False, True, False]


def test_gradients_pass_the_weights():
    unet, arguments, condition = several("pixel")
    predict(unet, *arguments, condition.with_prompt_bias(-torch.rand(2, VIEWS, 3))).square().mean().backward()
    assert [name for name, parameter in unet.named_parameters() if parameter.grad is None] == []


def test_conditions_of_several_prompts_in_rows():
    _, _, condition = several("pixel")
    one = condition.map(lambda tensor: tensor[:1])
    biased = one.with_prompt_bias(torch.zeros(5, VIEWS, 3))
    assert [len(tensor) for tensor in biased.inputs] == [5, 5, 5, 5]
    assert biased.without_image().prompt_bias is biased.prompt_bias
    assert len(one.inputs) == 3  # denoisers of other people's take three
    dropped = biased.drop_image(torch.tensor([True] + 4 * [False]))
    assert dropped.image_features[0].abs().max() == 0
    assert dropped.image_features[1].abs().max() > 0


def test_counts_of_prompts_must_agree():
    unet, arguments, condition = several("pixel")
    biased = choose(condition, [0, 1]).with_prompt_bias(torch.zeros(2, VIEWS, 2))
    three = replace(biased, image_features=condition.image_features)
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="prompt"):
        predict_noise(unet, *arguments, *three.inputs)
