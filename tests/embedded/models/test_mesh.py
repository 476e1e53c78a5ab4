import pytest
import torch
import trimesh

from threestudio.models.mesh import Mesh


def test_normals_and_edges_of_a_ball():
    ball = trimesh.creation.icosphere(3)
    mesh = Mesh(torch.tensor(ball.vertices).float(), torch.tensor(ball.faces), name="ball")
    torch.testing.assert_close(mesh.v_nrm.norm(dim=-1), torch.ones(len(mesh.v_pos)))
    assert (mesh.v_nrm * mesh.v_pos).sum(dim=-1).min() > 0.999
    assert len(mesh.edges) == len(mesh.v_pos) + len(mesh.t_pos_idx) - 2  # Euler
    assert (mesh.edges[:, 0] < mesh.edges[:, 1]).all()
    mesh.add_extra("bbox", 7)
    assert mesh.extras == {"name": "ball", "bbox": 7}
    assert not mesh.requires_grad


def test_normals_of_exactly_three_faces_and_of_degenerate_ones():
    # three walls of a cube's corner, and a vertex that has no face
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [5, 5, 5]])
    mesh = Mesh(points, torch.tensor([[0, 2, 1], [0, 3, 2], [0, 1, 3]]))
    torch.testing.assert_close(mesh.v_nrm[0], torch.full((3,), -(3**-0.5)))
    torch.testing.assert_close(mesh.v_nrm[4], torch.tensor([0.0, 0.0, 1.0]))


def test_smoothness_measures():
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]))
    assert flat.normal_consistency() == 0
    # each corner of a unit right triangle against the middle of the other two: √½, √(5)/2, √(5)/2
    assert flat.laplacian().item() == pytest.approx((0.5**0.5 + 5**0.5) / 3)
