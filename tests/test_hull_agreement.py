import pytest
import torch
import trimesh

from imagedream.metrics import hull_agreement
from imagedream.workshop.evaluation.held_out_objects import Orbit, held_out_case

AZIMUTHS = (0.0, 90.0, 180.0, 270.0)


def silhouettes(mesh, elevation_deg=10.0, fov_y_deg=47.5, size=64, start_deg=0.0):
    orbit = Orbit(tuple(start_deg + azimuth for azimuth in AZIMUTHS), elevation_deg, fov_y_deg)
    return orbit.views(mesh, size).rgba[:, 3] > 0.5


SHAPES = {
    "sphere": trimesh.creation.icosphere(subdivisions=3, radius=0.5),
    "cube": trimesh.creation.box((0.8, 0.8, 0.8)),
    "plank": trimesh.creation.box((1.0, 0.3, 0.6)),
    "dumb-bell": trimesh.util.concatenate(
        [
            trimesh.creation.icosphere(radius=0.2).apply_translation((0, 0, 0.4)),
            trimesh.creation.icosphere(radius=0.2).apply_translation((0, 0, -0.4)),
            trimesh.creation.cylinder(radius=0.05, height=0.8),
        ]
    ),
}


@pytest.mark.parametrize(("elevation_deg", "size"), [(0.0, 64), (20.0, 100)])
def test_true_views_agree_with_their_hull(elevation_deg, size):
    for mesh in SHAPES.values():
        agreement = hull_agreement(silhouettes(mesh, elevation_deg, size=size), AZIMUTHS, elevation_deg)
        assert agreement.min() > 0.98
    for kind in ("car", "bird", "chair", "lamp"):
        shown = silhouettes(held_out_case(3, kind).object.mesh, start_deg=20)
        assert hull_agreement(shown, [20.0, 110.0, 200.0, 290.0], 10.0).min() > 0.97


# From far away rays are parallel, so that what is left can be calculated; a pixel that is forgiven is 3 % of these shapes.
FAR_DEG = 3.0


def test_swapped_views_leave_each_other_no_room():
    shown = silhouettes(SHAPES["plank"], 0.0, FAR_DEG)  # 0.3 wide from front and back, 1.0 from the sides
    swapped = hull_agreement(shown[[1, 0, 2, 3]], AZIMUTHS, 0.0, FAR_DEG)
    # the "front" is 1.0 wide where the back allows 0.3, and the right side 1.0 where the "left" allows 0.3
    torch.testing.assert_close(swapped, torch.tensor([0.3, 1.0, 1.0, 0.3]), atol=0.06, rtol=0)
    near = silhouettes(SHAPES["plank"])
    assert hull_agreement(near[[1, 0, 2, 3]], AZIMUTHS, 10.0).mean() < 0.8
    # nobody can tell when all sides of an object look the same
    assert hull_agreement(silhouettes(SHAPES["sphere"])[[1, 0, 2, 3]], AZIMUTHS, 10.0).min() > 0.98


def test_a_part_that_one_view_alone_shows_is_not_covered():
    shown = silhouettes(SHAPES["cube"], 0.0, FAR_DEG)
    more = shown.clone()
    more[2, 2:8, 28:36] = True  # something floats above the cube, seen from behind only
    agreement = hull_agreement(more, AZIMUTHS, 0.0, FAR_DEG)
    assert agreement[2] == pytest.approx(float(shown[2].sum() / more[2].sum()), abs=1e-3)
    assert agreement[[0, 1, 3]].min() > 0.999


def test_another_height_in_one_view():
    shown = silhouettes(SHAPES["sphere"], 0.0, FAR_DEG)
    moved = torch.stack([shown[0].roll(-12, 0), *shown[1:]])
    # two discs that overlap have a lens in common; the sides lose what is below its lower edge, a segment
    radius, shift = (shown[0].sum() / torch.pi).sqrt(), 12 - 1  # one pixel is forgiven
    half = shift / (2 * radius)
    lens = 2 / torch.pi * (half.acos() - half * (1 - half**2).sqrt())
    edge = (radius - shift) / radius
    segment = (edge.acos() - edge * (1 - edge**2).sqrt()) / torch.pi
    expected = torch.stack([lens, 1 - segment, lens, 1 - segment])
    torch.testing.assert_close(hull_agreement(moved, AZIMUTHS, 0.0, FAR_DEG), expected, atol=0.04, rtol=0)


def test_a_wrong_field_of_view_costs_little_and_empty_views_score_nothing():
    shown = silhouettes(SHAPES["plank"], fov_y_deg=40.0)
    assert hull_agreement(shown, AZIMUTHS, 10.0).min() > 0.9
    shown[1] = False
    assert hull_agreement(shown, AZIMUTHS, 10.0).tolist() == [0, 0, 0, 0]


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="1 silhouettes of 8 x 8 pixels with 1 azimuths"):
        hull_agreement(torch.ones(1, 8, 8, dtype=torch.bool), [0.0], 10.0)
    with pytest.raises(ValueError, match="2 silhouettes of 8 x 9 pixels"):
        hull_agreement(torch.ones(2, 8, 9, dtype=torch.bool), [0.0, 90.0], 10.0)
