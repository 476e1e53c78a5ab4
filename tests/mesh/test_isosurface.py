import logging

import numpy as np
import pytest
import torch

from imagedream import mesh as meshing
from tests.mesh.fields import ball, grey


def test_grid_is_spent_on_the_object_only():
    grid = meshing.sample_density(ball(0.2, centre=(0.3, 0.0, 0.0)), 64, radius=1.0)
    assert max(grid.density.shape) == 64
    assert grid.lower[0] == pytest.approx(0.1, abs=0.1)
    assert grid.upper[0] == pytest.approx(0.5, abs=0.1)
    inside = torch.tensor([[0.3, 0.05, 0.0], [0.9, 0.0, 0.0]])
    np.testing.assert_allclose(grid(inside).numpy(), [100.0, 0.0], atol=1e-3)


def test_far_specks_do_not_widen_the_box():
    corner = 1 - 2 * 3 / 63  # a sample of the coarse pass, which has 64 samples from -1 to 1

    def field(points):
        return ball(0.5)(points) + ball(0.02, centre=(corner, corner, corner))(points)

    assert meshing.sample_density(field, 64, radius=1.0, level=50.0).upper.max() < 0.65
    assert meshing.sample_density(field, 64, radius=1.0, level=50.0, min_piece=0.0).upper.max() > 0.9


def test_broken_density_is_reported():
    with pytest.raises(ValueError, match="not finite at 4096 of 4096"):
        meshing.sample_density(lambda points: points[:, 0] * float("nan"), 16, radius=1.0)


def test_empty_field_says_how_empty():
    with pytest.raises(meshing.EmptyFieldError, match=r"largest density is 0\.1"):
        meshing.mesh_field(lambda points: torch.full((len(points),), 0.1), grey)


def test_level_sweep_finds_the_middle_of_a_sharp_edge():
    # all levels between the two plateaus are the same surface; the outer haze (density 2) must not win
    def hazy(points):
        return ball(0.3)(points) + ball(0.45, highest=0.3)(points)

    grid = meshing.sample_density(hazy, 64, radius=1.0)
    pose, fov = meshing.sphere_views(0.8)
    opacity = meshing.render_field(grid, None, pose, fov, 64)[:, 3]
    choice = meshing.choose_level(grid, opacity, pose, fov, meshing.visible_density(1.0) / 4)
    surface = meshing.extract_surface(grid, choice.level)
    assert np.linalg.norm(surface.vertices, axis=1).mean() == pytest.approx(0.3, abs=0.01)
    assert choice.iou == max(choice.tried.values())
    assert len(choice.tried) > 7
    assert min(choice.tried.values()) < 0.7


def test_silhouettes_are_cut_at_half_opacity():
    opacity = torch.tensor([[[0.9, 0.6, 0.4, 0.0]]])
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity) == 1
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 1.0, 1.0]]]), opacity) == 0.5
    # a faint field is cut at half of its largest opacity, here 0.09
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity * 0.2) == 1


@pytest.fixture(scope="module")
def choice():
    grid = meshing.sample_density(ball(0.4, sharpness=20.0), 32, radius=1.0)
    pose, fov = meshing.sphere_views(0.8, count=4)
    opacity = meshing.render_field(grid, None, pose, fov, 24)[:, 3]
    logger = logging.getLogger("imagedream.mesh")
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    result = meshing.choose_level(grid, opacity, pose, fov, 0.3, candidates=5)
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    return grid, result, [record.getMessage() for record in records]


def test_levels_are_logged(choice):
    _, result, messages = choice
    assert len(messages) == len(result.tried)
    assert sum("chosen" in message for message in messages) == 1


def test_runners_up_are_shown_below_the_chosen_level(choice):
    grid, result, _ = choice
    alone, three = (meshing.level_thumbnails(grid, result, runners_up=count, size=48) for count in (0, 2))
    assert alone.width == three.width
    assert alone.height < three.height
    # the empty margin is cut off: 8 pixels are left of it
    columns = np.flatnonzero((np.asarray(alone.convert("L")) < 250)[-alone.width // 4 :].any(0))
    assert columns[0] <= 9
    assert columns[-1] >= alone.width - 10
