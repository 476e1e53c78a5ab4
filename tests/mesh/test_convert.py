import numpy as np
import pytest
import torch
import trimesh

from imagedream import mesh as meshing
from tests.mesh.fields import ball, grey, plain


def test_statistics_of_a_sharp_field(meshed_arrow):
    statistics = meshed_arrow.statistics
    assert statistics.faces == len(meshed_arrow.model.mesh.faces) <= statistics.target_faces == 4000
    assert statistics.vertices == len(np.unique(meshed_arrow.model.mesh.vertices, axis=0))
    assert statistics.pieces_removed == 0
    assert statistics.inpainted < 0.05
    assert meshed_arrow.choice.level == statistics.level
    assert meshed_arrow.choice.iou == max(meshed_arrow.choice.tried.values())
    assert meshed_arrow.views.mean_opacity > 0.95


def test_given_level_is_used_and_nothing_else_tried():
    settings = meshing.MeshSettings(
        resolution=32, texture_size=64, target_faces=500, level=30.0, bake_views=8, normal_map=False
    )
    result = meshing.mesh_field(ball(0.3, sharpness=40.0), plain(0.1, 0.2, 0.3), settings)
    assert result.statistics.level == 30.0
    assert result.choice is None
    assert result.thumbnails is None
    assert result.model.normal_map is None
    assert (np.abs(result.model.base_colour.astype(int) - [26, 51, 77]) <= 1).all()
    # 100 · sigmoid((0.3 − r) · 40) = 30 at r = 0.3 + ln(7 / 3) / 40
    radius = np.linalg.norm(result.model.mesh.vertices, axis=1)
    assert radius.mean() == pytest.approx(0.3 + np.log(7 / 3) / 40, abs=0.004)


@pytest.mark.parametrize("inside_out", [False, True])
def test_surface_of_a_field_that_has_one(inside_out):
    fine = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    if inside_out:
        fine.invert()

    def halves(points):
        return torch.where(points[:, :1] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))

    result = meshing.mesh_surface(fine, halves, meshing.MeshSettings(target_faces=1000, texture_size=128))
    statistics = result.statistics
    assert (statistics.level, statistics.inpainted) == (None, 0.0)
    assert 500 < statistics.faces <= 1000
    points, _, faces = result.model.mesh.uncut()
    light = trimesh.Trimesh(points, faces)
    assert light.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert meshing.check_solid(light).watertight
    # the normal map is nearly flat: the vertex normals of a sphere need little help; 128 and 255 stand for 0 and 1
    bumps = result.model.normal_map.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(bumps, [128, 128, 254], atol=3)


def test_colours_of_a_surface_come_back(tmp_path):
    fine = trimesh.creation.icosphere(subdivisions=4, radius=0.4)

    def halves(points):
        return torch.where(points[:, :1] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))

    result = meshing.mesh_surface(fine, halves, meshing.MeshSettings(target_faces=0, texture_size=256))
    _, record = meshing.export(result, tmp_path)
    assert record["faces"] == len(fine.faces)
    assert record["files"][0]["psnr_db"] > 28
    assert record["files"][0]["silhouette_iou"] > 0.99
    assert record["warnings"] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 2),
        ("texture_size", 1),
        ("bake_views", 2),
        ("radius", 0.0),
        ("level", -1.0),
        ("target_faces", 2),
        ("min_piece", 2.0),
        ("close_holes", -1),
        ("close_holes", 100),
    ],
)
def test_settings_outside_their_range_are_errors(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        meshing.MeshSettings(**{field: value})


def test_constant_colour_reaches_every_texel():
    settings = meshing.MeshSettings(resolution=32, texture_size=64, target_faces=500, bake_views=4)
    result = meshing.mesh_field(ball(0.3), grey, settings)
    assert (np.abs(result.model.base_colour.astype(int) - 128) <= 1).all()
