"""Texture taken from rendered views, beside one that asks the field once a texel."""

from functools import partial

import numpy as np
import pytest
import torch

from imagedream.mesh.agreement import FieldViews
from imagedream.mesh.bake import bake_colours, inpaint
from imagedream.mesh.export import load_exported
from imagedream.mesh.field import render_field, sphere_views, spread_views
from imagedream.mesh.isosurface import sample_density
from imagedream.mesh.surface import clean_surface, extract_surface
from imagedream.mesh.texture import Texels, texels, unwrap
from imagedream.mesh.writing import TexturedMesh, save, to_files
from tests.mesh.fields import ball, box, plain

RED, BLUE = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])


def meshed(density, resolution=48, faces=1000, size=64, level=None):
    grid = sample_density(density, resolution, radius=1.0)
    surface = extract_surface(grid, level or float(grid.density.max()) / 2)
    surface, _ = clean_surface(surface, min_piece=0.001, target_faces=faces)
    mesh = unwrap(surface, size)
    return grid, surface, mesh, texels(mesh, size)


def baked(grid, surface, places, colour, views=24, size=64):
    pose, fov = spread_views(grid.half_extent, views)
    return bake_colours(places, surface, partial(render_field, grid, colour), pose, fov, size)


def halves(points):
    return torch.where(points[:, :1] > 0, RED, BLUE)


def layered(points):
    """Red down to the depth where half of the light of density 20 is stopped, blue below, in a ball of radius 0.4."""
    red = (points.norm(dim=-1) > 0.4 - np.log(2) / 20)[:, None].float()
    return red * RED + (1 - red) * BLUE


@pytest.fixture(scope="module")
def soft_ball():
    return meshed(ball(0.4, highest=20.0), resolution=64)


def test_texture_shows_what_viewers_see_not_the_colour_at_the_surface(soft_ball):
    grid, surface, _, places = soft_ball
    colours, seen = baked(grid, surface, places, layered)
    assert seen.all()
    # seen at the cosine c, the red layer is 1 / c as long and stops 1 − 2^(−1/c); cosines are uniform over a sphere of
    # cameras, each counts c²
    cosine = np.linspace(0.1, 1, 1000)
    expected = np.average(1 - 2 ** (-1 / cosine), weights=cosine**2)
    red, green, blue = colours.mean(0).tolist()
    assert red == pytest.approx(expected, abs=0.05)
    assert blue == pytest.approx(1 - expected, abs=0.05)
    assert green == pytest.approx(0, abs=1e-6)
    assert colours[:, 0].std() < 0.06
    # one query of the field sees the outermost layer only
    assert layered(places.positions)[:, 0].mean() > 0.95


def test_baked_texture_looks_more_like_the_field_than_the_query(soft_ball, tmp_path):
    grid, surface, mesh, places = soft_ball
    views = FieldViews.of(partial(render_field, grid, layered), grid.half_extent)

    def agreement(colours):
        path = save(to_files(TexturedMesh(mesh, places.picture(colours))), tmp_path)[0]
        return views.agreement(load_exported(path)).colour_psnr_db

    # what is seen changes with the angle here, which no texture can show
    by_views, by_query = baked(grid, surface, places, layered)[0], layered(places.positions)
    assert agreement(by_views) > agreement(by_query) + 5


def test_colours_are_neither_shifted_nor_pale(soft_ball):
    # a field half as opaque as it could be, of one colour: that colour, not its mixture with a background
    grid, surface, _, places = soft_ball
    colours, _ = baked(grid, surface, places, plain(0.2, 0.4, 0.6))
    np.testing.assert_allclose(colours, np.broadcast_to([0.2, 0.4, 0.6], colours.shape), atol=1e-3)


def test_each_side_keeps_its_colour_and_what_no_view_sees_is_left_open():
    grid, surface, _, places = meshed(ball(0.4))
    colours, _ = baked(grid, surface, places, halves)
    x = places.positions[:, 0]
    assert (colours[x > 0.05] - RED).abs().max() < 0.02
    assert (colours[x < -0.05] - BLUE).abs().max() < 0.02
    pose, fov = sphere_views(0.6, count=1)
    colours, seen = bake_colours(places, surface, partial(render_field, grid, halves), pose, fov, 64)
    assert 0.2 < seen.float().mean() < 0.5  # less than a half can be seen from one side
    assert (colours[~seen] == 0).all()


def test_what_is_hidden_takes_no_colour_from_what_hides_it():
    # a small red ball floats in front of a large blue plate
    def density(points):
        return box((0.03, 0.5, 0.5))(points) + ball(0.12, centre=(0.3, 0.0, 0.0))(points)

    def colour(points):
        return torch.where(points[:, :1] > 0.15, RED, BLUE)

    grid, surface, _, places = meshed(density, resolution=64, faces=3000, size=128, level=50.0)
    colours, seen = baked(grid, surface, places, colour)
    plate = (places.positions[:, 0] < 0.1) & seen
    assert colours[plate, 0].mean() < 0.03
    assert colours[~plate & seen, 0].mean() > 0.95


def wall(thickness):
    """Texels on both sides of a wall: red above, blue below."""
    generator = torch.Generator().manual_seed(0)
    flat = torch.rand(400, 2, generator=generator)
    above = torch.arange(400) % 2 == 0
    positions = torch.cat([flat, torch.where(above, thickness, 0.0)[:, None]], dim=-1)
    normals = torch.zeros(400, 3)
    normals[:, 2] = torch.where(above, 1.0, -1.0)
    places = Texels(
        np.ones((20, 20), bool), np.zeros((400, 3), int), np.zeros((400, 3), np.float32), positions, normals
    )
    return places, torch.where(above[:, None], RED, BLUE)


def test_holes_are_filled_from_their_own_side_of_a_wall():
    places, colours = wall(0.01)
    seen = torch.rand(400, generator=torch.Generator().manual_seed(1)) > 0.3
    filled = inpaint(places, colours * seen[:, None], seen)
    torch.testing.assert_close(filled[seen], colours[seen])
    assert (filled - colours).abs().max() < 0.2
    assert (filled - colours).abs().mean() < 0.01


def test_nothing_to_fill_and_nothing_to_fill_from():
    places, colours = wall(0.1)
    everything = torch.ones(400, dtype=torch.bool)
    assert inpaint(places, colours, everything) is colours
    with pytest.raises(ValueError, match="none of the 400 texels is seen"):
        inpaint(places, colours, ~everything)
