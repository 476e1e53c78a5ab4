import numpy as np
import pytest
import torch
import trimesh

from threestudio.models.isosurface import MarchingCubeCPUHelper, isosurface_helper
from threestudio.models.mesh import Mesh


def _mesh(shape):
    return Mesh(
        torch.from_numpy(np.array(shape.vertices)).float(), torch.from_numpy(np.array(shape.faces)).long()
    )


def test_normals_of_a_ball_are_radial_and_unit():
    mesh = _mesh(trimesh.creation.icosphere(3))
    torch.testing.assert_close(mesh.v_nrm.norm(dim=-1), torch.ones(len(mesh.v_pos)))
    assert (mesh.v_nrm * mesh.v_pos).sum(dim=-1).min() > 0.999


def test_normals_of_exactly_three_faces_and_of_degenerate_ones():
    # three walls of a cube's corner, and a vertex that has no face
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [5, 5, 5]])
    mesh = Mesh(points, torch.tensor([[0, 2, 1], [0, 3, 2], [0, 1, 3]]))
    torch.testing.assert_close(mesh.v_nrm[0], torch.full((3,), -(3**-0.5)))
    torch.testing.assert_close(mesh.v_nrm[4], torch.tensor([0.0, 0.0, 1.0]))


def test_edges_are_each_there_once():
    mesh = _mesh(trimesh.creation.icosphere(2))
    assert len(mesh.edges) == len(mesh.v_pos) + len(mesh.t_pos_idx) - 2  # Euler
    assert (mesh.edges[:, 0] < mesh.edges[:, 1]).all()


@pytest.mark.parametrize(("threshold", "pieces"), [(0.5, 1), (0.01, 2), (100, 1), (1, 2)])
def test_small_components_are_removed(threshold, pieces):
    large, small = trimesh.creation.icosphere(2), trimesh.creation.box(extents=[0.1] * 3)
    mesh = _mesh(trimesh.util.concatenate([small.apply_translation([3, 0, 0]), large]))
    mesh.add_extra("bbox", 7)
    kept = mesh.remove_outlier(threshold)
    assert kept.extras == {"bbox": 7}
    assert len(kept.t_pos_idx) == 320 + (12 if pieces == 2 else 0)
    result = trimesh.Trimesh(kept.v_pos.numpy(), kept.t_pos_idx.numpy(), process=False)
    assert result.is_watertight
    assert result.volume == pytest.approx(large.volume + (0.001 if pieces == 2 else 0), rel=1e-4)


def test_differentiable_meshes_keep_their_outliers():
    mesh = _mesh(trimesh.creation.box())
    mesh.v_pos.requires_grad_()
    assert mesh.remove_outlier(1000) is mesh


def test_unwrapping_covers_every_face_once():
    mesh = _mesh(trimesh.creation.box())
    mesh.unwrap_uv(pack_options={"padding": 2})
    assert mesh.t_tex_idx.shape == mesh.t_pos_idx.shape
    assert (mesh.v_tex >= 0).all()
    assert (mesh.v_tex <= 1).all()
    a, b, c = mesh.v_tex[mesh.t_tex_idx].unbind(dim=1)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    torch.testing.assert_close(
        area, area.mean().expand(12), rtol=0.02, atol=0
    )  # a box: all triangles are equal
    with pytest.raises(ValueError, match="paddin"):
        mesh.unwrap_uv(pack_options={"paddin": 2})


def test_tangents_follow_u():
    mesh = _mesh(trimesh.creation.box())
    assert (mesh.v_tng * mesh.v_nrm).sum(dim=-1).abs().max() < 1e-5
    torch.testing.assert_close(mesh.v_tng.norm(dim=-1), torch.ones(8))


def test_smoothness_measures():
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    assert flat.normal_consistency() == 0
    # each corner of a unit right triangle against the middle of the other two: √½, √(5)/2, √(5)/2
    torch.testing.assert_close(flat.laplacian(), torch.tensor((0.5**0.5 + 5**0.5) / 3))


def test_vertex_colors_are_counted():
    mesh = _mesh(trimesh.creation.box())
    assert mesh.v_rgb is None
    mesh.set_vertex_color(torch.zeros(8, 3))
    assert mesh.v_rgb.shape == (8, 3)
    with pytest.raises(ValueError, match="7 vertex colours for 8"):
        mesh.set_vertex_color(torch.zeros(7, 3))


def test_marching_cubes_of_an_ellipsoid_keeps_axes_and_winding():
    helper = MarchingCubeCPUHelper(40)
    grid = helper.grid_vertices
    assert grid.shape == (64000, 3)
    axes = torch.tensor([0.4, 0.3, 0.2])
    level = ((grid - 0.5) / axes).norm(dim=-1, keepdim=True) - 1  # positive outside
    mesh = helper(level)
    torch.testing.assert_close(mesh.v_pos.amax(dim=0), 0.5 + axes, atol=0.01, rtol=0)
    torch.testing.assert_close(mesh.v_pos.amin(dim=0), 0.5 - axes, atol=0.01, rtol=0)
    result = trimesh.Trimesh(mesh.v_pos.numpy(), mesh.t_pos_idx.numpy(), process=False)
    assert result.volume == pytest.approx(4 / 3 * np.pi * 0.024, rel=0.02)
    assert len(helper(level.abs() + 1).t_pos_idx) == 0
    with pytest.raises(ValueError, match="mc-cpu"):
        isosurface_helper("flexicubes", 8)
