import numpy as np
import torch

from imagedream.mesh.field import render_field, sphere_views, spread_views
from imagedream.mesh.isosurface import sample_density
from tests.mesh.fields import ball, grey


def test_rendered_opacity_of_a_ball_is_analytic():
    # through the centre of a ball of radius 0.4 and density 2: 1 − exp(−2 · 0.8)
    grid = sample_density(ball(0.4, highest=2.0), 96, radius=1.0)
    pose, fov = sphere_views(0.8)
    rgba = render_field(grid, grey, pose, fov, 33)
    np.testing.assert_allclose(rgba[:, 3, 16, 16].numpy(), 1 - np.exp(-1.6), atol=0.01)
    np.testing.assert_allclose(rgba[:, :3], rgba[:, 3:].expand(-1, 3, -1, -1) * 0.5, atol=1e-4)
    assert rgba[:, 3, 0, 0].max() == 0


def test_normals_of_a_ball_point_away_from_its_centre():
    grid = sample_density(ball(0.4, sharpness=30.0), 64, radius=1.0)
    directions = torch.nn.functional.normalize(
        torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    )
    cosine = (grid.normals(0.4 * directions) * directions).sum(-1)
    assert cosine.min() > 0.995
    assert (grid.normals(torch.full((1, 3), 5.0)) == 0).all()


def test_views_are_spread_over_the_whole_sphere():
    pose, _ = spread_views(0.5, 32)
    towards = torch.nn.functional.normalize(pose[:, :3, 3], dim=-1)
    probes = torch.nn.functional.normalize(torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)))
    # 32 evenly spread caps of 4π / 32 have an angular radius of 20.4°; a square packing leaves √2 of that
    assert torch.rad2deg((probes @ towards.T).amax(1).min().acos()) < 32
    np.testing.assert_allclose(-pose[:, :3, 2], -towards, atol=1e-6)  # they look at the origin
