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


def _diffuse(**changes):
    material = threestudio.find("diffuse-with-point-light-material")(
        OmegaConf.create({"albedo_activation": "none"} | changes)
    )
    material.update_step(0, 10_000)
    return material


def test_diffuse_light_by_hand():
    material = _diffuse().eval()
    # ambient 0.1 + ½ · 0.9 = 0.55
    torch.testing.assert_close(material(**_point()), torch.tensor([[0.11, 0.22, 0.33]]))
    torch.testing.assert_close(material(**_point(), shading="textureless"), torch.full((1, 3), 0.55))
    torch.testing.assert_close(material(**_point(), shading="albedo"), torch.tensor([[0.2, 0.4, 0.6]]))
    # white light, a quarter of it ambient: ¼ + ½ · ¾ = 0.625
    ratio = material(**_point(), shading="textureless", ambient_ratio=0.25)
    torch.testing.assert_close(ratio, torch.full((1, 3), 0.625))
    behind = _point(light_positions=torch.tensor([[0.0, 0.0, -1.0]]))
    torch.testing.assert_close(material(**behind, shading="textureless"), torch.full((1, 3), 0.1))


def test_soft_shading_draws_the_light_in_training_only():
    material = _diffuse(soft_shading=True, ambient_light_color=[1.0] * 3, diffuse_light_color=[0.0] * 3)
    torch.manual_seed(0)
    levels = torch.cat([material(**_point(), shading="textureless") for _ in range(200)])[:, 0]
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
    material.update_step(0, 1000)
    assert material.eval()._draw_shading() == "diffuse"
    assert _diffuse(ambient_only_on_test=True).eval()._draw_shading() == "albedo"


def test_gradients_reach_everything_whatever_the_shading():
    for shading in ("albedo", "textureless", "diffuse"):
        arguments = _point()
        leaves = [arguments["features"].requires_grad_(), arguments["shading_normal"].requires_grad_()]
        _diffuse()(**arguments, shading=shading).sum().backward()
        assert all(leaf.grad is not None for leaf in leaves)
        for leaf in leaves:
            leaf.grad = None


def test_errors_and_names():
    material = _diffuse()
    assert material.requires_normal
    assert set(material.state_dict()) == {"ambient_light_color", "diffuse_light_color"}
    with pytest.raises(ValueError, match="textureless"):
        material(**_point(), shading="phong")
    with pytest.raises(TypeError, match="ambient"):
        _diffuse(ambient=1.0)
    torch.testing.assert_close(
        material.export(features=torch.tensor([[0.5, 2.0, -1.0, 9.0]]))["albedo"],
        torch.tensor([[0.5, 1.0, 0.0]]),
    )


def test_no_material():
    plain = threestudio.find("no-material")({})
    features = torch.tensor([[0.0, 1.0, -1.0]])
    torch.testing.assert_close(plain(features=features, density=None), torch.sigmoid(features))
    assert not plain.requires_normal
    with pytest.raises(ValueError, match="4 channels"):
        plain(features=torch.zeros(1, 4))
    network = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 1}
    learned = threestudio.find("no-material")(
        OmegaConf.create({"input_feature_dims": 5, "mlp_network_config": network, "requires_normal": True})
    )
    assert learned(features=torch.zeros(2, 6, 5)).shape == (2, 6, 3)
    assert learned.requires_normal
    assert learned.export(features=torch.zeros(2, 5))["albedo"].shape == (2, 3)
