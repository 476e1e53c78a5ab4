"""Normal maps: tangent frames by hand, and maps read back as a viewer reads them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh.normal_map import normal_map, tangents
from imagedream.mesh.texture import UnwrappedMesh, texels, unwrap


def square(flip_u=False, flip_v=False):
    """A unit square in the xy plane that looks up (+z); u grows along +x and v along +y, unless flipped."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    uv = corners.copy()
    uv[:, 0] = 1 - uv[:, 0] if flip_u else uv[:, 0]
    uv[:, 1] = 1 - uv[:, 1] if flip_v else uv[:, 1]
    vertices = np.concatenate([corners, np.zeros((4, 1), np.float32)], axis=1)
    normals = np.tile(np.array([[0, 0, 1]], np.float32), (4, 1))
    return UnwrappedMesh(vertices, normals, np.array([[0, 1, 2], [0, 2, 3]]), uv, np.arange(4))


def test_tangents_of_a_square():
    for flips, expected in {
        (False, False): [1, 0, 0, 1],  # z × x = y = along v
        (True, False): [-1, 0, 0, -1],  # z × −x = −y, v grows along +y
        (False, True): [1, 0, 0, -1],
        (True, True): [-1, 0, 0, 1],
    }.items():
        np.testing.assert_allclose(tangents(square(*flips)), [expected] * 4, atol=1e-6)
    # triangles without area in the texture get some tangent in the surface
    frames = tangents(replace(square(), uv=np.full((4, 2), 0.5, np.float32)))
    np.testing.assert_allclose(np.linalg.norm(frames[:, :3], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(frames[:, 2], 0, atol=1e-6)
    assert set(np.abs(frames[:, 3])) == {1.0}


@pytest.mark.parametrize("flip_u", [False, True])
def test_a_tilt_towards_x_and_y_is_written_along_u_and_v(flip_u):
    mesh = square(flip_u)
    places = texels(mesh, 8)
    tilted = torch.tensor([0.6, 0.0, 0.8]).expand(len(places.positions), 3)
    expected = [0.2 if flip_u else 0.8, 0.5, 0.9]
    values = normal_map(mesh, places, tilted)
    np.testing.assert_allclose(values, np.broadcast_to(expected, values.shape), atol=1e-6)
    values = normal_map(mesh, places, tilted[:, [1, 0, 2]])
    np.testing.assert_allclose(values, np.broadcast_to([0.5, 0.8, 0.9], values.shape), atol=1e-6)


def test_steep_inward_and_missing_normals():
    mesh = square()
    places = texels(mesh, 8)
    count = len(places.positions)

    def first(*normal):
        values = normal_map(mesh, places, torch.tensor(normal).expand(count, 3))
        return (values[0] * 2 - 1).tolist()

    # bent back to 60° from the mesh's normal: cosine ½
    assert first(0.995, 0.0, 0.0998) == pytest.approx([3**0.5 / 2, 0, 0.5], abs=1e-4)
    assert first(0.6, 0.0, -0.8) == pytest.approx([0, 0, 1], abs=1e-6)
    assert first(0.0, 0.0, 0.0) == pytest.approx([0, 0, 1], abs=1e-6)


def test_map_of_a_coarse_ball_makes_it_round():
    """Decoded as the glTF specification says: normal = T x + B y + N z with B = w N × T."""
    coarse = trimesh.creation.icosphere(subdivisions=1, radius=0.4)
    mesh = unwrap(coarse, 64)
    places = texels(mesh, 64)
    true = torch.nn.functional.normalize(places.positions, dim=-1)
    # 8-bit, as in the file
    local = torch.from_numpy(places.picture(normal_map(mesh, places, true))[places.mask] / 255) * 2 - 1
    frame = places.interpolate(tangents(mesh))
    tangent = torch.nn.functional.normalize(frame[:, :3], dim=-1)
    bitangent = torch.nn.functional.normalize(
        frame[:, 3:] * torch.linalg.cross(places.normals, frame[:, :3]), dim=-1
    )
    decoded = local[:, :1] * tangent + local[:, 1:2] * bitangent + local[:, 2:] * places.normals
    decoded = torch.nn.functional.normalize(decoded.float(), dim=-1)
    angle_deg = torch.rad2deg((decoded * true).sum(-1).clamp(-1, 1).acos())
    assert angle_deg.median() < 1.0
    assert angle_deg.max() < 6.0
