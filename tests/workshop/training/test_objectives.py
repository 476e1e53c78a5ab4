"""Targets, weights and noise levels, by hand."""

import pytest
import torch
from diffusers import DDIMScheduler

from imagedream.workshop.training.architectures import DDIM
from imagedream.workshop.training.objectives import (
    check_scheduler,
    draw_timesteps,
    target,
    weighted_loss,
)
from imagedream.workshop.training.train_config import ObjectiveConfig


def scheduler(prediction_type="epsilon", **changed):
    return DDIMScheduler(**{**DDIM, "prediction_type": prediction_type, **changed})


def test_zero_terminal_snr_is_pure_noise_at_the_end():
    v = scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    check_scheduler(v)
    latents, noise = torch.ones(1, 1, 1, 2, 2), torch.full((1, 1, 1, 2, 2), 0.5)
    last = torch.tensor([999])
    assert torch.equal(v.add_noise(latents, noise, last), noise)
    assert torch.equal(target(v, latents, noise, last), -latents)
    v.set_timesteps(10)
    assert v.timesteps[0] == 999  # where sampling begins
    # the first level stays as it was (Lin et al., algorithm 1)
    assert v.alphas_cumprod[0].item() == pytest.approx(1 - 0.00085, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prediction_type": "noise"}, "prediction_type is 'noise', must be one of epsilon, v_prediction"),
        ({"rescale_betas_zero_snr": True}, "prediction_type is epsilon: at zero signal"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
            "timestep_spacing is leading",
        ),
    ],
)
def test_what_does_not_go_together(changed, message):
    with pytest.raises(ValueError, match=message):
        check_scheduler(DDIMScheduler(**{**DDIM, **changed}))


def test_channel_weights_by_hand():
    output = torch.zeros(1, 2, 2, 1, 1)
    wanted = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1, 1).expand(1, 2, 2, 1, 1)
    objective = ObjectiveConfig(channel_weights=[6.0, 2.0])  # over their mean: 1.5 and 0.5
    loss = weighted_loss(output, wanted, objective)
    assert loss.item() == pytest.approx((1.5 * 1 + 0.5 * 4) / 2)


def test_noise_levels_are_drawn_by_their_shares():
    uniform = torch.tensor([0.0, 0.29, 0.31, 0.66, 0.99])
    pieces = [[0.3, 1.0, 1.0], [0.7, 0.0, 0.5]]
    # 0.3 of the draws are the last level; 0.31, 0.66 and 0.99 lie 1/70, 36/70 and 69/70 of the way through the rest
    assert draw_timesteps(pieces, uniform, 1000).tolist() == [999, 999, 7, 257, 492]
    assert draw_timesteps([[1.0, 0.0, 1.0]], uniform, 1000).tolist() == [0, 290, 310, 660, 990]
