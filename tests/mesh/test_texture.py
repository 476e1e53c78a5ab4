import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh import texture
from imagedream.mesh.texture import UnwrappedMesh, fill_gaps, rasterize_uv, texels, unwrap


@pytest.mark.parametrize("rays_per_call", [2**20, 1])
def test_uv_rasteriser_against_one_triangle(monkeypatch, rays_per_call):
    monkeypatch.setattr(texture, "_RAYS_PER_CALL", rays_per_call)
    # texel centres at (½, ½)/4 ...; the triangle u, v ≥ 0, u + v ≤ 1.1 covers those with column ≤ row (row 0 on top)
    uv = np.array([[0.0, 0.0], [1.1, 0.0], [0.0, 1.1]])
    face, weights = rasterize_uv(uv, np.array([[0, 1, 2]]), 4)
    row, column = np.mgrid[:4, :4]
    np.testing.assert_array_equal(face == 0, column <= row)
    u, v = (column + 0.5) / 4 / 1.1, (1 - (row + 0.5) / 4) / 1.1
    expected = np.stack([1 - u - v, u, v], axis=-1)
    np.testing.assert_allclose(weights[face == 0], expected[face == 0], atol=1e-6)
    assert (weights[face < 0] == 0).all()


def test_gaps_take_the_nearest_colour():
    picture = np.zeros((1, 6, 3), dtype=np.uint8)
    picture[0, 1], picture[0, 5] = 10, 200
    mask = np.array([[False, True, False, False, False, True]])
    filled = fill_gaps(picture, mask)[0, :, 0].tolist()
    assert filled in ([10, 10, 10, 10, 200, 200], [10, 10, 10, 200, 200, 200])


@pytest.fixture(scope="module")
def sphere():
    return trimesh.creation.icosphere(subdivisions=3, radius=0.4)


@pytest.fixture(scope="module")
def cut(sphere):
    return unwrap(sphere, 128)


def test_texels_lie_on_the_surface_and_their_picture_has_no_seams(cut):
    places = texels(cut, 128)
    assert places.mask.mean() > 0.4
    assert len(places.positions) == places.mask.sum()
    np.testing.assert_allclose(places.positions.norm(dim=-1), 0.4, atol=0.006)
    outward = torch.nn.functional.normalize(places.positions, dim=-1)
    assert (places.normals * outward).sum(-1).min() > 0.99
    values = torch.rand(len(places.positions), 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(places.picture(values)[places.mask], (values * 255).round().byte().numpy())
    # every texel that blends with one inside is coloured: a constant stays constant right across
    assert (places.picture(torch.full_like(values, 0.2)) == 51).all()


def test_texture_too_small_for_any_texel_is_an_error():
    eye, speck = np.eye(3, dtype=np.float32), np.full((3, 2), 0.1, dtype=np.float32)
    with pytest.raises(ValueError, match="no texel is covered"):
        texels(UnwrappedMesh(eye, eye, np.array([[0, 1, 2]]), speck, np.arange(3)), 4)


def test_uncut_mesh_is_the_one_that_was_unwrapped(sphere, cut):
    points, normals, faces = cut.uncut()
    assert len(points) == len(sphere.vertices) < len(cut.vertices)
    np.testing.assert_array_equal(points[faces], cut.vertices[cut.faces])
    np.testing.assert_array_equal(normals[faces], cut.normals[cut.faces])
    assert trimesh.Trimesh(points, faces, process=False).is_watertight
