import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.models.geometry.implicit_volume import ImplicitVolume

ENCODING = {
    "otype": "HashGrid",
    "n_levels": 2,
    "n_features_per_level": 2,
    "log2_hashmap_size": 12,
    "base_resolution": 4,
    "per_level_scale": 2.0,
}


def volume(**changes):
    torch.manual_seed(0)
    network = {"otype": "VanillaMLP", "n_neurons": 8, "n_hidden_layers": 1}
    config = {"pos_encoding_config": ENCODING, "mlp_network_config": network} | changes
    return ImplicitVolume(OmegaConf.create(config))


def rough(**changes):
    """A volume whose network matters, not only its blob."""
    geometry = volume(**changes)
    torch.nn.init.normal_(geometry.encoding.encoding.encoding.params)
    return geometry


def test_checkpoint_keys_are_threestudios():
    assert threestudio.find("implicit-volume") is ImplicitVolume
    networks = [f"{name}_network.layers.{i}.weight" for name in ("density", "feature") for i in (0, 2)]
    assert list(volume().state_dict()) == ["bbox", "encoding.encoding.encoding.params", *networks]


@pytest.mark.parametrize(
    ("bias", "at_distance_03"),
    [("blob_magic3d", 4.0), (-1.5, -1.5)],  # 10 (1 − 0.3/0.5) = 4
)
def test_density_bias(bias, at_distance_03):
    geometry = volume(density_bias=bias, density_activation="none")
    torch.nn.init.zeros_(geometry.density_network.layers[2].weight)
    density = geometry.forward_density(torch.tensor([[0.0, 0.3, 0.0]]))
    torch.testing.assert_close(density, torch.tensor([[at_distance_03]]))


def test_forward_returns_density_and_features_of_any_batch_shape():
    geometry = rough(n_feature_dims=5)
    points = torch.rand(2, 7, 3) - 0.5
    output = geometry(points)
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    assert shapes == {"density": (2, 7, 1), "features": (2, 7, 5)}
    torch.testing.assert_close(output["density"], geometry.forward_density(points))
    torch.testing.assert_close(geometry.export(points)["features"], output["features"])


def test_analytic_normals_equal_finite_differences_and_point_outwards():
    torch.manual_seed(1)
    points = torch.rand(500, 3) * 1.2 - 0.6
    analytic = rough(normal_type="analytic")(points, output_normal=True)["normal"]
    numeric = rough(finite_difference_normal_eps=1e-3)(points, output_normal=True)["shading_normal"]
    # points whose finite difference crosses a cell's wall or a kink of the network may differ
    assert ((analytic * numeric).sum(dim=-1) > 0.999).float().mean() > 0.95
    blob = torch.nn.functional.normalize(points, dim=-1)
    normal = volume(normal_type="analytic")(0.4 * blob, output_normal=True)["normal"]
    assert (normal * blob).sum(dim=-1).min() > 0.99


def test_analytic_normals_without_gradients_and_their_caller():
    geometry = rough(normal_type="analytic")
    points = torch.rand(10, 3) - 0.5
    with torch.no_grad():
        output = geometry(points, output_normal=True)
    assert not any(value.requires_grad for value in output.values())
    assert not points.requires_grad
    torch.testing.assert_close(output["normal"], geometry(points, output_normal=True)["normal"].detach())


def test_normals_can_be_learned_from():
    # the slope of a loss on normals, against finite differences of the parameters
    geometry = rough(normal_type="analytic").double()
    points = torch.rand(40, 3, dtype=torch.float64) - 0.5
    target = torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64), dim=-1)

    def loss():
        return (geometry(points, output_normal=True)["normal"] * target).sum()

    parameters = [geometry.encoding.encoding.encoding.params, geometry.density_network.layers[2].weight]
    slopes = torch.autograd.grad(loss(), parameters)
    for parameter, slope in zip(parameters, slopes, strict=True):
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter += 1e-6 * direction
            ahead = loss()
            parameter -= 2e-6 * direction
            behind = loss()
            parameter += 1e-6 * direction
        torch.testing.assert_close((slope * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"normal_type": "pred"},
            ValueError,
            "finite_difference, analytic or null; the rest is threestudio's",
        ),
        ({"density_bias": "blob_dreamfusion"}, ValueError, "can be 'blob_magic3d' or a float; the rest is"),
        ({"radios": 1.0}, TypeError, "unknown key radios .*; allowed: .*radius"),
        ({"normal_type": None}, AttributeError, "normals were asked for, but normal_type is None"),
    ],
)
def test_errors_say_what_is_possible(settings, error, message):
    with pytest.raises(error, match=message):
        volume(**settings)(torch.zeros(4, 3), output_normal=True)
