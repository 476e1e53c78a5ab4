"""Learning rates by hand, what is learned by name, the optimiser's state by its own count."""

import pytest
import torch
from torch import nn

from imagedream.workshop.training.muon import Muon, orthogonalize
from imagedream.workshop.training.optimizers import (
    choose_learned,
    learning_rate_factor,
    make_optimizer,
    state_numbers,
)
from imagedream.workshop.training.train_config import OptimizerConfig
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
    assert learning_rate_factor(config, step, steps=100) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_an_optimiser_keeps_as_many_numbers_as_it_says(kind):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    config = OptimizerConfig(kind=kind, learning_rate=1e-2, weight_decay=0.1)
    optimizer = make_optimizer(config, list(model.parameters()))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
    kept = sum(
        value.numel() for state in optimizer.state.values() for name, value in state.items() if name != "step"
    )
    assert kept == state_numbers(config, list(model.parameters()))
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


def test_mistakes_in_what_is_learned():
    with pytest.raises(ValueError, match=r"'unet.attention' fits none .* image_projection.latents"):
        choose_learned(tiny_unet(), ["unet.conv_in", "unet.attention"])

    with pytest.raises(ValueError, match="no image controllers"):
        choose_learned(tiny_unet("none"), "controllers")


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (12, 12)])
def test_what_muon_leaves_of_a_matrix_are_its_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert s.max() / s.min() > 5
    rotated = u.mT @ orthogonalize(1000 * matrix) @ vh.mT  # in the bases of the singular vectors: diagonal
    diagonal = rotated.diagonal()
    torch.testing.assert_close(rotated, torch.diag(diagonal), atol=0.05, rtol=0)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


def steps(optimizer, parameters, gradients):
    for of_step in gradients:
        for parameter, gradient in zip(parameters, of_step, strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()


def test_steps_of_muon_are_those_of_torch_with_kernels_as_matrices_and_vectors_by_adamw():
    generator = torch.Generator().manual_seed(1)
    matrices, others = [(6, 10), (9, 4), (6, 10), (8, 3, 3, 3)], [(7,), (1, 5, 4)]
    start = [torch.randn(shape, generator=generator) for shape in (*matrices, *others)]
    gradients = [[torch.randn(values.shape, generator=generator) for values in start] for _ in range(4)]
    ours = [nn.Parameter(values.clone()) for values in start]
    ours[3].data = ours[3].data.contiguous(memory_format=torch.channels_last)
    first, second = (Muon([{"params": ours, "weight_decay": 0.3}], lr=0.01, betas=(0.8, 0.9)) for _ in "ab")
    steps(first, ours, gradients[:2])
    second.load_state_dict(first.state_dict())  # as after a resume
    steps(second, ours, gradients[2:])

    flat = [nn.Parameter(values.flatten(1).clone()) for values in start[:4]]
    theirs = torch.optim.Muon(flat, lr=0.01, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    steps(theirs, flat, [[gradient.flatten(1) for gradient in of_step[:4]] for of_step in gradients])
    rest = [nn.Parameter(values.clone()) for values in start[4:]]
    theirs = torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9), weight_decay=0.3)
    steps(theirs, rest, [of_step[4:] for of_step in gradients])
    for own, other, values in zip(ours, [*flat, *rest], start, strict=True):
        torch.testing.assert_close(own, other.reshape(own.shape), atol=3e-4, rtol=0)
        assert (own - values).abs().max() > 0.01
