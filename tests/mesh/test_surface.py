import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh.field import DensityGrid, sample_box
from imagedream.mesh.isosurface import sample_density
from imagedream.mesh.surface import EmptyFieldError, check_solid, clean_surface, close_gaps, extract_surface
from imagedream.mesh.texture import unwrap
from tests.mesh.fields import ball


def test_sphere_surface_has_the_analytic_size():
    grid = sample_density(ball(0.4), 64, radius=1.0)
    surface = extract_surface(grid, 50.0)
    assert surface.is_watertight
    # a polyhedron inscribed in the sphere: a little less than 4/3 π r³
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(surface.vertices, axis=1), 0.4, atol=0.005)


def test_surface_that_leaves_the_box_is_closed():
    surface = extract_surface(sample_density(ball(1.2), 32, radius=1.0), 50.0)
    assert surface.is_watertight
    assert surface.volume > 0


def test_level_without_a_surface_says_what_there_is():
    grid = sample_density(ball(0.4), 16, radius=1.0)
    with pytest.raises(EmptyFieldError, match=r"level 200: densities lie between 0 and 1"):
        extract_surface(grid, 200.0)


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


def test_simplification_keeps_shape_and_reaches_its_target():
    surface = extract_surface(sample_density(ball(0.4), 64, radius=1.0), 50.0)
    before = surface.vertices.copy()
    light, _ = clean_surface(surface, smoothing=5, target_faces=1000)
    assert len(light.faces) <= 1000
    assert light.is_watertight
    assert light.volume == pytest.approx(surface.volume, rel=0.02)
    np.testing.assert_array_equal(surface.vertices, before)


def slab_with_tunnel(width):
    """12 x 12 x 12 solid samples in air, with a tunnel of width x width samples through the middle."""
    density = torch.zeros(20, 20, 20)
    density[4:16, 4:16, 4:16] = 10.0
    low = 10 - width // 2
    density[low : low + width, low : low + width] = 0.0
    return DensityGrid(density, torch.zeros(3), 0.1)


def test_narrow_tunnels_are_closed_and_wide_ones_kept():
    def tunnels(grid):
        return check_solid(extract_surface(grid, 5.0)).tunnels

    assert tunnels(close_gaps(slab_with_tunnel(2), 0)) == 1
    assert tunnels(close_gaps(slab_with_tunnel(2), 1)) == 0
    assert tunnels(close_gaps(slab_with_tunnel(4), 1)) == 1
    assert tunnels(close_gaps(slab_with_tunnel(4), 2)) == 0


def test_closing_leaves_everything_else_as_it_was():
    grid = slab_with_tunnel(4)
    torch.testing.assert_close(close_gaps(grid, 1).density, grid.density)
    at_the_edge = DensityGrid(torch.full((5, 5, 5), 10.0), torch.zeros(3), 0.1)
    torch.testing.assert_close(close_gaps(at_the_edge, 2).density, at_the_edge.density)


def test_manifold_judges_what_is_solid():
    cube = trimesh.creation.box()
    solid = check_solid(cube)
    assert (solid.watertight, solid.verdict, solid.pieces, solid.tunnels) == (True, "NoError", 1, 0)
    assert solid.volume == pytest.approx(1.0)
    ring = check_solid(trimesh.creation.torus(0.4, 0.1))
    assert (ring.watertight, ring.pieces, ring.tunnels) == (True, 1, 1)
    away = cube.copy()
    away.apply_translation([3, 0, 0])
    two = check_solid(trimesh.util.concatenate([cube, away]))
    assert (two.pieces, two.tunnels) == (2, 0)
    assert two.volume == pytest.approx(2.0)


def test_an_open_mesh_is_not_watertight():
    cube = trimesh.creation.box()
    lidless = trimesh.Trimesh(cube.vertices, cube.faces[2:])
    solid = check_solid(lidless)
    assert not solid.watertight
    assert solid.verdict == "NotManifold"
    assert (solid.pieces, solid.volume) == (1, 0.0)


def test_seams_of_a_texture_are_no_holes():
    sphere = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    cut = unwrap(sphere, 128)
    assert len(cut.vertices) > len(sphere.vertices)
    assert check_solid(trimesh.Trimesh(cut.vertices, cut.faces, process=False)).watertight
