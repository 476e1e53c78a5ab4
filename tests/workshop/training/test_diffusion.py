"""What the network is told in training is what it is told later; memory options change nothing."""

import pytest
import torch

from imagedream import checkpoints
from imagedream.cameras import camera_condition, look_at_origin
from imagedream.model import concatenate_conditions
from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.diffusion import DiffusionTraining, view_cameras
from imagedream.workshop.training.random_draws import random_backgrounds
from imagedream.workshop.training.train_config import (
    ConditioningConfig,
    OptimizerConfig,
)
from tests.tiny import tiny_encoder, tiny_pipeline, tiny_scheduler, tiny_unet, tiny_vae
from tests.workshop.training.conftest import settings

GROUPS = 2


def training(controllers="pixel", conditioning=None, objective=None, data=(), **changed):
    torch.manual_seed(0)
    return DiffusionTraining(
        {**settings(tiny_unet(controllers)), **changed},
        settings(tiny_scheduler()),
        (tiny_vae(), tiny_encoder()),
        OptimizerConfig(),
        steps=10,
        seed=0,
        conditioning=conditioning,
        objective=objective,
        data=data,
    )


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    azimuths = torch.tensor([[10.0, 100.0, 190.0, 280.0], [45.0, 135.0, 225.0, 315.0]])
    return {
        "targets": draw(GROUPS, 4, 4, 16, 16),
        "prompts": draw(GROUPS, 4, 16, 16),
        "azimuths_deg": azimuths,
        "elevations_deg": torch.tensor([5.0, 10.0]),
        "prompt_azimuths_deg": torch.tensor([10.0, -45.0]),
        "captions": ["a ball", "a cube"],
        "step": 0,
    }


@pytest.mark.parametrize("controllers", ["global", "local", "pixel", "pixel-only"])
@pytest.mark.parametrize("no_image", ["zeros", "plain"])
def test_a_dropped_prompt_is_what_sampling_takes_for_none(controllers, no_image):
    always = ConditioningConfig(prompt_dropout=1.0, caption_dropout=0.0)
    module = training(controllers, always, no_image=no_image)
    _, _, learned = module.encode(batch(), step_generator(0, 0))
    backgrounds = random_backgrounds(GROUPS, step_generator(0, 0))
    for group, colour in enumerate(backgrounds):
        condition = module.pipeline.encode_condition(
            batch()["prompts"][group], batch()["captions"][group], colour
        )
        with_prompt, nothing = condition, condition.without_image()
        without_any = module.pipeline.encode_condition(None, batch()["captions"][group], colour)
        for name in ("text_tokens", "image_features", "prompt_latents"):
            ours, theirs = getattr(learned, name), getattr(nothing, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                torch.testing.assert_close(ours[group : group + 1], theirs, atol=1e-4, rtol=1e-3)
                torch.testing.assert_close(getattr(without_any, name), theirs, atol=1e-4, rtol=1e-3)
        for name in ("image_features", "prompt_latents"):
            tensor = getattr(nothing, name)
            if tensor is not None:
                assert (tensor.abs().max() == 0) == (no_image == "zeros")
                assert not torch.equal(getattr(with_prompt, name), tensor)


def test_plain_pictures_go_through_all_that_is_done_with_conditions():
    pipeline = tiny_pipeline("pixel")
    pipeline.unet.register_to_config(no_image="plain")
    prompts = [torch.rand(4, 16, 16), torch.rand(4, 16, 16)]
    condition = pipeline.encode_condition(prompts, "a ball", torch.tensor([0.2, 0.4, 0.6]))
    both = concatenate_conditions([condition, condition.without_image()])
    assert both.image_features.shape == (2, 2, 5, 32)
    nothing = both.repeat(2).without_image()
    torch.testing.assert_close(nothing.image_features[0], nothing.image_features[1])
    assert not torch.equal(nothing.image_features[0], both.image_features[0])
    pipeline(prompts[0], "a ball", num_inference_steps=1)


def test_relative_cameras_count_from_the_prompts():
    canonical, relative = (view_cameras(batch(), cameras) for cameras in ("canonical", "relative"))
    # the first target of the first group is seen from where the prompt is: azimuth 0
    front = camera_condition(look_at_origin(torch.tensor(5.0), torch.tensor(0.0), torch.tensor(1.0)))
    torch.testing.assert_close(relative[0, 0], front)
    # 45 - (-45) = 90, which canonically is 45 degrees further than the first target of the second group
    left = camera_condition(look_at_origin(torch.tensor(10.0), torch.tensor(90.0), torch.tensor(1.0)))
    torch.testing.assert_close(relative[1, 0], left)
    assert not torch.equal(canonical, relative)
    _, cameras, _ = training(cameras="relative").encode(batch(), step_generator(0, 0))
    torch.testing.assert_close(cameras, relative)


def gradients(module):
    module.loss(batch(), step_generator(0, 3))["loss"].backward()
    return {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}


def test_checkpointed_activations_give_the_same_gradients():
    plain, lean = training().train(), training().train()
    lean.model.enable_gradient_checkpointing()
    expected, found = gradients(plain), gradients(lean)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("controllers", ["none", "global", "local", "pixel", "pixel-only"])
def test_every_network_learns_something_of_every_weight(controllers):
    module = training(controllers, ConditioningConfig(prompt_dropout=0.0)).train()
    assert set(gradients(module)) == {name for name, _ in module.model.named_parameters()}


def test_frozen_parts_follow_the_network_to_its_device():
    module = training()
    module.to("meta").on_fit_start()
    for part in (module.pipeline.vae, module.pipeline.encoder):
        assert {parameter.device.type for parameter in part.parameters()} == {"meta"}


def test_the_network_keeps_the_record_of_all_its_trainings(tmp_path):
    first = training(data=[{"data": "toybox", "kinds": ["mug"]}])
    second = training(data=[{"data": "rendered", "folders": ["mine"]}])
    second.start_from(first.model)
    second.finish().save_pretrained(tmp_path)
    assert checkpoints.part_config(tmp_path, "unet")["trained_on"] == [
        {"data": "toybox", "kinds": ["mug"], "steps": 10},
        {"data": "rendered", "folders": ["mine"], "steps": 10},
    ]
