"""A lamp that leans and shines forward: bulb, button and badge in front, cable behind."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLOW, METAL, WHITE
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    disc,
    lathe,
    rounded_box,
    sphere,
    tube,
)

ACCESSORIES = ("none", "ribbon", "holder", "clock", "cat")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A lamp that leans and shines forward: bulb, button and badge in front, cable behind."""
    toy = Builder()
    base_size, base_height = draw.between(0.4, 0.52), draw.between(0.08, 0.14)
    toy.add(
        draw.choice((cylinder(0.85, 24), rounded_box(7.0), cylinder(0.7, 6))),
        draw.paint,
        (base_size, base_size, base_height),
        (0, 0, base_height / 2),
    )
    stem = draw.part("stem")
    tall, bow = draw.between(0.95, 1.3), draw.between(0.1, 0.3)
    style = draw.choice(("straight", "jointed", "curved"))
    if style == "straight":
        path = ((0.0, 0.0, base_height), (0.0, 0.0, base_height + tall))
    elif style == "jointed":
        path = (
            (-0.02, 0.0, base_height),
            (-bow, 0.0, base_height + tall * 0.5),
            (0.06, 0.0, base_height + tall),
        )
    else:
        path = tuple(
            (-bow * 4 * s * (1 - s), 0.0, base_height + tall * s) for s in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        )
    thick = draw.between(0.035, 0.06)
    toy.add(tube(path, thick), stem)
    if style == "jointed":
        toy.add(sphere(1), METAL, thick * 3.2, path[1])

    size, length, rim = draw.between(0.46, 0.66), draw.between(0.34, 0.46), draw.between(0.12, 0.18)
    tilt = draw.between(35, 60)
    lean, drop = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    shade = draw.part("shade") if draw.chance(0.75) else draw.paint
    wide, wall = size / 2, 0.03
    # a hollow bell with its closed narrow end on the stem, its mouth tilted forward
    bell = (
        (wide, 0),
        (rim, length),
        (0, length),
        (0, length - wall),
        (rim - wall, length - wall),
        (wide - wall, 0),
    )
    x, z = path[-1][0] + length * lean, path[-1][2] - length * drop
    toy.add(lathe(bell, 24, loop=True), shade, at=(x, 0, z), turn=(0, -tilt, 0))
    toy.add(sphere(), GLOW, size * 0.52, (x - length * 0.3 * lean, 0, z + length * 0.3 * drop), front=True)
    toy.add(sphere(1), METAL, rim * 0.9, path[-1])
    if draw.chance(0.5):
        band = (wide * 0.45 + rim * 0.55) * 2
        at = (path[-1][0] + length * 0.45 * lean, 0, path[-1][2] - length * 0.45 * drop)
        toy.add(
            cylinder(sections=24),
            draw.part("stripe"),
            (band * 1.04, band * 1.04, 0.07),
            at,
            turn=(0, -tilt, 0),
        )

    front = base_size / 2
    toy.add(
        cylinder(sections=14),
        draw.part("button"),
        (0.16, 0.16, 0.08),
        (front * 0.6, 0, base_height),
        front=True,
    )
    cable = (
        (-front * 0.8, 0, 0.05),
        (-front - 0.06, 0.03, 0.04),
        (-front - 0.1, 0.14, 0.04),
        (-front - 0.02, 0.24, 0.04),
    )
    toy.add(tube(cable, 0.035, corners=6), DARK)
    _accessory(draw, toy, path, base_height, tall)
    return toy


def _accessory(draw: Draw, toy: Builder, path: tuple[Vector, ...], base_height: Number, tall: Number) -> None:
    if draw.accessory == "ribbon":
        colour, (x, _, z) = draw.part("ribbon"), path[len(path) // 2 if len(path) > 2 else 0]
        z = z if len(path) > 2 else base_height + tall * 0.4
        toy.pair(cylinder(0.15, 8), colour, (0.2, 0.1, 0.24), (x + 0.03, 0.1, z), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.14, (x + 0.03, 0, z))
    elif draw.accessory == "holder":
        colour = draw.part("holder")
        toy.add(
            lathe(((0.12, 0), (0.12, 0.3), (0.09, 0.3), (0.09, 0.05))),
            colour,
            at=(-0.02, 0.22, base_height * 0.5),
        )
        for k, tint in enumerate((DARK, METAL)):
            toy.add(
                cylinder(sections=6),
                tint,
                (0.04, 0.04, 0.4),
                (-0.04 + 0.06 * k, 0.2, base_height + 0.22),
                turn=(8, 6 - 12 * k, 0),
            )
    elif draw.accessory == "clock":
        colour = draw.part("clock")
        toy.add(
            cylinder(sections=24), colour, (0.3, 0.3, 0.12), (0.08, -0.2, base_height + 0.14), turn=(0, 90, 0)
        )
        toy.add(disc(), WHITE, (0.06, 0.23, 0.23), (0.125, -0.2, base_height + 0.14), front=True)
        toy.add(box(), DARK, (0.06, 0.03, 0.1), (0.135, -0.2, base_height + 0.18), front=True)
    elif draw.accessory == "cat":
        colour = draw.part("cat")
        x, y, z = 0.08, 0.2, base_height
        toy.add(sphere(), colour, (0.24, 0.2, 0.26), (x - 0.04, y, z + 0.1))
        toy.add(sphere(), colour, 0.18, (x, y, z + 0.28))
        for side in (1, -1):
            toy.add(cylinder(0.0, 8), colour, (0.07, 0.07, 0.1), (x, y + side * 0.055, z + 0.38))
            toy.add(sphere(1), DARK, 0.045, (x + 0.08, y + side * 0.04, z + 0.3), front=True)
