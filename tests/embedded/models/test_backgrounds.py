import pytest
import torch
from omegaconf import OmegaConf

import threestudio


def _background(name, **config):
    return threestudio.find(f"{name}-background")(OmegaConf.create(config))


def _dirs(count=3):
    return torch.nn.functional.normalize(torch.randn(count, 4, 5, 3), dim=-1)


def test_solid_color():
    background = _background("solid-color", color=[0.1, 0.2, 0.3])
    assert torch.equal(background(dirs=_dirs()), torch.tensor([0.1, 0.2, 0.3]).expand(3, 4, 5, 3))
    assert list(background.state_dict()) == ["env_color"]
    assert not list(background.parameters())
    with pytest.raises(ValueError, match="4 channels"):
        _background("solid-color", color=[0.0] * 4)


def test_learned_color_and_random_color():
    background = _background("solid-color", learned=True, random_aug=True, random_aug_prob=1.0)
    colors = background(dirs=_dirs())
    assert (colors == colors[:, :1, :1]).all()  # one an image
    assert not torch.equal(colors[0], colors[1])
    colors.sum().backward()
    assert (background.env_color.grad == 0).all()
    assert (background.eval()(dirs=_dirs()) == 1).all()


def test_neural_environment_map():
    torch.manual_seed(0)
    background = _background("neural-environment-map")
    keys = [f"network.layers.{i}.weight" for i in (0, 2, 4)]
    assert list(background.state_dict()) == ["encoding.encoding.encoding.params", *keys]
    dirs = _dirs()
    colors = background(dirs=dirs)
    assert colors.shape == (3, 4, 5, 3)
    assert (colors > 0).all()
    assert (colors < 1).all()
    torch.testing.assert_close(background(dirs=dirs[1:2]), colors[1:2])
    colors.sum().backward()
    assert background.network.layers[0].weight.grad.abs().sum() > 0


def test_neural_environment_map_random_and_evaluation_colours():
    background = _background(
        "neural-environment-map", random_aug=True, random_aug_prob=0.5, eval_color=[1.0, 0.5, 0.0]
    )
    torch.manual_seed(0)
    plain = [(lambda c: bool((c == c[:, :1, :1]).all()))(background(dirs=_dirs())) for _ in range(200)]
    assert sum(plain) / 200 == pytest.approx(0.5, abs=0.1)
    assert torch.equal(background.eval()(dirs=_dirs()), torch.tensor([1.0, 0.5, 0.0]).expand(3, 4, 5, 3))
