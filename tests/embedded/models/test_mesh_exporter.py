import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from threestudio.models.geometry.implicit_volume import ImplicitVolume
from threestudio.models.rasterize import rasterize_uv


def test_rasterizing_a_triangle_by_hand():
    # the lower left half of a 4×4 texture; texel centres at 1/8, 3/8, 5/8, 7/8
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    face, weights = rasterize_uv(uv, torch.tensor([[0, 1, 2]]), 4)
    expected = torch.tensor([[0, 0, 0, 0], [0, 0, 0, -1], [0, 0, -1, -1], [0, -1, -1, -1]])
    assert torch.equal(face, expected)
    torch.testing.assert_close(weights[0, 2], torch.tensor([0.25, 0.625, 0.125]))  # row is v, column is u
    assert (weights[face < 0] == 0).all()
    flipped, _ = rasterize_uv(uv, torch.tensor([[0, 2, 1]]), 4)
    assert torch.equal(flipped, expected)


def test_rasterizing_a_fan_leaves_no_gaps_and_interpolates():
    angle = torch.linspace(0, 2 * torch.pi, 14)[:-1]
    ring = 0.5 + 0.45 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    uv = torch.cat([torch.tensor([[0.5, 0.5]]), ring])
    faces = torch.tensor([[0, 1 + k, 1 + (k + 1) % 13] for k in range(13)])
    face, weights = rasterize_uv(uv, faces, 64)
    row, column = (face >= 0).nonzero(as_tuple=True)
    position = (uv[faces[face[row, column]]] * weights[row, column][..., None]).sum(dim=1)
    torch.testing.assert_close(position, torch.stack([column + 0.5, row + 0.5], dim=-1) / 64)
    area = 13 / 2 * 0.45**2 * torch.sin(torch.tensor(2 * torch.pi / 13))
    assert abs((face >= 0).float().mean() - area) < 0.01


def test_degenerate_and_outside_triangles_draw_nothing():
    uv = torch.tensor([[0.2, 0.2], [0.8, 0.8], [0.5, 0.5], [1.5, 1.5], [1.9, 1.5], [1.5, 1.9]])
    face, _ = rasterize_uv(uv, torch.tensor([[0, 1, 2], [3, 4, 5]]), 8)
    assert (face == -1).all()


@pytest.fixture
def parts():
    """A ball of radius 0.3 whose albedo is its position, as far as a network that does nothing can tell: grey."""
    geometry = ImplicitVolume(
        OmegaConf.create(
            {
                "pos_encoding_config": {"otype": "Identity"},
                "density_activation": "none",
                "isosurface_method": "mc-cpu",
                "isosurface_resolution": 16,
                "isosurface_threshold": 4.0,
                "mlp_network_config": {"otype": "VanillaMLP", "n_neurons": 6, "n_hidden_layers": 1},
            }
        )
    )
    with torch.no_grad():
        geometry.density_network.layers[2].weight.zero_()
        # features = positions in [0, 1]
        geometry.feature_network.layers[0].weight.copy_(torch.cat([torch.eye(3), torch.zeros(3, 3)]))
        geometry.feature_network.layers[2].weight.copy_(torch.cat([torch.eye(3), torch.zeros(3, 3)], dim=1))
    material = threestudio.find("no-material")({"color_activation": "none"})
    return {
        "geometry": geometry,
        "material": material,
        "background": threestudio.find("solid-color-background")({}),
    }


def test_textures_show_the_surface_where_it_is(parts):
    exporter = threestudio.find("mesh-exporter")(OmegaConf.create({"texture_size": 128}), **parts)
    (output,) = exporter()
    assert (output.save_name, output.save_type) == ("model.obj", "obj")
    mesh, texture = output.params["mesh"], output.params["map_Kd"]
    assert texture.shape == (128, 128, 3)
    # look each corner of each face up in the texture: its colour is its position
    column, row = (mesh.v_tex[mesh.t_tex_idx] * 128 - 0.5).round().clamp(0, 127).long().unbind(dim=-1)
    expected = (mesh.v_pos[mesh.t_pos_idx] + 1) / 2
    assert (texture[row, column] - expected).abs().mean() < 0.01
    assert texture.min() > 0.3  # texels between the charts are filled from their neighbours


def test_vertex_colours(parts):
    exporter = threestudio.find("mesh-exporter")(OmegaConf.create({"fmt": "obj", "save_uv": False}), **parts)
    (output,) = exporter()
    mesh = output.params["mesh"]
    torch.testing.assert_close(mesh.v_rgb, (mesh.v_pos + 1) / 2)
    assert output.params["save_vertex_color"]
    assert not output.params["save_mat"]


def test_files(parts, tmp_path):
    saving = pytest.importorskip("threestudio.utils.saving")
    saver = saving.SaverMixin()
    saver.set_save_dir(str(tmp_path))
    (output,) = threestudio.find("mesh-exporter")(OmegaConf.create({"texture_size": 64}), **parts)()
    getattr(saver, f"save_{output.save_type}")(f"it0-export/{output.save_name}", **output.params)
    names = {path.name for path in (tmp_path / "it0-export").iterdir()}
    assert names == {"model.obj", "model.mtl", "texture_kd.jpg"}


def test_errors_and_the_dummy(parts):
    with pytest.raises(ValueError, match="obj-mtl"):
        threestudio.find("mesh-exporter")(OmegaConf.create({"fmt": "glb"}), **parts)()
    with pytest.raises(ValueError, match="save_uv"):
        threestudio.find("mesh-exporter")(OmegaConf.create({"save_uv": False}), **parts)()
    assert threestudio.find("dummy-exporter")({}, **parts)() == []
