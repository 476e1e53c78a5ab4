import pytest
import torch
from omegaconf import OmegaConf

import threestudio


def _point(**changes):
    """A point at the origin that looks up, lit from 60 degrees beside: n·l = ½."""
    arguments = {
        "features": torch.tensor([[0.2, 0.4, 0.6]]),
        "positions": torch.zeros(1, 3),
        "shading_normal": torch.tensor([[0.0, 0.0, 1.0]]),
        "light_positions": torch.tensor([[3**0.5, 0.0, 1.0]]),
        "viewdirs": torch.tensor([[0.0, 0.0, -1.0]]),
    }
    return arguments | changes


CHANCES = {
    "albedo": {"diffuse_prob": 0.0},
    "textureless": {"diffuse_prob": 1.0, "textureless_prob": 1.0},
    "diffuse": {"diffuse_prob": 1.0, "textureless_prob": 0.0},
}


def _diffuse(shading="diffuse", **changes):
    """A material in training that always draws one kind of shading."""
    settings = {"albedo_activation": "none", **CHANCES[shading], **changes}
    material = threestudio.find("diffuse-with-point-light-material")(OmegaConf.create(settings))
    material.update_step(0, 10_000)
    return material


def test_diffuse_light_by_hand():
    # ambient 0.1 + ½ · 0.9 = 0.55
    for material in (_diffuse(), _diffuse("albedo").eval()):  # in evaluation always diffuse
        torch.testing.assert_close(material(**_point()), torch.tensor([[0.11, 0.22, 0.33]]))
    torch.testing.assert_close(_diffuse("textureless")(**_point()), torch.full((1, 3), 0.55))
    torch.testing.assert_close(_diffuse("albedo")(**_point()), torch.tensor([[0.2, 0.4, 0.6]]))
    behind = _point(light_positions=torch.tensor([[0.0, 0.0, -1.0]]))
    torch.testing.assert_close(_diffuse("textureless")(**behind), torch.full((1, 3), 0.1))


def test_soft_shading_draws_the_light_in_training_only():
    lights = {"ambient_light_color": [1.0] * 3, "diffuse_light_color": [0.0] * 3}
    material = _diffuse("textureless", soft_shading=True, **lights)
    torch.manual_seed(0)
    levels = torch.cat([material(**_point()) for _ in range(200)])[:, 0]
    # light = 1 − d + d/2 with d in [0, 1)
    assert levels.min() >= 0.5
    assert levels.max() <= 1.0
    assert levels.mean().item() == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(material.eval()(**_point()), torch.tensor([[0.2, 0.4, 0.6]]))


def test_chances_of_the_kinds_of_shading():
    material = _diffuse(diffuse_prob=0.75, textureless_prob=0.5)
    torch.manual_seed(0)
    drawn = [material._draw_shading() for _ in range(4000)]
    for kind, chance in (("albedo", 0.25), ("textureless", 0.375), ("diffuse", 0.375)):
        assert drawn.count(kind) / 4000 == pytest.approx(chance, abs=0.03)
    material.update_step(0, 999)  # ambient_only_steps is 1000
    assert material._draw_shading() == "albedo"


@pytest.mark.parametrize("shading", CHANCES)
def test_gradients_reach_everything_whatever_the_shading(shading):
    arguments = _point()
    leaves = [arguments[name].requires_grad_() for name in ("features", "shading_normal")]
    _diffuse(shading)(**arguments).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


def test_what_the_diffuse_material_says_of_itself():
    material = _diffuse()
    assert material.requires_normal
    assert set(material.state_dict()) == {"ambient_light_color", "diffuse_light_color"}
    exported = material.export(features=torch.tensor([[0.5, 2.0, -1.0, 9.0]]))
    torch.testing.assert_close(exported["albedo"], torch.tensor([[0.5, 1.0, 0.0]]))
    with pytest.raises(TypeError, match="ambient"):
        _diffuse(ambient=1.0)


def test_no_material():
    plain = threestudio.find("no-material")({})
    features = torch.tensor([[0.0, 1.0, -1.0]])
    torch.testing.assert_close(plain(features=features, density=None), torch.sigmoid(features))
    torch.testing.assert_close(plain.export(features=features)["albedo"], torch.sigmoid(features))
    assert not plain.requires_normal
    assert threestudio.find("no-material")({"requires_normal": True}).requires_normal
    with pytest.raises(ValueError, match="features have 4 channels, colours 3"):
        plain(features=torch.zeros(1, 4))
