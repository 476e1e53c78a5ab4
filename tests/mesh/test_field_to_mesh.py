import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh import EmptyFieldError, MeshSettings, export, mesh_field, mesh_surface
from imagedream.mesh.surface import check_solid
from tests.mesh.fields import ball, grey, plain

SMALL = {"resolution": 32, "texture_size": 64, "target_faces": 500, "bake_views": 8}


def halves(points):
    return torch.where(points[:, :1] > 0, torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0]))


def test_what_is_known_of_a_sharp_field(meshed_arrow):
    assert len(meshed_arrow.model.mesh.faces) <= meshed_arrow.settings.target_faces == 4000
    assert meshed_arrow.pieces_removed == 0
    assert meshed_arrow.inpainted < 0.05
    assert meshed_arrow.tried[meshed_arrow.level] == max(meshed_arrow.tried.values())
    assert meshed_arrow.views.mean_opacity > 0.95


def test_given_level_is_used_and_nothing_else_tried():
    settings = MeshSettings(**SMALL, isosurface_threshold=30.0, normal_map=False)
    result = mesh_field(ball(0.3, sharpness=40.0), plain(0.1, 0.2, 0.3), settings=settings)
    assert (result.level, result.tried, result.thumbnails) == (30.0, {}, None)
    assert result.model.normal_map is None
    # the colour reaches every texel
    assert (np.abs(result.model.base_colour.astype(int) - [26, 51, 77]) <= 1).all()
    # 100 · sigmoid((0.3 − r) · 40) = 30 at r = 0.3 + ln(7 / 3) / 40
    radius = np.linalg.norm(result.model.mesh.vertices, axis=1)
    assert radius.mean() == pytest.approx(0.3 + np.log(7 / 3) / 40, abs=0.004)


@pytest.mark.parametrize("inside_out", [False, True])
def test_surface_of_a_field_that_has_one(inside_out):
    fine = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    if inside_out:
        fine.invert()
    result = mesh_surface(fine, halves, MeshSettings(target_faces=1000, texture_size=128))
    assert (result.level, result.inpainted) == (None, 0.0)
    points, _, faces = result.model.mesh.uncut()
    assert 500 < len(faces) <= 1000
    light = trimesh.Trimesh(points, faces)
    assert light.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert check_solid(light).watertight
    # the normal map is nearly flat: the vertex normals of a sphere need little help; 128 and 255 stand for 0 and 1
    bumps = result.model.normal_map.reshape(-1, 3).mean(0)
    np.testing.assert_allclose(bumps, [128, 128, 254], atol=3)


def test_colours_of_a_surface_come_back(tmp_path):
    fine = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    _, record = export(mesh_surface(fine, halves, MeshSettings(target_faces=0, texture_size=256)), tmp_path)
    assert record["faces"] == len(fine.faces)
    assert record["files"][0]["psnr_db"] > 28
    assert record["files"][0]["silhouette_iou"] > 0.99
    assert record["warnings"] == []


def test_empty_field_says_how_empty():
    with pytest.raises(EmptyFieldError, match=r"largest density is 0\.1"):
        mesh_field(lambda points: torch.full((len(points),), 0.1), grey)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("resolution", 2), ("texture_size", 1), ("bake_views", 2), ("smoothing", -1), ("target_faces", 2)],
        *[("min_piece", 2.0), ("close_holes", -1), ("close_holes", 100)],
        *[("isosurface_threshold", -1.0), ("isosurface_threshold", "high")],
    ],
)
def test_settings_outside_their_range_are_errors(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}, must"):
        MeshSettings(**{name: value})
