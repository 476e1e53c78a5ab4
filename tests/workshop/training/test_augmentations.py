"""Sizes and lines counted by hand on a square."""

import pytest
import torch

from imagedream.workshop.training.augmentations import augment, draw_contour, shrink
from imagedream.workshop.training.train_config import AugmentationConfig

SIZE = 32


def square(side=16, size=SIZE):
    """A red square in the middle of a frame."""
    rgba = torch.zeros(4, size, size)
    start = (size - side) // 2
    rgba[0, start : start + side, start : start + side] = 1
    rgba[3, start : start + side, start : start + side] = 1
    return rgba


def batch(groups=64):
    return {
        "targets": square().expand(groups, 4, -1, -1, -1),
        "prompts": square().expand(groups, -1, -1, -1),
        "azimuths_deg": torch.zeros(groups, 4),
        "captions": ["a square"] * groups,
    }


@pytest.mark.parametrize("scale", [0.25, 0.5, 0.75, 1.0])
def test_an_area_shrinks_with_the_square_of_the_scale(scale):
    small = shrink(square(), scale)
    assert small[3].sum() == pytest.approx(16**2 * scale**2, rel=0.02)
    seen = small[3] > 0.5
    assert small[0][seen].min() > 0.99  # still red, no dark rim
    rows = seen.any(1).nonzero()[:, 0]
    assert int(rows[0] + rows[-1]) == SIZE - 1  # in the middle


def test_a_group_shrinks_as_one():
    config = AugmentationConfig(object_scale=(0.5, 0.95))
    changed = augment(batch(), config, torch.Generator().manual_seed(0))
    areas = changed["targets"][:, :, 3].sum((2, 3))
    torch.testing.assert_close(areas, areas[:, :1].expand(-1, 4))
    torch.testing.assert_close(areas[:, 0], changed["prompts"][:, 3].sum((1, 2)))
    scales = (areas[:, 0] / 16**2).sqrt()
    assert 0.48 < scales.min() < 0.56
    assert 0.89 < scales.max() < 0.97


def test_a_contour_of_one_pixel_is_the_edge_of_the_silhouette():
    colour = torch.tensor([0.0, 0.25, 1.0])
    lined = draw_contour(square(side=4), colour, width_px=1)
    line = (lined[:3] == colour[:, None, None]).all(0)
    assert line.sum() == 12  # of 4 x 4 pixels all but the inner 2 x 2
    assert torch.equal(lined[3], square(side=4)[3])
    wide = draw_contour(square(side=4), colour, width_px=3)
    assert wide[3].sum() > 16  # a wider line reaches out


def test_contours_are_drawn_on_some_prompts_and_on_no_target():
    config = AugmentationConfig(contour_probability=0.5)
    changed = augment(batch(400), config, torch.Generator().manual_seed(1))
    assert torch.equal(changed["targets"], batch(400)["targets"])
    lined = (changed["prompts"] != batch(400)["prompts"]).flatten(1).any(1)
    assert 160 < lined.sum() < 240
    again = augment(batch(400), config, torch.Generator().manual_seed(1))
    assert torch.equal(again["prompts"], changed["prompts"])


def test_nothing_is_drawn_for_what_is_off_and_single_pictures_stay():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert augment(batch(), AugmentationConfig(), generator)["prompts"] is not None
    assert torch.equal(generator.get_state(), before)
    picture = {name: value for name, value in batch().items() if name != "azimuths_deg"}
    config = AugmentationConfig(object_scale=(0.5, 0.5), contour_probability=1.0)
    assert augment(picture, config, generator) is picture
