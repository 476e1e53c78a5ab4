"""Learning rates by hand, what is learned by name, the optimiser's state by its own count."""

import pytest
import torch
from torch import nn

from imagedream.workshop.training.optimizers import OptimizerConfig, choose_learned
from tests.tiny import tiny_unet


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        # warm-up of 4 steps: the first has 1/4, the fourth 4/4
        ("constant", 0, 0.25),
        ("constant", 3, 1.0),
        ("constant", 50, 1.0),
        ("linear", 50, 0.1 + 0.9 * 0.5),
        ("linear", 100, 0.1),
        ("cosine", 25, 0.1 + 0.9 * (1 + 2**-0.5) / 2),
        ("cosine", 100, 0.1),
        ("cosine", 200, 0.1),
    ],
)
def test_learning_rates_by_hand(schedule, step, expected):
    config = OptimizerConfig(schedule=schedule, warmup_steps=4, final_fraction=0.1)
    assert config.factor(step, steps=100) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor"])
def test_an_optimiser_keeps_as_many_numbers_as_it_says(kind):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    config = OptimizerConfig(kind=kind, learning_rate=1e-2, weight_decay=0.1)
    optimizer = config.make(list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
    kept = sum(
        value.numel() for state in optimizer.state.values() for name, value in state.items() if name != "step"
    )
    assert kept == config.state_numbers(list(model.parameters()))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]


def learned(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("controllers", ["global", "local", "pixel"])
def test_controllers_are_projection_keys_and_values(controllers):
    model = tiny_unet(controllers)
    choose_learned(model, "controllers")
    of_projection = {name for name, _ in model.named_parameters() if name.startswith("image_projection.")}
    # cross-attention in one block down (1 layer), two up and one in the middle, a key and a value matrix each
    assert len(learned(model) - of_projection) == 2 * 4
    assert of_projection < learned(model)
    assert all("_ip." in name for name in learned(model) - of_projection)


def test_a_list_names_modules_and_patterns():
    model = tiny_unet()
    everything = learned(model)
    choose_learned(model, ["unet.conv_in", "*.norm_out.*", "*time_emb_proj.bias"])
    assert {"unet.conv_in.weight", "unet.conv_in.bias"} < learned(model) < everything
    assert not any(name.endswith("time_emb_proj.weight") for name in learned(model))
    # what is frozen stays frozen
    choose_learned(model, ["unet"])
    assert learned(model) < everything


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        ("adapters", "learn is 'adapters', must be all, controllers or a list"),
        ([], "empty list"),
        (["unet.conv_in", "unet.attention"], r"'unet.attention' fits none .* image_projection.latents"),
    ],
)
def test_mistakes_in_what_is_learned(learn, message):
    with pytest.raises(ValueError, match=message):
        choose_learned(tiny_unet(), learn)


def test_a_network_without_controllers_has_none_to_learn():
    with pytest.raises(ValueError, match="no image controllers"):
        choose_learned(tiny_unet("none"), "controllers")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "adam8bit"}, "optimizer.kind is 'adam8bit', must be one of adamw, muon, adafactor"),
        ({"schedule": "step"}, "optimizer.schedule is 'step', must be one of cosine, linear, constant"),
        ({"learning_rate": -1.0}, "optimizer.learning_rate is -1.0"),
        ({"betas": (0.9, 1.0)}, "optimizer.betas"),
        ({"final_fraction": 2.0}, "optimizer.final_fraction is 2.0"),
    ],
)
def test_values_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**changed)
