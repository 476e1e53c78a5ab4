"""Targets and weights of noise levels, by hand and against each other."""

import pytest
import torch
from diffusers import DDIMScheduler

from imagedream.workshop.training.architectures import DDIM
from imagedream.workshop.training.objectives import (
    check_scheduler,
    draw_timesteps,
    level_weights,
    target,
    weighted_loss,
)
from imagedream.workshop.training.train_config import ObjectiveConfig

T = torch.tensor([0, 10, 500, 900])


def scheduler(prediction_type="epsilon", **changed):
    return DDIMScheduler(**{**DDIM, "prediction_type": prediction_type, **changed})


def levels(kind):
    """α and σ of the timesteps, from the cumulative product of the betas themselves."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0)[T].float()
    return alpha_bar.sqrt()[:, None, None, None, None], (1 - alpha_bar).sqrt()[:, None, None, None, None]


def test_weights_by_hand():
    # at t = 900 of this schedule SNR is far below 5, at t = 0 it is 1/0.00085 - 1 = 1175.5
    for kind, expected in (
        ("epsilon", 5 / 1175.47),
        ("v_prediction", 5 / 1176.47),
        ("sample", 5.0),
    ):
        weights = level_weights(scheduler(kind), T, gamma=5.0)
        assert weights[0].item() == pytest.approx(expected, rel=1e-3)
    assert level_weights(scheduler("epsilon"), T, gamma=5.0)[3].item() == 1.0


def test_all_parametrisations_weigh_the_same_error_of_x0_alike():
    generator = torch.Generator().manual_seed(0)
    latents, noise, mistake = (torch.randn(4, 2, 3, 4, 4, generator=generator) for _ in range(3))
    alpha, sigma = levels("epsilon")
    noisy = alpha * latents + sigma * noise
    guess = latents + 0.1 * mistake  # what the network takes x0 for
    epsilon = (noisy - alpha * guess) / sigma
    said = {"sample": guess, "epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * guess}
    objective = ObjectiveConfig(min_snr_gamma=5.0)
    losses = []
    for kind, output in said.items():
        wanted = target(scheduler(kind), latents, noise, T)
        losses.append(weighted_loss(output, wanted, scheduler(kind), T, objective).item())
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-3)
    plain = weighted_loss(guess, latents, scheduler("sample"), T, ObjectiveConfig())
    assert plain.item() == pytest.approx((0.1 * mistake).square().mean().item(), rel=1e-4)


def test_zero_terminal_snr_is_pure_noise_at_the_end():
    v = scheduler("v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    check_scheduler(v, ObjectiveConfig())
    latents, noise = torch.ones(1, 1, 1, 2, 2), torch.full((1, 1, 1, 2, 2), 0.5)
    last = torch.tensor([999])
    assert torch.equal(v.add_noise(latents, noise, last), noise)
    assert torch.equal(target(v, latents, noise, last), -latents)
    v.set_timesteps(10)
    assert v.timesteps[0] == 999  # where sampling begins
    # the first level stays as it was (Lin et al., algorithm 1)
    assert v.alphas_cumprod[0].item() == pytest.approx(1 - 0.00085, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "objective", "message"),
    [
        (
            {"prediction_type": "noise"},
            {},
            "prediction_type is 'noise', must be one of epsilon, v_prediction",
        ),
        ({"rescale_betas_zero_snr": True}, {}, "prediction_type is epsilon: at zero signal"),
        (
            {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
            {},
            "timestep_spacing is leading",
        ),
        (
            {
                "rescale_betas_zero_snr": True,
                "prediction_type": "v_prediction",
                "timestep_spacing": "trailing",
            },
            {"min_snr_gamma": 5.0},
            "no weight at all",
        ),
    ],
)
def test_what_does_not_go_together(changed, objective, message):
    with pytest.raises(ValueError, match=message):
        check_scheduler(DDIMScheduler(**{**DDIM, **changed}), ObjectiveConfig(**objective))


def test_channel_weights_by_hand():
    output = torch.zeros(1, 2, 2, 1, 1)
    wanted = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1, 1).expand(1, 2, 2, 1, 1)
    objective = ObjectiveConfig(channel_weights=[6.0, 2.0])  # over their mean: 1.5 and 0.5
    loss = weighted_loss(output, wanted, scheduler("v_prediction"), torch.tensor([5]), objective)
    assert loss.item() == pytest.approx((1.5 * 1 + 0.5 * 4) / 2)


def test_noise_levels_are_drawn_by_their_shares():
    uniform = torch.tensor([0.0, 0.29, 0.31, 0.66, 0.99])
    pieces = [[0.3, 1.0, 1.0], [0.7, 0.0, 0.5]]
    # 0.3 of the draws are the last level; 0.31, 0.66 and 0.99 lie 1/70, 36/70 and 69/70 of the way through the rest
    assert draw_timesteps(pieces, uniform, 1000).tolist() == [999, 999, 7, 257, 492]
    assert draw_timesteps([[1.0, 0.0, 1.0]], uniform, 1000).tolist() == [0, 290, 310, 660, 990]
