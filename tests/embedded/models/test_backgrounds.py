import pytest
import torch
from omegaconf import OmegaConf

import threestudio


def _background(**config):
    torch.manual_seed(0)
    return threestudio.find("neural-environment-map-background")(OmegaConf.create(config))


def _dirs(count=3):
    return torch.nn.functional.normalize(torch.randn(count, 4, 5, 3), dim=-1)


def test_colours_depend_on_the_direction_alone():
    background, dirs = _background(), _dirs()
    keys = [f"network.layers.{i}.weight" for i in (0, 2, 4)]
    assert list(background.state_dict()) == ["encoding.encoding.encoding.params", *keys]
    colors = background(dirs=dirs)
    assert colors.shape == (3, 4, 5, 3)
    assert (colors > 0).all()
    assert (colors < 1).all()
    torch.testing.assert_close(background(dirs=dirs[1:2]), colors[1:2])
    colors.sum().backward()
    assert background.network.layers[0].weight.grad.abs().sum() > 0


def test_random_colours_in_training():
    background = _background(random_aug=True, random_aug_prob=0.5)
    is_plain = []
    for _ in range(200):
        color = background(dirs=_dirs())
        is_plain.append(bool((color == color[:, :1, :1]).all()))  # one an image
    assert sum(is_plain) / 200 == pytest.approx(0.5, abs=0.1)
    assert background.eval()(dirs=_dirs()).std((0, 1, 2)).min() > 0
