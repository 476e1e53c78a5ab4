import numpy as np
import pytest
import torch
import trimesh

from imagedream import mesh as meshing


def test_uv_rasteriser_against_one_triangle():
    # texel centres at (½, ½)/4 ...; the triangle u, v ≥ 0, u + v ≤ 1 covers those with column ≤ row (row 0 on top)
    uv = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    face, weights = meshing.rasterize_uv(uv, np.array([[0, 1, 2]]), 4)
    row, column = np.mgrid[:4, :4]
    np.testing.assert_array_equal(face == 0, column <= row)
    u, v = (column + 0.5) / 4, 1 - (row + 0.5) / 4
    expected = np.stack([1 - u - v, u, v], axis=-1)
    np.testing.assert_allclose(weights[face == 0], expected[face == 0], atol=1e-6)
    assert (weights[face < 0] == 0).all()


def test_uv_rasteriser_does_not_depend_on_chunks():
    generator = np.random.default_rng(0)
    uv = generator.random((60, 2)).astype(np.float32)
    faces = np.arange(60).reshape(20, 3)
    for whole, parts in zip(
        meshing.rasterize_uv(uv, faces, 32), meshing.rasterize_uv(uv, faces, 32, chunk=50), strict=True
    ):
        np.testing.assert_array_equal(whole, parts)


def test_gaps_take_the_nearest_colour():
    texture = np.zeros((1, 6, 3), dtype=np.uint8)
    texture[0, 1], texture[0, 5] = 10, 200
    mask = np.array([[False, True, False, False, False, True]])
    assert meshing.fill_gaps(texture, mask)[0, :, 0].tolist() in (
        [10, 10, 10, 10, 200, 200],
        [10, 10, 10, 200, 200, 200],
    )


@pytest.fixture(scope="module")
def sphere():
    return trimesh.creation.icosphere(subdivisions=3, radius=0.4)


def test_texels_lie_on_the_surface(sphere):
    places = meshing.texels(meshing.unwrap(sphere, 128), 128)
    assert places.mask.mean() > 0.4
    assert len(places.positions) == places.mask.sum()
    np.testing.assert_allclose(places.positions.norm(dim=-1), 0.4, atol=0.006)
    outward = torch.nn.functional.normalize(places.positions, dim=-1)
    assert (places.normals * outward).sum(-1).min() > 0.99


def test_picture_keeps_values_and_spreads_them_across_the_seams(sphere):
    places = meshing.texels(meshing.unwrap(sphere, 128), 128)
    values = torch.rand(len(places.positions), 3, generator=torch.Generator().manual_seed(0))
    picture = places.picture(values)
    np.testing.assert_array_equal(picture[places.mask], (values * 255).round().byte().numpy())
    # every texel that blends with one inside is coloured: a constant stays constant right across
    constant = places.picture(torch.full_like(values, 0.2))
    assert (constant == 51).all()


def test_texture_too_small_for_any_texel_is_an_error():
    speck = meshing.UnwrappedMesh(
        np.eye(3, dtype=np.float32),
        np.eye(3, dtype=np.float32),
        np.array([[0, 1, 2]]),
        np.full((3, 2), 0.1, dtype=np.float32),
        np.arange(3),
    )
    with pytest.raises(ValueError, match="no texel is covered"):
        meshing.texels(speck, 4)


def test_uncut_mesh_is_the_one_that_was_unwrapped(sphere):
    cut = meshing.unwrap(sphere, 128)
    points, normals, faces = cut.uncut()
    assert len(points) == len(sphere.vertices) < len(cut.vertices)
    np.testing.assert_array_equal(points[faces], cut.vertices[cut.faces])
    np.testing.assert_array_equal(normals[faces], cut.normals[cut.faces])
    assert trimesh.Trimesh(points, faces, process=False).is_watertight
