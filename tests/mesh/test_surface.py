import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh.field import DensityGrid, sample_box
from imagedream.mesh.isosurface import sample_density
from imagedream.mesh.surface import EmptyFieldError, check_solid, clean_surface, close_gaps, extract_surface
from imagedream.mesh.texture import unwrap
from tests.mesh.fields import ball


@pytest.fixture(scope="module")
def sphere():
    return extract_surface(sample_density(ball(0.4), 64, radius=1.0), 50.0)


def test_surfaces_are_closed_and_have_the_analytic_size(sphere):
    assert sphere.is_watertight
    # a polyhedron inscribed in the sphere: a little less than 4/3 π r³
    assert sphere.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(sphere.vertices, axis=1), 0.4, atol=0.005)
    leaves_the_box = extract_surface(sample_density(ball(1.2), 32, radius=1.0), 50.0)
    assert leaves_the_box.is_watertight
    assert leaves_the_box.volume > 0
    with pytest.raises(EmptyFieldError, match=r"level 200: densities lie between 0 and 1"):
        extract_surface(sample_density(ball(0.4), 16, radius=1.0), 200.0)


def test_floating_pieces_and_cavities_are_removed():
    def field(points):
        shell = ball(0.4)(points) - ball(0.2)(points)
        return shell + ball(0.05, centre=(0.0, 0.0, 0.6))(points) + ball(0.04, centre=(0.6, 0.0, 0.0))(points)

    grid = sample_box(field, torch.full((3,), -0.7), torch.full((3,), 0.7), 96)
    surface, removed = clean_surface(extract_surface(grid, 50.0), min_piece=0.02)
    assert removed == 3
    assert surface.body_count == 1
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    both, _ = clean_surface(extract_surface(grid, 50.0), min_piece=0.005)
    assert both.body_count == 3


def test_simplification_keeps_shape_and_reaches_its_target(sphere):
    before = sphere.vertices.copy()
    light, _ = clean_surface(sphere, smoothing=5, target_faces=1000)
    assert len(light.faces) <= 1000
    assert light.is_watertight
    assert light.volume == pytest.approx(sphere.volume, rel=0.02)
    np.testing.assert_array_equal(sphere.vertices, before)


def slab_with_tunnel(width):
    """12 x 12 x 12 solid samples in air, with a tunnel of width x width samples through the middle."""
    density = torch.zeros(20, 20, 20)
    density[4:16, 4:16, 4:16] = 10.0
    low = 10 - width // 2
    density[low : low + width, low : low + width] = 0.0
    return DensityGrid(density, torch.zeros(3), 0.1)


@pytest.mark.parametrize(("width", "cells", "tunnels"), [(2, 0, 1), (2, 1, 0), (4, 1, 1), (4, 2, 0)])
def test_narrow_tunnels_are_closed_and_wide_ones_kept(width, cells, tunnels):
    assert check_solid(extract_surface(close_gaps(slab_with_tunnel(width), cells), 5.0)).tunnels == tunnels


def test_closing_leaves_everything_else_as_it_was():
    at_the_edge = DensityGrid(torch.full((5, 5, 5), 10.0), torch.zeros(3), 0.1)
    for grid, cells in ((slab_with_tunnel(4), 1), (at_the_edge, 2)):
        torch.testing.assert_close(close_gaps(grid, cells).density, grid.density)


def test_manifold_judges_what_is_solid():
    cube, ring = trimesh.creation.box(), trimesh.creation.torus(0.4, 0.1)
    two = trimesh.util.concatenate([cube, cube.copy().apply_translation([3, 0, 0])])
    lidless = trimesh.Trimesh(cube.vertices, cube.faces[2:])
    cut = unwrap(trimesh.creation.icosphere(subdivisions=2), 128)
    assert len(cut.vertices) > 162
    seamed = trimesh.Trimesh(cut.vertices, cut.faces, process=False)  # seams of a texture are no holes
    for mesh, watertight, verdict, pieces, tunnels, volume in (
        (cube, True, "NoError", 1, 0, 1.0),
        (ring, True, "NoError", 1, 1, ring.volume),
        (two, True, "NoError", 2, 0, 2.0),
        (lidless, False, "NotManifold", 1, 0, 0.0),
        (seamed, True, "NoError", 1, 0, seamed.volume),
    ):
        solid = check_solid(mesh)
        assert (solid.watertight, solid.verdict) == (watertight, verdict)
        assert (solid.pieces, solid.tunnels, solid.volume) == (pieces, tunnels, pytest.approx(volume))
