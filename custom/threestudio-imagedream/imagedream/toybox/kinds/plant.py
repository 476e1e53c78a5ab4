"""A plant in a pot of the body's colour: a face or a badge on the pot's front, a stripe behind."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import badge, wall_patch
from imagedream.toybox.palette import DARK, GLOW, METAL
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    sphere,
    tube,
)

ACCESSORIES = ("none", "flowers", "sign", "saucer", "ladybird")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A plant in a pot of the body's colour: a face or a badge on the pot's front, a stripe behind."""
    toy = Builder()
    radius, height = draw.between(0.26, 0.38), draw.between(0.4, 0.6)
    slant = draw.between(1.05, 1.35)
    upper = radius * slant
    toy.add(
        lathe(((radius, 0), (upper, height), (upper - 0.05, height), (radius - 0.05, height * 0.8)), 24),
        draw.paint,
    )
    rim = (
        (upper - 0.06, height - 0.1),
        (upper + 0.04, height - 0.1),
        (upper + 0.04, height + 0.02),
        (upper - 0.06, height + 0.02),
    )
    toy.add(lathe(rim, 24, loop=True), draw.part("rim") if draw.chance(0.6) else draw.paint)
    toy.add(cylinder(), (84, 56, 38), (upper * 1.8, upper * 1.8, 0.06), (0, 0, height - 0.05))
    wall = (radius + upper) / 2
    badge(draw, toy, wall, (0, 0, height * 0.45), height * 0.5)
    toy.add(wall_patch(wall, height * 0.2, 180, 60), draw.part("stripe"), at=(0, 0, height * 0.45))

    green = draw.part("leaves", ("green", "teal", "purple", "red"))
    style = draw.choice(("bush", "cactus", "palm", "leaves"))
    crown = height
    if style == "bush":
        stem = draw.between(0.1, 0.4)
        toy.add(cylinder(), (110, 74, 44), (0.1, 0.1, stem + 0.1), (0, 0, height + stem / 2))
        crown = height + stem + 0.2
        for y, z, size in ((0, 0.12, 0.56), (0.2, -0.02, 0.42), (-0.22, 0.02, 0.38)):
            toy.add(sphere(), green, size, (draw.between(-0.06, 0.06), y, crown + z))
    elif style == "cactus":
        tall = draw.between(0.5, 0.8)
        crown = height + tall
        toy.add(limb((0, 0, height), (0, 0, crown), 0.15), green)
        for side in (1, -1)[: draw.choice((1, 2))]:
            elbow = (0, side * 0.3, height + tall * draw.between(0.3, 0.55))
            toy.add(limb((0, 0, elbow[2]), elbow, 0.075), green)
            toy.add(limb(elbow, (0, side * 0.3, elbow[2] + 0.22), 0.075), green)
    else:
        count, tall = draw.choice((6, 7, 8)), draw.between(0.4, 0.7)
        crown = height + (tall if style == "palm" else 0.1)
        if style == "palm":
            toy.add(
                tube(((0, 0, height - 0.1), (0, 0.04, height + tall * 0.5), (0, 0, crown)), 0.07, 0.05),
                (124, 84, 48),
            )
        for k in range(count):
            turn, droop = (
                360 * k / count,
                draw.between(-70, -40) if style == "leaves" else draw.between(-25, 20),
            )
            a, d = math.radians(turn), math.radians(droop)
            reach = 0.27
            at = (
                reach * math.cos(d) * math.cos(a),
                reach * math.cos(d) * math.sin(a),
                crown - reach * math.sin(d),
            )
            toy.add(sphere(1), green, (0.62, 0.2, 0.07), at, turn=(0, droop, turn))
    _accessory(draw, toy, (radius, upper, height), crown)
    return toy


def _accessory(draw: Draw, toy: Builder, pot: Vector, crown: Number) -> None:
    radius, upper, height = pot
    if draw.accessory == "flowers":
        colour = draw.part("flowers")
        for y, z in ((0.0, 0.2), (0.2, 0.08), (-0.2, 0.02)):
            toy.add(disc(8), colour, (0.07, 0.22, 0.22), (0.24, y, crown + z), front=True)
            toy.add(sphere(1), GLOW, (0.08, 0.1, 0.1), (0.27, y, crown + z), front=True)
    elif draw.accessory == "sign":
        colour = draw.part("sign")
        toy.add(box(), METAL, (0.04, 0.05, 0.35), (upper * 0.7, upper * 0.5, height + 0.12))
        toy.add(box(), colour, (0.06, 0.3, 0.2), (upper * 0.7, upper * 0.5, height + 0.3), front=True)
    elif draw.accessory == "saucer":
        plate = ((radius * 0.9, -0.05), (radius * 1.5, 0.03), (radius * 1.5, 0.08), (radius * 0.9, 0.02))
        toy.add(lathe(plate, 24), draw.part("saucer"))
    elif draw.accessory == "ladybird":
        colour = draw.part("ladybird")
        at = (upper * 0.8, -upper * 0.55, height + 0.06)
        toy.add(dome(16), colour, (0.26, 0.22, 0.26), (at[0], at[1], at[2] - 0.04))
        toy.add(sphere(1), DARK, 0.13, (at[0] + 0.12, at[1], at[2] + 0.01), front=True)
