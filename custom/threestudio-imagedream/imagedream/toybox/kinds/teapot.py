"""A teapot: a badge or a face in front, the handle to its left and the spout to its right."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import badge, wall_patch
from imagedream.toybox.palette import DARK, WHITE
from imagedream.toybox.shapes import Builder, box, cylinder, dome, lathe, ring, rounded_box, sphere, tube

ACCESSORIES = ("none", "saucer", "ribbon", "feet", "tea bag")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A teapot: a badge or a face in front, the handle to its left and the spout to its right."""
    toy = Builder()
    radius, height = draw.between(0.4, 0.5), draw.between(0.55, 0.85)
    exponent = draw.choice((2.0, 2.6, 3.4))
    # feet lift the pot
    lift = 0.1 if draw.accessory == "feet" else 0.0
    middle = lift + height * 0.46
    toy.add(rounded_box(exponent, 7), draw.paint, (radius * 2, radius * 2, height), (0, 0, middle))
    trim = draw.part("lid")
    top = middle + height * 0.4
    toy.add(dome(24), trim, (radius * 1.3, radius * 1.3, height * 0.4), (0, 0, top))
    knob = draw.part("knob")
    toy.add(sphere(), knob, radius * 0.36, (0, 0, top + height * 0.24))
    toy.add(cylinder(0.85, 24), trim, (radius * 1.2, radius * 1.2, 0.07), (0, 0, lift + 0.035))

    handle = draw.part("handle") if draw.chance(0.6) else draw.paint
    reach, grip = draw.between(0.26, 0.36), height * draw.between(0.24, 0.32)
    angles = [math.radians(-90 + 22.5 * k) for k in range(9)]
    bow = tuple((0.0, radius * 0.86 + reach * math.cos(a), middle + grip * math.sin(a)) for a in angles)
    toy.add(tube(bow, 0.06), handle)
    spout = draw.part("spout") if draw.chance(0.5) else draw.paint
    length, rise = draw.between(0.28, 0.4), height * draw.between(0.3, 0.45)
    root = radius * 0.75
    path = (
        (0, -root, middle - height * 0.12),
        (0, -root - length * 0.55, middle),
        (0, -root - length * 0.75, middle + rise * 0.6),
        (0, -root - length, middle + rise),
    )
    toy.add(tube(path, 0.15, 0.07, corners=14), spout)
    toy.add(sphere(1), DARK, (0.1, 0.1, 0.04), (0, -root - length - 0.01, middle + rise))

    badge(draw, toy, radius, (0, 0, middle), height * 0.5)
    stripe = draw.part("stripe")
    for offset in (-0.1, 0.08):
        toy.add(wall_patch(radius * 0.96, 0.07, 180, 48), stripe, at=(0, 0, middle + height * offset))

    if draw.accessory == "saucer":
        plate = ((radius * 0.6, -0.06), (radius * 1.5, 0.02), (radius * 1.5, 0.06), (radius * 0.6, 0.01))
        toy.add(lathe(plate, 28), draw.part("saucer"))
    elif draw.accessory == "ribbon":
        colour = draw.part("ribbon")
        toy.add(ring(0.12, 24), colour, (radius * 1.72, radius * 1.72, 0.5), (0, 0, middle + height * 0.27))
        toy.pair(
            cylinder(0.15, 8),
            colour,
            (0.2, 0.1, 0.24),
            (radius * 0.84, 0.11, middle + height * 0.27),
            turn=(90, 0, 0),
            front=True,
        )
    elif draw.accessory == "feet":
        colour = draw.part("feet")
        for x in (radius * 0.45, -radius * 0.45):
            toy.pair(sphere(1), colour, (0.2, 0.2, 0.22), (x, radius * 0.45, 0.1))
    elif draw.accessory == "tea bag":
        colour = draw.part("tea bag")
        x, y, z = radius * 0.78, radius * 0.5, middle + height * 0.12
        toy.add(
            tube(((radius * 0.5, radius * 0.35, top), (x, y, z + 0.1), (x + 0.03, y, z)), 0.016, corners=6),
            WHITE,
        )
        toy.add(box(), colour, (0.04, 0.16, 0.18), (x + 0.06, y, z - 0.06), turn=(0, 0, 25), front=True)
    return toy
