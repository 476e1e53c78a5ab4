"""A plane: propeller and cockpit in front, fins behind."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLASS, METAL, TAIL_LIGHT
from imagedream.toybox.shapes import Builder, box, cylinder, disc, lathe, limb, prism, rounded_box, sphere

ACCESSORIES = ("none", "engines", "floats", "upper wing")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A plane: propeller and cockpit in front, fins behind."""
    toy = Builder()
    length, girth = draw.between(1.3, 1.7), draw.between(0.32, 0.46)
    toy.add(
        lathe(((0.18, -0.5), (0.4, -0.2), (0.5, 0.15), (0.46, 0.38), (0.3, 0.5)), 20),
        draw.paint,
        (girth, girth, length),
        turn=(0, 90, 0),
    )
    nose, tail = length / 2, -length / 2
    wings = draw.part("wings")
    span, chord = draw.between(0.65, 0.95), draw.between(0.28, 0.42)
    sweep, low = draw.between(0, 0.3), draw.choice((-0.25, 0.3)) * girth
    outline = ((chord / 2, 0), (chord / 2 - sweep, span), (-chord * 0.3 - sweep, span), (-chord / 2, 0))
    toy.pair(prism(outline), wings, (1, 1, 0.06), (0.12, girth * 0.2, low), turn=(draw.between(0, 8), 0, 0))
    fin = draw.part("fins")
    small = ((0.12, 0), (-0.04, 0.32), (-0.18, 0.32), (-0.14, 0))
    toy.pair(prism(small), fin, (1, 1, 0.05), (tail + 0.14, 0.02, 0.05))
    toy.add(
        prism(((0.16, 0), (-0.1, 0.4), (-0.24, 0.4), (-0.14, 0)), "y"),
        fin,
        (1, 0.06, 1),
        (tail + 0.14, 0, 0.05),
    )
    toy.add(sphere(1), TAIL_LIGHT, 0.1, (tail - 0.01, 0, 0))

    toy.add(sphere(), GLASS, (0.46, girth * 0.62, girth * 0.62), (length * 0.14, 0, girth * 0.42), front=True)
    if draw.chance(0.65):
        blades, count = draw.part("propeller"), draw.choice((2, 3, 4))
        toy.add(sphere(1), blades, (0.26, girth * 0.4, girth * 0.4), (nose, 0, 0), front=True)
        start = draw.between(0, 90)
        for k in range(count):
            turn = start + 360 * k / count
            a = math.radians(turn)
            at = (nose + 0.06, -0.2 * math.sin(a), 0.2 * math.cos(a))
            toy.add(rounded_box(3.0), blades, (0.05, 0.1, 0.4), at, turn=(turn, 0, 0), front=True)
    else:
        toy.add(
            sphere(), draw.part("nose"), (0.4, girth * 0.68, girth * 0.68), (nose - 0.05, 0, 0), front=True
        )
        toy.pair(sphere(1), DARK, 0.09, (nose - 0.08, girth * 0.3, girth * 0.16), front=True)
    for k in range(3):
        toy.pair(
            disc(10),
            DARK,
            (0.04, 0.1, 0.1),
            (-0.05 - 0.17 * k, girth * (0.45 - 0.03 * k), girth * 0.1),
            turn=(0, 0, 90),
        )

    if draw.accessory == "engines":
        colour = draw.part("engines")
        place = (0.24 - sweep * 0.5, span * 0.52, low - 0.1)
        toy.pair(cylinder(0.85), colour, (0.18, 0.18, 0.4), place, turn=(0, 90, 0))
        toy.pair(disc(14), DARK, (0.04, 0.13, 0.13), (place[0] + 0.19, place[1], place[2]), front=True)
    elif draw.accessory == "floats":
        colour = draw.part("floats")
        toy.pair(sphere(), colour, (length * 0.6, 0.16, 0.14), (0.06, 0.26, -girth / 2 - 0.25))
        for x in (0.26, -0.12):
            toy.pair(limb((x, 0.1, -girth * 0.3), (x, 0.26, -girth / 2 - 0.22), 0.025), METAL)
    elif draw.accessory == "upper wing":
        colour = draw.part("upper wing")
        toy.add(box(), colour, (chord, span * 1.7, 0.06), (0.16, 0, girth / 2 + 0.36))
        toy.pair(
            box(),
            METAL,
            (0.05, 0.04, girth / 2 + 0.4 - low),
            (0.14, span * 0.5, (girth / 2 + 0.36 + low) / 2),
        )
    if draw.accessory != "floats":
        toy.pair(limb((0.25, 0.06, -girth * 0.3), (0.28, 0.18, -girth / 2 - 0.1), 0.025), METAL)
        toy.pair(
            cylinder(sections=14), DARK, (0.18, 0.18, 0.07), (0.28, 0.2, -girth / 2 - 0.14), turn=(90, 0, 0)
        )
    return toy
