import pytest
import torch
from omegaconf import OmegaConf

import threestudio

DIRECTIONS = torch.nn.functional.normalize(
    torch.randn(8, 3, 5, 3, generator=torch.Generator().manual_seed(0)), dim=-1
)


def background(**settings):
    return threestudio.find("imagedream-background")(OmegaConf.create(settings))


def at(module, step):
    module.update_step(0, step)
    return module(dirs=DIRECTIONS)


def test_random_colours_are_shared_by_all_views(extension):
    module = background(random_aug=True, random_aug_prob=1.0).train()
    first, second = (at(module, step) for step in (0, 1))
    assert first.shape == (8, 3, 5, 3)
    assert (first == first[:1, :1, :1]).all()
    assert not torch.equal(first, second)
    # a step has one background, however often it is rendered, and in whatever pieces
    assert torch.equal(at(module, 0), first)
    assert torch.equal(module(dirs=DIRECTIONS[2:3, :1]), first[2:3, :1])
    assert ((first >= 0) & (first <= 1)).all()


def test_probability_of_random_colours(extension):
    torch.manual_seed(0)
    module = background(color=[0.25, 0.5, 0.75], random_aug=True, random_aug_prob=0.3).train()
    own = torch.tensor([0.25, 0.5, 0.75])
    random = sum(not torch.equal(at(module, step)[0, 0, 0], own) for step in range(500))
    assert 0.22 < random / 500 < 0.38  # 0.3 ± four standard deviations


def test_evaluated_and_learned_colours(extension):
    module = background(random_aug=True, random_aug_prob=1.0).eval()
    assert (at(module, 0) == 1).all()
    learned = background(learned=True, color=[0.5, 0.5, 0.5], random_aug=True, random_aug_prob=0.0).train()
    colour = learned(dirs=DIRECTIONS)
    torch.testing.assert_close(colour, torch.full_like(colour, 0.5))
    colour.sum().backward()
    assert (learned.logit.grad > 0).all()
    for color in ([1.0, 1.0], [1.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="color is"):
            background(color=color)
