"""Precision and memory options of the guidance's config."""

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from tests.extension.test_guidance import prompt, renders  # noqa: F401 - a fixture


def gradient_of_a_step(weights, prompt_utils, **config):
    torch.manual_seed(0)
    config = OmegaConf.create({"weights": weights, **config})
    guidance = threestudio.find("imagedream-guidance")(config)
    rgb, batch = renders()
    guidance(rgb, prompt_utils, **batch)["loss_sds"].backward()
    return rgb.grad, guidance


# the tiny network normalises single channels, which are constant where no prompt is given: that magnifies rounding, which
# depends on the memory layout
@pytest.mark.parametrize(
    ("memory", "tolerance"),
    [
        ({"encoder": "offload"}, 1e-4),
        ({"vae_slicing": True, "vae_checkpointing": True}, 1e-4),
        ({"attention": "math"}, 1e-4),
        ({"channels_last": True}, 5e-2),
    ],
)
def test_options_change_no_gradient(extension, weights, prompt, memory, tolerance):  # noqa: F811
    plain, _ = gradient_of_a_step(weights, prompt)
    with_option, _ = gradient_of_a_step(weights, prompt, memory=memory)
    assert (with_option - plain).norm() < tolerance * plain.norm()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision_is_that_of_the_weights_alone(extension, weights, prompt, precision):  # noqa: F811
    plain, _ = gradient_of_a_step(weights, prompt)
    half, guidance = gradient_of_a_step(weights, prompt, precision=precision)
    assert guidance.pipeline.unet.dtype == guidance.pipeline.vae.dtype == getattr(torch, precision)
    assert half.dtype == torch.float32
    assert torch.corrcoef(torch.stack([half.flatten(), plain.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"precision": "half"}, "precision is 'half', must be one of auto, float32, float16, bfloat16"),
        ({"memory": {"encoder": "free"}}, "memory.encoder is 'free', but distillation .* use 'offload'"),
        ({"memory": {"encoder": "sell"}}, "encoder is 'sell', must be one of keep, offload, free"),
        ({"memory": {"slicing": True}}, "MemoryOptions: unknown key slicing"),
    ],
)
def test_bad_options_are_found_before_the_weights_load(extension, weights, config, message):
    with pytest.raises(ValueError, match=message):
        threestudio.find("imagedream-guidance").preflight({"weights": weights, **config})
