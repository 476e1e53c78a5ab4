import math

import numpy as np
import pytest
import trimesh

from imagedream.toybox import shapes
from imagedream.toybox.builder import Builder, frame, moved
from imagedream.toybox.shapes import Shape


def solid(shape: Shape) -> trimesh.Trimesh:
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    return mesh


def polygon_area(corners: int, radius: float) -> float:
    return corners / 2 * radius**2 * math.sin(2 * math.pi / corners)


def empty() -> Builder:
    return Builder(np.random.default_rng(0), "red", "none")


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (shapes.box(), 1.0),
        (shapes.cylinder(sections=20), polygon_area(20, 0.5)),
        (shapes.cone(12), polygon_area(12, 0.5) / 3),
        # frustum of a square pyramid: (1 + 1/4 + 1/2) / 3
        (shapes.tapered_box((0.5, 0.5), (0.2, 0.0)), 7 / 12),
        (shapes.prism(((0, 0), (0, 1), (1, 0)), "x"), 0.5),
        (shapes.prism(((0, 0), (1, 0), (0, 1)), "y"), 0.5),
        (shapes.hull(((0, 0), (1, 0), (1, 1), (0, 1)), 0.5, 0.1), 7 / 12),
        (shapes.disc(20), polygon_area(20, 0.5)),
        (shapes.tube(((0, 0, 0), (0, 0, 2)), 0.5, corners=10), 2 * polygon_area(10, 0.5)),
        # a quarter of a ring between radii 1 and 2 as one flat piece: chord cells (4 - 1) / 2 * sin(90 deg)
        (shapes.arc(((1, 0), (2, 0), (2, 1), (1, 1)), 0, 90, steps=1), 1.5),
        # a cup: outer cylinder minus its hollow
        (
            shapes.lathe(((1, 0), (1, 2), (0.5, 2), (0.5, 1)), 20),
            2 * polygon_area(20, 1) - polygon_area(20, 0.5),
        ),
    ],
)
def test_volumes_are_those_of_geometry(shape, volume):
    assert solid(shape).volume == pytest.approx(volume)


@pytest.mark.parametrize(
    ("shape", "volume"),
    [
        (shapes.sphere(), math.pi / 6),
        (shapes.dome(32, 12), math.pi / 12),
        (shapes.rounded_box(2.0, 12), math.pi / 6),
        (shapes.rounded_box(40.0, 12), 1.0),
        (shapes.limb((0, 0, 0), (0, 3, 4), 1.0), 5 * math.pi + 4 / 3 * math.pi),
        # Pappus: circle of radius 1/10 whose centre goes around at 4/10
        (shapes.ring(0.2, 48, 24), 2 * math.pi * 0.4 * math.pi * 0.01),
    ],
)
def test_round_shapes_come_close_to_their_ideal(shape, volume):
    assert solid(shape).volume == pytest.approx(volume, rel=0.15)


def test_a_limb_reaches_from_end_to_end():
    limb = solid(shapes.limb((1, 0, 0), (1, 0, 2), 0.25))
    np.testing.assert_allclose(limb.bounds[:, 2], [-0.25, 2.25], atol=1e-9)
    np.testing.assert_allclose(limb.bounds.mean(axis=0), [1, 0, 1], atol=1e-9)


def test_cached_shapes_cannot_be_changed():
    shape = shapes.cylinder()
    assert shape is shapes.cylinder()
    with pytest.raises(ValueError, match="read-only"):
        shape.vertices[0] = 0


def test_turns_go_about_x_then_y_then_z():
    toy = empty()
    # the tip of a cone along z: about x by 90 to -y, about z by 90 to +x
    toy.add(shapes.cone(), (1, 2, 3), turn=(90, 0, 90), at=(0, 0, 5))
    np.testing.assert_allclose(toy.parts[0].vertices[-1], [0.5, 0, 5], atol=1e-9)


def test_a_pair_is_mirrored_and_still_faces_outwards():
    toy = empty()
    toy.pair(shapes.tapered_box((0.5, 0.5), (0.3, 0.2)), (9, 9, 9), at=(0, 2, 0))
    left, right = toy.parts
    np.testing.assert_allclose(left.vertices * [1, -1, 1], right.vertices)
    assert trimesh.Trimesh(right.vertices, right.faces).volume == pytest.approx(7 / 12)


def test_a_mesh_is_normalised_and_keeps_colours_by_part():
    toy = empty()
    toy.add(shapes.box(), (255, 0, 0), (4, 1, 1), (10, 0, 0))
    toy.add(shapes.box(), (0, 0, 255), 1, (10, 0, 1))
    mesh = toy.mesh()
    np.testing.assert_allclose(mesh.bounds, [[-0.5, -0.125, -0.25], [0.5, 0.125, 0.25]])
    np.testing.assert_array_equal(mesh.visual.face_colors[:12], [[255, 0, 0, 255]] * 12)
    np.testing.assert_array_equal(mesh.visual.face_colors[12:], [[0, 0, 255, 255]] * 12)


def test_parts_find_their_places_by_shares_of_another_ones_box():
    box = empty().add(shapes.box(), (255, 0, 0), (4, 2, 1), (10, 0, 5))
    np.testing.assert_allclose(box.at(0.5, -0.5, 0.25), [12, -1, 5.25])
    np.testing.assert_allclose(frame(2, (0, 1, 0)).at(0.5, 0.5, 0.5), [1, 2, 1])
    np.testing.assert_allclose(moved((1, 2, 3), 0.5, up=-1), [1.5, 2, 2])
