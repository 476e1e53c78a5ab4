import dataclasses

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.models.geometry.base import contract_to_unisphere
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


def test_registered_with_the_hosts_fields():
    assert threestudio.find("implicit-volume") is ImplicitVolume
    names = {field.name for field in dataclasses.fields(ImplicitVolume.Config)}
    assert names == {
        "weights", "radius", "isosurface", "isosurface_method", "isosurface_resolution", "isosurface_threshold",
        "isosurface_chunk", "isosurface_coarse_to_fine", "isosurface_deformable_grid", "isosurface_remove_outliers",
        "isosurface_outlier_n_faces_threshold", "n_input_dims", "n_feature_dims", "density_activation", "density_bias",
        "density_blob_scale", "density_blob_std", "pos_encoding_config", "mlp_network_config", "normal_type",
        "finite_difference_normal_eps", "anneal_density_blob_std_config",
    }  # fmt: skip
    with pytest.raises(TypeError, match="radios"):
        ImplicitVolume(OmegaConf.create({"radios": 1.0}))


@pytest.mark.parametrize(
    ("bias", "at_distance_03"),
    # 10 (1 − 0.3/0.5) = 4;  10 exp(−0.09/0.5) = 8.3527
    [("blob_magic3d", 4.0), ("blob_dreamfusion", 8.35270), (-1.5, -1.5)],
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
    assert {key: tuple(value.shape) for key, value in output.items()} == {
        "density": (2, 7, 1),
        "features": (2, 7, 5),
    }
    torch.testing.assert_close(output["density"], geometry.forward_density(points))
    torch.testing.assert_close(geometry.export(points)["features"], output["features"])
    assert "features" not in volume(n_feature_dims=0)(points)


def test_normals_point_out_of_a_blob():
    points = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1) * 0.4
    for kind in ("analytic", "finite_difference", "finite_difference_laplacian"):
        normal = volume(normal_type=kind, density_bias="blob_dreamfusion")(points, output_normal=True)[
            "normal"
        ]
        assert (normal * points / 0.4).sum(dim=-1).min() > 0.99, kind
        torch.testing.assert_close(normal.norm(dim=-1), torch.ones(50))


def test_analytic_normals_equal_finite_differences():
    torch.manual_seed(1)
    points = torch.rand(500, 3) * 1.2 - 0.6
    analytic = rough(normal_type="analytic")
    central = rough(normal_type="finite_difference_laplacian", finite_difference_normal_eps=1e-3)
    cosine = (analytic(points, True)["normal"] * central(points, True)["normal"]).sum(dim=-1)
    # points whose finite difference crosses a cell's wall or a kink of the network may differ
    assert (cosine > 0.999).float().mean() > 0.95


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


def test_predicted_normals_and_missing_ones():
    assert rough(normal_type="pred")(torch.zeros(4, 3), output_normal=True)["shading_normal"].shape == (4, 3)
    with pytest.raises(AttributeError, match="analytic"):
        volume(normal_type=None)(torch.zeros(4, 3), output_normal=True)
    with pytest.raises(ValueError, match="laplacian"):
        volume(normal_type="numeric")
    with pytest.raises(ValueError, match="blob_magic3d"):
        volume(density_bias="blob")


def test_isosurface_of_a_blob_is_a_ball():
    trimesh = pytest.importorskip("trimesh")
    geometry = volume(
        density_activation="none",
        isosurface_method="mc-cpu",
        isosurface_resolution=32,
        isosurface_threshold=4.0,
    )
    torch.nn.init.zeros_(geometry.density_network.layers[2].weight)
    for coarse_to_fine, tolerance in ((False, 0.03), (True, 0.005)):
        geometry.cfg.isosurface_coarse_to_fine = coarse_to_fine
        mesh = geometry.isosurface()
        ball = trimesh.Trimesh(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), process=False)
        assert ball.is_watertight
        assert ball.volume == pytest.approx(
            4 / 3 * torch.pi * 0.3**3, rel=tolerance
        )  # positive: faces look outwards
        torch.testing.assert_close(
            mesh.v_pos.norm(dim=-1), torch.full((len(mesh.v_pos),), 0.3), atol=0.005, rtol=0
        )
        assert ((mesh.v_nrm * mesh.v_pos).sum(dim=-1) > 0).all()


def test_isosurface_threshold_can_be_the_mean_of_what_is_there():
    geometry = volume(isosurface_method="mc-cpu", isosurface_resolution=24, isosurface_threshold="auto")
    assert len(geometry.isosurface().t_pos_idx) > 100


def test_isosurface_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="values lie between"):
        volume(isosurface_method="mc-cpu", isosurface_resolution=8, isosurface_threshold=1e6).isosurface()
    with pytest.raises(ValueError, match="auto"):
        volume(isosurface_method="mc-cpu", isosurface_resolution=8, isosurface_threshold="mean").isosurface()
    with pytest.raises(NotImplementedError):
        volume(isosurface=False).isosurface()


def test_create_from_copies_the_networks():
    source = rough()
    copy = ImplicitVolume.create_from(source, OmegaConf.create(source.cfg))
    points = torch.rand(10, 3) - 0.5
    for key, value in source(points).items():
        assert torch.equal(copy(points)[key], value)


def test_blob_can_shrink():
    anneal = {"min_anneal_step": 100, "max_anneal_step": 200, "start_val": 0.5, "end_val": 0.3}
    geometry = volume(anneal_density_blob_std_config=anneal)
    for step, std in ((0, 0.5), (150, 0.4), (1000, 0.3)):
        geometry.update_step(0, step)
        assert geometry.density_blob_std == pytest.approx(std)


def test_contraction():
    bbox = torch.tensor([[-2.0] * 3, [2.0] * 3])
    points = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1e6, 0.0, 0.0]])
    torch.testing.assert_close(contract_to_unisphere(points[:2], bbox)[:, 0], torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(
        contract_to_unisphere(points, bbox, unbounded=True)[:, 0], torch.tensor([0.5, 0.75, 1.0])
    )
