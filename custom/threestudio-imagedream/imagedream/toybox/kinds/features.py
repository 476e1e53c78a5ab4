"""Parts that several kinds share."""

import math
from collections.abc import Sequence

from imagedream.toybox.builder import Builder, moved
from imagedream.toybox.palette import DARK, WHITE, Colour
from imagedream.toybox.shapes import Number, Shape, Vector, arc, cylinder, disc, sphere, star


def eyes(toy: Builder, at: Vector, size: Number, white: bool = True) -> None:
    """A pair of eyes at +y and −y that look ahead."""
    if white:
        toy.pair(sphere(1), WHITE, (size * 0.7, size, size * 1.15), at)
        at, size = moved(at, size * 0.25), size * 0.6
    toy.pair(sphere(1), DARK, (size * 0.7, size, size), at)


def hat(
    toy: Builder,
    colour: Colour,
    at: Vector,
    brim: Number,
    crown: Number,
    height: Number,
    tops: Sequence[Number] = (0.85, 0.0),
    corners: int = 24,
) -> None:
    """A round hat whose brim lies at `at`: diameters of brim and crown, and how much of the crown may be left on top."""
    toy.add(cylinder(corners), colour, (brim, brim, 0.05), at)
    toy.add(cylinder(top=toy.choice(tops)), colour, (crown, crown, height), moved(at, up=height / 2))


def wall_patch(radius: Number, height: Number, azimuth_deg: Number, half_angle_deg: Number) -> Shape:
    """A thin upright band on a round wall, around an azimuth."""
    inner, outer = radius - 0.06, radius + 0.03
    profile = ((inner, -height / 2), (outer, -height / 2), (outer, height / 2), (inner, height / 2))
    return arc(profile, azimuth_deg - half_angle_deg, azimuth_deg + half_angle_deg)


def badge(toy: Builder, radius: Number, height: Number, size: Number) -> None:
    """A face, a star or a round badge on the front of a round wall around the z axis, at this height."""
    style = toy.choice(("face", "star", "badge"))
    if style != "face":
        shape = star() if style == "star" else disc()
        toy.add(shape, toy.colour(style), (0.14, size, size), (radius - 0.03, 0, height))
        return
    toy.mention("face", "a face")
    ahead, left = radius * math.cos(math.radians(24)), radius * math.sin(math.radians(24))
    up = height + size * 0.15
    toy.pair(sphere(1), WHITE, (0.1, size * 0.42, size * 0.5), (ahead - 0.01, left, up))
    toy.pair(sphere(1), DARK, (0.09, size * 0.24, size * 0.28), (ahead + 0.03, left, up))
    mouth = wall_patch(radius - 0.01, size * 0.12, 0, toy.between(12, 24))
    toy.add(mouth, DARK, at=(0, 0, height - size * 0.38))


def wheels(
    toy: Builder,
    positions: Sequence[Number],
    half_width: Number,
    radius: Number,
    thickness: Number,
    hub: Colour,
) -> None:
    """Pairs of wheels with hub caps at these x."""
    tyre, cap = (radius * 2, radius * 2, thickness), (radius * 1.15, radius * 1.15, thickness)
    for x in positions:
        toy.pair(cylinder(), DARK, tyre, (x, half_width, radius), turn=(90, 0, 0))
        toy.pair(cylinder(12), hub, cap, (x, half_width + 0.02, radius), turn=(90, 0, 0))
