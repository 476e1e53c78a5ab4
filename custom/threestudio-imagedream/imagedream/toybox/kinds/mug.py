"""A mug: a face or a badge in front, the handle to its left, a stripe behind."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, WHITE, Colour
from imagedream.toybox.shapes import Builder, Number, Vector, arc, disc, dome, lathe, limb, sphere, star, tube

ACCESSORIES = ("none", "spoon", "lid", "straw", "saucer")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A mug: a face or a badge in front, the handle to its left, a stripe behind."""
    toy = Builder()
    radius, height = draw.between(0.34, 0.46), draw.between(0.85, 1.25)
    top, waist = radius * draw.between(0.92, 1.12), radius * draw.between(0.88, 1.1)
    foot = radius * draw.between(0.85, 1.0)
    wall, floor = 0.05, 0.08
    inside = draw.part("inside") if draw.chance(0.5) else WHITE
    outer = ((foot, 0), (waist, height * 0.5), (top, height))
    toy.add(
        lathe((*outer, (top - wall, height), (waist - wall, height * 0.5), (foot - wall, floor)), 28),
        draw.paint,
    )
    drink = draw.choice(((84, 48, 28), (196, 120, 40), (236, 220, 196)))
    level = height * draw.between(0.62, 0.86)
    toy.add(lathe(((waist - wall * 1.5, floor), (min(waist, top) - wall, level))), drink)
    toy.add(
        lathe(
            (
                (top + 0.012, height - 0.09),
                (top + 0.014, height + 0.015),
                (top - wall - 0.012, height + 0.015),
                (top - wall - 0.012, height - 0.09),
            ),
            28,
            loop=True,
        ),
        inside,
    )

    handle = draw.part("handle") if draw.chance(0.6) else draw.paint
    reach, grip, middle = draw.between(0.24, 0.36), height * draw.between(0.24, 0.34), height * 0.52
    side = radius * 0.96
    if draw.chance(0.65):
        angles = [math.radians(-90 + 22.5 * k) for k in range(9)]
        path = tuple((0.0, side - 0.04 + reach * math.cos(a), middle + grip * math.sin(a)) for a in angles)
    else:
        path = tuple(
            (0.0, side - 0.05 + y * reach, middle + z * grip)
            for y, z in ((0, -1), (0.9, -1), (0.9, 1), (0, 1))
        )
    toy.add(tube(path, draw.between(0.06, 0.085), corners=10), handle)

    _front(draw, toy, height, (foot, waist, top))
    back = draw.part("stripe")
    for share in (0.35, 0.6):
        _band(toy, back, height, (foot, waist, top), (share - 0.06, share + 0.06), 180, 70)
    _accessory(draw, toy, height, (foot, waist, top))
    return toy


def _radius(radii: Vector, share: Number) -> Number:
    """Outer radius at a share of the height."""
    foot, waist, top = radii
    return foot + (waist - foot) * share * 2 if share < 0.5 else waist + (top - waist) * (share - 0.5) * 2


def _band(
    toy: Builder,
    colour: Colour,
    height: Number,
    radii: Vector,
    shares: tuple[Number, Number],
    azimuth_deg: Number,
    half_angle_deg: Number,
    front: bool = False,
) -> None:
    """Glues a thin band around the wall, between two shares of the height."""
    low, high = shares
    inner, outer = ((_radius(radii, share), share * height) for share in (low, high))
    profile = (
        (inner[0] - 0.03, inner[1]),
        (inner[0] + 0.02, inner[1]),
        (outer[0] + 0.02, outer[1]),
        (outer[0] - 0.03, outer[1]),
    )
    band = arc(profile, azimuth_deg - half_angle_deg, azimuth_deg + half_angle_deg)
    toy.add(band, colour, front=front)


def _front(draw: Draw, toy: Builder, height: Number, radii: Vector) -> None:
    style = draw.choice(("face", "star", "dots", "label"))
    if style == "face":
        draw.mention("face", "a face")
        r, z = _radius(radii, 0.62) + 0.0, height * 0.62
        x, y = r * math.cos(math.radians(24)), r * math.sin(math.radians(24))
        toy.pair(sphere(1), WHITE, (0.1, 0.2, 0.24), (x, y, z), front=True)
        toy.pair(sphere(1), DARK, (0.09, 0.11, 0.13), (x + 0.035, y, z), front=True)
        _band(toy, DARK, height, radii, (0.3, 0.36), 0, draw.between(12, 26), front=True)
        return
    colour = draw.part({"star": "star", "dots": "dots", "label": "label"}[style])
    if style == "star":
        size = min(height * 0.5, radii[1] * 1.1)
        toy.add(star(), colour, (0.12, size, size), (_radius(radii, 0.5) - 0.02, 0, height * 0.5), front=True)
    elif style == "dots":
        for azimuth, share in ((-32, 0.35), (0, 0.65), (32, 0.35), (-40, 0.75), (40, 0.75), (0, 0.25)):
            r, a = _radius(radii, share), math.radians(azimuth)
            toy.add(
                disc(),
                colour,
                (0.08, 0.17, 0.17),
                (r * math.cos(a), r * math.sin(a), height * share),
                turn=(0, 0, azimuth),
                front=True,
            )
    else:
        _band(toy, colour, height, radii, (0.25, 0.78), 0, 48, front=True)
        _band(toy, WHITE, height, tuple(r + 0.015 for r in radii), (0.42, 0.6), 0, 30, front=True)


def _accessory(draw: Draw, toy: Builder, height: Number, radii: Vector) -> None:
    top = radii[2]
    if draw.accessory == "spoon":
        colour = draw.part("spoon")
        toy.add(limb((0.0, 0.05, height * 0.5), (0.12, -top * 1.0, height * 1.35), 0.03), colour)
        toy.add(sphere(1), colour, (0.14, 0.1, 0.2), (0.12, -top * 1.05, height * 1.38), turn=(30, 0, 0))
    elif draw.accessory == "lid":
        colour = draw.part("lid")
        toy.add(dome(24), colour, (top * 2.1, top * 2.1, 0.3), (0, 0, height))
        toy.add(sphere(), colour, 0.14, (0, 0, height + 0.18))
    elif draw.accessory == "straw":
        colour = draw.part("straw")
        x, y = -0.05, -top * 0.5
        toy.add(
            tube(((x, 0.0, height * 0.4), (x, y, height * 1.3), (x + 0.14, y - 0.1, height * 1.5)), 0.035),
            colour,
        )
    elif draw.accessory == "saucer":
        colour = draw.part("saucer")
        wide = radii[0] * 2.0
        toy.add(
            lathe(((wide * 0.55, -0.08), (wide * 0.9, 0.0), (wide * 0.9, 0.04), (wide * 0.5, -0.02)), 28),
            colour,
        )
