import numpy as np
import pytest
import torch

from imagedream.mesh.field import render_field, sphere_views, visible_density
from imagedream.mesh.isosurface import choose_level, level_thumbnails, outline_iou, sample_density
from imagedream.mesh.surface import extract_surface
from tests.mesh.fields import ball


def test_grid_is_spent_on_the_object_only():
    grid = sample_density(ball(0.2, centre=(0.3, 0.0, 0.0)), 64, radius=1.0)
    assert max(grid.density.shape) == 64
    assert grid.lower[0] == pytest.approx(0.1, abs=0.1)
    assert grid.upper[0] == pytest.approx(0.5, abs=0.1)
    inside = torch.tensor([[0.3, 0.05, 0.0], [0.9, 0.0, 0.0]])
    np.testing.assert_allclose(grid(inside).numpy(), [100.0, 0.0], atol=1e-3)


def test_far_specks_do_not_widen_the_box():
    corner = 1 - 2 * 3 / 63  # a sample of the coarse pass, which has 64 samples from -1 to 1

    def field(points):
        return ball(0.5)(points) + ball(0.02, centre=(corner, corner, corner))(points)

    assert sample_density(field, 64, radius=1.0, level=50.0).upper.max() < 0.65
    assert sample_density(field, 64, radius=1.0, level=50.0, min_piece=0.0).upper.max() > 0.9


def test_broken_density_is_reported():
    with pytest.raises(ValueError, match="not finite at 4096 of 4096"):
        sample_density(lambda points: points[:, 0] * float("nan"), 16, radius=1.0)


def test_level_sweep_finds_the_middle_of_a_sharp_edge(caplog):
    # all levels between the two plateaus are the same surface; the outer haze (density 2) must not win
    def hazy(points):
        return ball(0.3)(points) + ball(0.45, highest=0.3)(points)

    grid = sample_density(hazy, 64, radius=1.0)
    pose, fov = sphere_views(0.8)
    opacity = render_field(grid, None, pose, fov, 64)[:, 3]
    caplog.clear()  # sampling looks for a level, too
    with caplog.at_level("INFO"):
        level, tried = choose_level(grid, opacity, pose, fov, visible_density(1.0) / 4)
    surface = extract_surface(grid, level)
    assert np.linalg.norm(surface.vertices, axis=1).mean() == pytest.approx(0.3, abs=0.01)
    assert tried[level] == max(tried.values())
    assert len(tried) > 7
    assert min(tried.values()) < 0.7
    assert len(caplog.messages) == len(tried)
    assert sum("chosen" in message for message in caplog.messages) == 1


def test_silhouettes_are_cut_at_half_opacity():
    opacity = torch.tensor([[[0.9, 0.6, 0.4, 0.0]]])
    assert outline_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity) == 1
    assert outline_iou(torch.tensor([[[1.0, 1.0, 1.0, 1.0]]]), opacity) == 0.5
    # a faint field is cut at half of its largest opacity, here 0.09
    assert outline_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity * 0.2) == 1


def test_runners_up_are_shown_below_the_chosen_level():
    grid = sample_density(ball(0.4, sharpness=20.0), 32, radius=1.0)
    tried = {10.0: 0.9, 11.0: 0.99, 30.0: 0.95, 60.0: 0.8}  # 10 and 11 look the same
    alone, two, all_three = (level_thumbnails(grid, 11.0, tried, rows=rows, size=48) for rows in (1, 2, 9))
    assert alone.width == two.width
    assert alone.height < two.height
    assert all_three.height == pytest.approx(3 * alone.height, abs=9)
    # the empty margin is cut off: 8 pixels are left of it
    columns = np.flatnonzero((np.asarray(alone.convert("L")) < 250)[-alone.width // 4 :].any(0))
    assert columns[0] <= 9
    assert columns[-1] >= alone.width - 10
