"""A snowman of any colour: face, buttons and scarf ends in front."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK
from imagedream.toybox.shapes import Builder, box, cylinder, limb, ring, rounded_box, sphere, tube

ACCESSORIES = ("none", "hat", "broom", "backpack", "earmuffs")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A snowman of any colour: face, buttons and scarf ends in front."""
    toy = Builder()
    low, chest, head = draw.between(0.75, 0.95), draw.between(0.55, 0.7), draw.between(0.42, 0.54)
    flat = draw.between(0.85, 1.0)
    middle = low * flat * 0.88 + chest * flat * 0.38
    top = middle + chest * flat * 0.45 + head * 0.38
    toy.add(sphere(), draw.paint, (low, low, low * flat), (0, 0, low * flat / 2))
    toy.add(sphere(), draw.paint, (chest, chest, chest * flat), (0, 0, middle))
    toy.add(sphere(), draw.paint, head, (0, 0, top))
    toy.pair(sphere(1), DARK, 0.09, (head * 0.44, head * 0.2, top + head * 0.14), front=True)
    nose, length = draw.part("nose", ("orange", "red", "yellow")), draw.between(0.2, 0.4)
    toy.add(
        cylinder(0.0, 10),
        nose,
        (0.12, 0.12, length),
        (head * 0.46 + length / 2, 0, top),
        turn=(0, 90, 0),
        front=True,
    )
    for k in range(5):
        a = math.radians(30 * (k - 2))
        toy.add(
            sphere(1),
            DARK,
            0.05,
            (head * 0.44, head * 0.26 * math.sin(a * 1.2), top - head * (0.1 + 0.14 * math.cos(a))),
            front=True,
        )
    buttons = draw.part("buttons")
    for share in (0.28, 0.0, -0.26):
        z = chest * flat * share
        toy.add(
            sphere(1),
            buttons,
            0.1,
            (math.sqrt(max(0.25 - share * share, 0)) * chest, 0, middle + z),
            front=True,
        )
    scarf, neck = draw.part("scarf"), top - head * 0.42
    toy.add(ring(0.26), scarf, (head * 1.02, head * 1.02, 0.5), (0, 0, neck))
    side = draw.choice((1, -1))
    toy.add(
        box(),
        scarf,
        (0.06, 0.13, 0.34),
        (chest * 0.47, side * chest * 0.22, neck - 0.16),
        turn=(0, -8, 0),
        front=True,
    )
    for hand in (1, -1):
        tip = (draw.between(0.0, 0.15), hand * (chest * 0.5 + 0.34), middle + draw.between(-0.05, 0.35))
        elbow = (0.02, hand * (chest * 0.5 + 0.14), middle + 0.1)
        toy.add(
            tube(((0, hand * chest * 0.3, middle + 0.06), elbow, tip), 0.035, 0.025, corners=7), (112, 74, 44)
        )

    if draw.accessory == "hat":
        colour, brim = draw.part("hat"), top + head * 0.4
        toy.add(cylinder(sections=24), colour, (head * 1.1, head * 1.1, 0.05), (0, 0, brim))
        toy.add(
            cylinder(draw.choice((0.9, 0.0, 1.1))),
            colour,
            (head * 0.7, head * 0.7, 0.34),
            (0, 0, brim + 0.17),
        )
        toy.add(cylinder(), scarf, (head * 0.73, head * 0.73, 0.06), (0, 0, brim + 0.05))
    elif draw.accessory == "broom":
        colour, y = draw.part("broom"), side * (chest * 0.5 + 0.3)
        toy.add(limb((0.12, y, 0.1), (0.12, y, top + 0.1), 0.028), (112, 74, 44))
        toy.add(cylinder(0.3, 12), colour, (0.3, 0.3, 0.3), (0.12, y, top + 0.2), turn=(180, 0, 0))
    elif draw.accessory == "backpack":
        colour = draw.part("backpack")
        toy.add(rounded_box(5.0), colour, (0.3, chest * 0.75, chest * 0.8), (-chest * 0.55, 0, middle))
        toy.add(box(), DARK, (0.06, chest * 0.5, 0.05), (-chest * 0.55 - 0.14, 0, middle))
    elif draw.accessory == "earmuffs":
        colour = draw.part("earmuffs")
        toy.pair(sphere(1), colour, (0.22, 0.14, 0.22), (0, head * 0.5, top))
        toy.add(ring(0.08), colour, (head * 1.12, head * 1.12, 0.5), (0, 0, top + 0.02), turn=(90, 0, 90))
    return toy
