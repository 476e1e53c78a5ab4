"""Features that several kinds share."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, WHITE, Colour
from imagedream.toybox.shapes import Builder, Number, Shape, Vector, arc, cylinder, disc, sphere, star


def eyes(toy: Builder, at: Vector, size: Number, white: bool = True) -> None:
    """A pair of eyes at +y and −y that look ahead."""
    x, y, z = at
    if white:
        toy.pair(sphere(1), WHITE, (size * 0.7, size, size * 1.15), at, front=True)
        x += size * 0.25
        size *= 0.6
    toy.pair(sphere(1), DARK, (size * 0.7, size, size), (x, y, z), front=True)


def wall_patch(radius: Number, height: Number, azimuth_deg: Number, half_angle_deg: Number) -> Shape:
    """A thin upright band on a round wall, around an azimuth."""
    profile = (
        (radius - 0.06, -height / 2),
        (radius + 0.03, -height / 2),
        (radius + 0.03, height / 2),
        (radius - 0.06, height / 2),
    )
    return arc(profile, azimuth_deg - half_angle_deg, azimuth_deg + half_angle_deg)


def badge(draw: Draw, toy: Builder, radius: Number, at: Vector, size: Number) -> None:
    """A face, a star or a round badge on the front of a round wall whose axis is at `at`."""
    x, y, z = at
    style = draw.choice(("face", "star", "badge"))
    if style == "face":
        draw.mention("face", "a face")
        side, ahead = radius * math.sin(math.radians(24)), radius * math.cos(math.radians(24))
        toy.pair(
            sphere(1),
            WHITE,
            (0.1, size * 0.42, size * 0.5),
            (x + ahead - 0.01, y + side, z + size * 0.15),
            front=True,
        )
        toy.pair(
            sphere(1),
            DARK,
            (0.09, size * 0.24, size * 0.28),
            (x + ahead + 0.03, y + side, z + size * 0.15),
            front=True,
        )
        toy.add(
            wall_patch(radius - 0.01, size * 0.12, 0, draw.between(12, 24)),
            DARK,
            at=(x, y, z - size * 0.38),
            front=True,
        )
        return
    shape = star() if style == "star" else disc()
    toy.add(shape, draw.part(style), (0.14, size, size), (x + radius - 0.03, y, z), front=True)


def wheels(
    toy: Builder,
    positions: tuple[Number, ...],
    half_width: Number,
    radius: Number,
    thickness: Number,
    hub: Colour,
) -> None:
    """Pairs of wheels with hub caps at these x."""
    for x in positions:
        toy.pair(
            cylinder(), DARK, (radius * 2, radius * 2, thickness), (x, half_width, radius), turn=(90, 0, 0)
        )
        toy.pair(
            cylinder(sections=12),
            hub,
            (radius * 1.15, radius * 1.15, thickness),
            (x, half_width + 0.02, radius),
            turn=(90, 0, 0),
        )
