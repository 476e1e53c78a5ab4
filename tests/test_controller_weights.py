"""Weights of the controllers: 1 is the model itself, 0 the model without the controller, and between them both have a say."""

import pytest
import torch

from imagedream.controller_weights import ControllerWeights
from imagedream.distillation import image_prompt_score_distillation
from imagedream.model import Condition, predict_noise
from tests.tiny import tiny_pipeline, tiny_unet

PROMPT = torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(0))


def inputs(groups=2, prompts=1):
    generator = torch.Generator().manual_seed(1)
    latents, frames = (torch.randn(groups, n, 4, 4, 4, generator=generator) for n in (4, prompts))
    cameras, text = (torch.randn(groups, n, 16, generator=generator) for n in (4, 5))
    features = torch.randn(groups, prompts, 5, 32, generator=generator)
    condition = Condition(text, features, frames)
    return latents, torch.tensor([700, 300][:groups]), cameras, condition


def predicted(unet, weights, prompts=1, empty=None):
    latents, timesteps, cameras, condition = inputs(prompts=prompts)
    condition, _ = weights.apply(condition, condition.without_image(), empty)
    return predict_noise(unet, latents, timesteps, cameras, *condition.inputs)


@torch.no_grad()
@pytest.mark.parametrize("prompts", [1, 3])
def test_zero_is_the_network_without_the_controller(prompts):
    unet = tiny_unet("pixel")
    latents, timesteps, cameras, condition = inputs(prompts=prompts)
    text, features, frames = condition.text_tokens, condition.image_features, condition.prompt_latents
    no_tokens = predict_noise(unet, latents, timesteps, cameras, text, None, frames)
    torch.testing.assert_close(predicted(unet, ControllerWeights(ip_weight=0.0), prompts), no_tokens)
    no_frames = predict_noise(unet, latents, timesteps, cameras, text, features, None)
    torch.testing.assert_close(predicted(unet, ControllerWeights(pixel_weight=0.0), prompts), no_frames)
    neither = predict_noise(unet, latents, timesteps, cameras, text)
    both_off = ControllerWeights(ip_weight=0.0, pixel_weight=0.0)
    torch.testing.assert_close(predicted(unet, both_off, prompts), neither)


@torch.no_grad()
def test_one_is_the_network_itself_and_others_are_not():
    unet = tiny_unet("pixel")
    plain = predict_noise(unet, *inputs()[:3], *inputs()[3].inputs)
    assert torch.equal(predicted(unet, ControllerWeights()), plain)
    # the weighted path with weights of 1 is the plain path up to rounding; each group has its own weight
    latents, timesteps, cameras, condition = inputs()
    arguments = (unet, latents, timesteps, cameras, *condition.inputs, None)
    torch.testing.assert_close(predict_noise(*arguments, torch.ones(2), torch.ones(2)), plain)
    mixed = predict_noise(*arguments, torch.tensor([1.0, 0.3]), None)
    torch.testing.assert_close(mixed[0], plain[0])
    assert (mixed[1] - plain[1]).abs().max() > 1e-5
    empty = torch.zeros(1, 5, 16)
    for name in ("ip_weight", "pixel_weight", "caption_weight"):
        for weight in (0.5, 1.5):
            changed = predicted(unet, ControllerWeights(**{name: weight}), empty=empty)
            assert (changed - plain).abs().max() > 1e-5, name


@torch.no_grad()
def test_pipeline_without_the_caption_is_the_empty_caption():
    pipeline = tiny_pipeline()

    def views(caption, **weights):
        options = {
            "num_inference_steps": 2,
            "output_type": "pt",
            "generator": torch.Generator().manual_seed(0),
        }
        return pipeline(PROMPT, caption, weights=ControllerWeights(**weights), **options).images

    assert torch.equal(views("a robot", caption_weight=0.0), views(""))
    assert (views("a robot", caption_weight=0.5) - views("a robot")).abs().max() > 1e-5


def test_the_gradient_is_that_of_the_weighted_prediction():
    """Weights change the target only: latents get z − x̂0, whatever the weights, and nothing else gets a gradient."""
    pipeline = tiny_pipeline()
    latents, timesteps, cameras, condition = inputs()
    weights = ControllerWeights(ip_weight=0.3, pixel_weight=0.7)
    pair = weights.apply(condition, condition.without_image())
    latents.requires_grad_()
    result = image_prompt_score_distillation(
        pipeline.unet,
        pipeline.scheduler,
        latents,
        cameras,
        *pair,
        timesteps=timesteps,
        noise=torch.randn(2, 4, 4, 4, 4),
    )
    (gradient,) = torch.autograd.grad(result.loss, latents)
    torch.testing.assert_close(gradient, (latents - result.predicted_original).detach() / 8)
    assert all(parameter.grad is None for parameter in pipeline.unet.parameters())


def test_what_cannot_be_weighted():
    with pytest.raises(ValueError, match=r"ip_weight is -1\.0, must be a number of at least 0"):
        ControllerWeights(ip_weight=-1.0)
    with pytest.raises(ValueError, match="caption_weight is nan"):
        ControllerWeights(caption_weight=float("nan"))
    with pytest.raises(ValueError, match=r"pixel_weight is 0\.5, but this model's controllers are 'local'"):
        ControllerWeights(pixel_weight=0.5).check(tiny_unet("local"))
    with pytest.raises(ValueError, match=r"ip_weight is 0\.0, but this model's controllers are 'none'"):
        ControllerWeights(ip_weight=0.0).check(tiny_unet("none"))
    ControllerWeights(ip_weight=0.5, pixel_weight=2.0).check(tiny_unet("pixel"))
