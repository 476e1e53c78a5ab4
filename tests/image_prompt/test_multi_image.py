"""Several image prompts at once (MultiImageDream) and the weights between them, from tensors to the command line."""

import math
from dataclasses import replace

import jaxtyping
import PIL.Image
import pytest
import torch

from imagedream.attention import MultiViewAttnProcessor
from imagedream.distillation import image_prompt_score_distillation
from imagedream.image_prompt.multi_image import angle_bias, with_azimuths
from imagedream.image_prompt.prompt import prepare_image_prompt
from imagedream.model import Condition, predict_noise
from imagedream.pipeline import ImageDreamPipeline
from tests.test_model import VIEWS, inputs, predict
from tests.test_pipeline import disc
from tests.tiny import tiny_pipeline, tiny_scheduler, tiny_unet

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
def test_one_prompt_and_several(controllers):
    unet, arguments, one = several(controllers, seeds=(0,))
    assert torch.equal(
        predict(unet, *arguments, one), predict(unet, *inputs(controllers))
    )  # without its axis
    unet, arguments, condition = several(controllers)
    tokens = [unet.image_projection(condition.image_features[:, index]) for index in range(3)]
    torch.testing.assert_close(unet.image_tokens(condition.image_features), torch.cat(tokens, dim=1))
    all_three = predict(unet, *arguments, condition)
    for left in ([0, 1], [0, 2], [1, 2]):  # every prompt counts
        assert (predict(unet, *arguments, choose(condition, left)) - all_three).abs().max() > 1e-4


def biased(condition: Condition, *bias: float) -> Condition:
    """The same weights, one for each prompt, in all views."""
    return condition.with_prompt_bias(torch.tensor(bias).expand(2, VIEWS, len(bias)))


TOKENS = ("global", "local")
SAME = {
    "in another order": (CONTROLLERS, lambda c: choose(c, [2, 0, 1]), lambda c: c),
    "a bias of zero": (CONTROLLERS, lambda c: biased(c, 0.0, 0.0, 0.0), lambda c: c),
    "one that outweighs the others": (
        TOKENS,
        lambda c: biased(c, UNSEEN, UNSEEN, 0.0),
        lambda c: choose(c, [2]),
    ),
    "weight two": (TOKENS, lambda c: biased(c, math.log(2), 0.0, 0.0), lambda c: choose(c, [0, 0, 1, 2])),
    "the same prompt thrice": (TOKENS, lambda c: choose(c, [1, 1, 1]), lambda c: choose(c, [1])),
    "a frame that no view looks at": (
        ("pixel",),
        lambda c: biased(choose(c, [0]), UNSEEN),
        lambda c: replace(choose(c, [0]), prompt_latents=None),
    ),
}


@pytest.mark.parametrize(
    ("name", "controllers"), [(name, one) for name, (kinds, _, _) in SAME.items() for one in kinds]
)
@torch.no_grad()
def test_two_conditions_are_the_same(name, controllers):
    _, one, other = SAME[name]
    unet, arguments, condition = several(controllers)
    torch.testing.assert_close(
        predict(unet, *arguments, one(condition)),
        predict(unet, *arguments, other(condition)),
        atol=1e-5,
        rtol=1e-4,
    )


@torch.no_grad()
def test_clean_latents_are_the_last_frames_with_zero_cameras():
    unet, (latents, timesteps, cameras), condition = several("pixel")
    frames = torch.cat([latents, condition.prompt_latents], dim=1)
    all_cameras = torch.cat([cameras, torch.zeros(len(latents), 3, 16)], 1)
    by_hand = unet(frames, timesteps, all_cameras, condition.text_tokens, condition.image_features)
    torch.testing.assert_close(
        predict(unet, latents, timesteps, cameras, condition), by_hand[:, :VIEWS], atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_weight_two_is_the_frame_given_twice():
    torch.manual_seed(0)
    attn = tiny_unet().unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1
    views, prompts = torch.randn(2, VIEWS, 3, 32), torch.randn(2, 2, 3, 32)  # 3 tokens a frame
    process = MultiViewAttnProcessor()

    def of_views(prompts, bias=None):
        frames = torch.cat([views, prompts], dim=1)
        output = process(attn, frames.flatten(0, 1), frames=frames.shape[1], frame_bias=bias)
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


def test_gradients_rows_and_counts():
    unet, arguments, condition = several("pixel")
    weighted = condition.with_prompt_bias(-torch.rand(2, VIEWS, 3))
    predict(unet, *arguments, weighted).square().mean().backward()
    assert [name for name, parameter in unet.named_parameters() if parameter.grad is None] == []
    two = choose(condition, [0, 1]).with_prompt_bias(torch.zeros(2, VIEWS, 2))
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match="prompt"):
        predict_noise(unet, *arguments, *replace(two, image_features=condition.image_features).inputs)
    one = condition.map(lambda tensor: tensor[:1])
    assert len(one.inputs) == 3  # denoisers of other people's take three
    five = one.with_prompt_bias(torch.zeros(5, VIEWS, 3))
    assert [len(tensor) for tensor in five.inputs] == [5, 5, 5, 5]
    assert five.without_image().prompt_bias is five.prompt_bias
    dropped = five.drop_image(torch.tensor([True] + 4 * [False]))
    assert (dropped.image_features.abs().amax((1, 2, 3)) > 0).tolist() == [False] + 4 * [True]


# ------------------------------------------------------------------------------------------ weights between prompts


def test_weights_by_hand():
    # cosines of the angles to the front picture: 1, ½, 0, −1; to the left one: 0, ½√3, 1, 0
    views = torch.tensor([[0.0, 60.0, 90.0, 180.0]])
    bias = angle_bias(views, [0.0, 90.0], temperature=0.5)
    expected = torch.tensor([[1, 0], [0.5, 0.75**0.5], [0, 1], [-1, 0]])
    expected = (expected - expected.amax(1, keepdim=True)) / 0.5
    torch.testing.assert_close(bias, expected[None])
    # pictures of unknown sides weigh alike everywhere
    assert angle_bias(views, [None, None]) is None
    assert angle_bias(views, [90.0]) is None
    mixed = angle_bias(torch.tensor([[0.0, 180.0]]), [None, 180.0], temperature=1.0)
    torch.testing.assert_close(mixed, torch.tensor([[[0.0, -2.0], [0.0, 0.0]]]))
    sides = {"right": "r", "front": "f", "back": None}
    assert with_azimuths(["a"], sides) == [("a", None), ("f", 0.0), ("r", 270.0)]


def test_weights_turn_with_the_object_and_follow_the_temperature():
    views = torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) * 360
    bias = angle_bias(views, [0.0, 90.0, 200.0])
    torch.testing.assert_close(angle_bias(views + 77, [77.0, 167.0, 277.0]), bias, atol=1e-5, rtol=0)
    torch.testing.assert_close(angle_bias(views - 360, [0.0, 450.0, -160.0]), bias, atol=1e-5, rtol=0)
    quarters = torch.tensor([[10.0, 100.0, 190.0, 280.0]])
    sharp = angle_bias(quarters, [0.0, 90.0, 180.0, 270.0], temperature=1e-3).softmax(-1)
    torch.testing.assert_close(sharp, torch.eye(4)[None])
    assert angle_bias(views, [0.0, 180.0], temperature=1e6).abs().max() < 1e-5
    with pytest.raises(ValueError, match=r"prompt_temperature is 0\.0"):
        angle_bias(views, [0.0, 180.0], temperature=0.0)


# --------------------------------------------------------------------------------------------------------- pipeline


def coloured(*rgb: float) -> torch.Tensor:
    return torch.cat([torch.tensor(rgb)[:, None, None] * disc()[3:], disc()[3:]])


RED, GREEN, BLUE = coloured(1, 0, 0), coloured(0, 1, 0), coloured(0, 0, 1)


def sample(pipeline: ImageDreamPipeline, *arguments, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipeline(
        *arguments,
        prompt="a ball",
        num_inference_steps=2,
        generator=generator,
        output_type="pt",
        **options,
    ).images


@pytest.mark.parametrize("controllers", CONTROLLERS)
def test_encoded_prompts_are_the_encodings_of_each(controllers):
    pipeline = tiny_pipeline(controllers)
    white = torch.ones(3)
    together = pipeline.encode_condition([RED, GREEN, BLUE[:, 4:20, 4:20]], "a ball", white)
    for index, prompt in enumerate((RED, GREEN, BLUE[:, 4:20, 4:20])):
        alone = pipeline.encode_condition(prompt, "a ball", white)
        assert torch.equal(together.image_features[:, index], alone.image_features)
        if controllers == "pixel":
            assert torch.equal(together.prompt_latents[:, index : index + 1], alone.prompt_latents)
    stacked = pipeline.encode_condition(torch.stack([RED, GREEN]), "a ball", white)
    assert torch.equal(stacked.image_features, together.image_features[:, :2])


@pytest.mark.parametrize("controllers", CONTROLLERS)
def test_every_picture_reaches_the_views_and_its_side_matters(controllers):
    pipeline = tiny_pipeline(controllers)
    one = sample(pipeline, RED)
    assert torch.equal(sample(pipeline, images=[RED]), one)
    assert torch.equal(sample(pipeline, back=RED), one)  # alone, it counts in all views alike
    both = sample(pipeline, images=[RED, GREEN])
    for other in (one, sample(pipeline, images=[RED, BLUE]), sample(pipeline, front=RED, back=GREEN)):
        assert (both - other).abs().max() > 1e-5
    level = sample(pipeline, front=RED, back=GREEN, prompt_temperature=1e6)
    torch.testing.assert_close(level, both, atol=1e-4, rtol=0)


def test_pictures_may_know_where_they_were_taken_from():
    pipeline = tiny_pipeline()
    picture = PIL.Image.fromarray((RED.permute(1, 2, 0) * 255).byte().numpy(), "RGBA")
    prompt = prepare_image_prompt(picture, 24)
    known = [replace(prompt, azimuth_deg=90.0), replace(prompt, rgba=GREEN, azimuth_deg=270.0)]
    torch.testing.assert_close(
        sample(pipeline, images=known), sample(pipeline, left=prompt, right=GREEN), rtol=0, atol=0
    )


@pytest.mark.parametrize("controllers", CONTROLLERS)
def test_distillation_follows_the_weights_of_each_group(controllers):
    pipeline = tiny_pipeline(controllers)
    condition = pipeline.encode_condition([RED, GREEN], "a ball", torch.ones(3))
    azimuths = torch.tensor([[0.0, 90.0, 180.0, 270.0], [45.0, 135.0, 225.0, 315.0]])
    biased = condition.with_prompt_bias(angle_bias(azimuths, [0.0, 180.0]))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, VIEWS, 4, 4, 4, generator=generator)
    given = {
        "cameras": torch.randn(2, VIEWS, 16, generator=generator),
        "noise": torch.randn(2, VIEWS, 4, 4, 4, generator=generator),
        "timesteps": torch.tensor([300, 700]),
    }

    def distil(rows, condition, **options):
        z = latents[rows].clone().requires_grad_(True)
        result = image_prompt_score_distillation(
            pipeline.unet,
            tiny_scheduler(),
            z,
            condition=condition,
            unconditional=condition.without_image(),
            **{name: value[rows] for name, value in given.items()},
            **options,
        )
        (gradient,) = torch.autograd.grad(result.loss, z)
        return gradient

    both = distil(slice(0, 2), biased)
    torch.testing.assert_close(distil(slice(0, 2), biased, groups_per_call=1), both, atol=1e-4, rtol=1e-3)
    for group in range(2):
        row = slice(group, group + 1)
        alone = distil(row, biased.map(lambda tensor, row=row: tensor[row]))
        torch.testing.assert_close(alone / 2, both[row], atol=1e-5, rtol=1e-4)
    assert (distil(slice(0, 2), condition) - both).abs().max() > 1e-6
