"""A boat: a pointed bow and the bridge's windows in front, a flat stern with a rudder behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLASS, WHITE
from imagedream.toybox.shapes import Builder, box, cylinder, disc, hull, prism, ring, sphere

ACCESSORIES = ("none", "funnel", "flag", "sail", "lifebuoy")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A boat: a pointed bow and the bridge's windows in front, a flat stern with a rudder behind."""
    toy = Builder()
    length, width, depth = draw.between(1.5, 2.0), draw.between(0.6, 0.85), draw.between(0.3, 0.42)
    bow, stern, half = length / 2, -length / 2, width / 2
    lines = ((bow, 0.0), (bow * 0.72, half * 0.6), (bow * 0.3, half), (stern, half * 0.85))
    outline = (*lines, *((x, -y) for x, y in reversed(lines[1:])))
    toy.add(
        hull(outline, draw.between(0.6, 0.8), -0.04 * length), draw.paint, (1, 1, depth), (0, 0, depth / 2)
    )
    rim = draw.part("rim")
    toy.add(prism(outline), rim, (1.03, 1.06, 0.07), (0, 0, depth))
    toy.add(prism(outline), (196, 158, 108), (0.95, 0.88, 0.06), (0, 0, depth + 0.02))
    toy.add(box(), DARK, (0.12, 0.05, depth * 0.8), (stern + 0.02, 0, depth * 0.4))
    toy.add(box(), WHITE, (0.05, width * 0.4, depth * 0.28), (stern + 0.03, 0, depth * 0.75))
    toy.pair(sphere(1), WHITE, 0.1, (bow * 0.8, half * 0.48, depth * 0.72), front=True)

    cabin = draw.part("cabin")
    cabin_length, cabin_height = draw.between(0.4, 0.7), draw.between(0.28, 0.42)
    x, top = draw.between(-0.25, 0.1), depth + cabin_height
    toy.add(box(), cabin, (cabin_length, width * 0.6, cabin_height), (x, 0, depth + cabin_height / 2))
    roof = draw.part("roof") if draw.chance() else WHITE
    toy.add(box(), roof, (cabin_length * 1.15, width * 0.7, 0.06), (x, 0, top + 0.02))
    toy.add(
        box(),
        GLASS,
        (0.05, width * 0.48, cabin_height * 0.42),
        (x + cabin_length / 2, 0, depth + cabin_height * 0.64),
        front=True,
    )
    toy.pair(
        disc(12), GLASS, (0.05, 0.16, 0.16), (x, width * 0.3, depth + cabin_height * 0.55), turn=(0, 0, 90)
    )
    toy.add(
        box(), DARK, (0.05, 0.18, cabin_height * 0.75), (x - cabin_length / 2, 0, depth + cabin_height * 0.38)
    )

    if draw.accessory == "funnel":
        colour = draw.part("funnel")
        toy.add(cylinder(0.85, 16), colour, (0.22, 0.22, 0.42), (x - 0.08, 0, top + 0.22), turn=(0, -8, 0))
        toy.add(cylinder(0.98, 16), DARK, (0.2, 0.2, 0.1), (x - 0.12, 0, top + 0.42), turn=(0, -8, 0))
    elif draw.accessory == "flag":
        colour = draw.part("flag")
        toy.add(cylinder(sections=8), DARK, (0.04, 0.04, 0.7), (stern + 0.12, 0, depth + 0.3))
        toy.add(box(), colour, (0.32, 0.03, 0.22), (stern + 0.29, 0, depth + 0.52))
    elif draw.accessory == "sail":
        colour, mast = draw.part("sail"), top + draw.between(0.7, 1.0)
        ahead = x + cabin_length / 2 + 0.08
        toy.add(
            cylinder(sections=8), (110, 74, 44), (0.06, 0.06, mast - depth), (ahead, 0, (mast + depth) / 2)
        )
        foot = top + 0.12
        toy.add(
            prism(((ahead - 0.04, mast), (ahead - 0.04, foot), (stern + 0.1, foot)), "y"),
            colour,
            (1, 0.04, 1),
        )
        toy.add(
            prism(((ahead + 0.04, mast - 0.1), (ahead + 0.04, foot), (bow * 0.92, depth + 0.15)), "y"),
            WHITE,
            (1, 0.04, 1),
        )
    elif draw.accessory == "lifebuoy":
        colour = draw.part("lifebuoy")
        toy.pair(
            ring(0.3),
            colour,
            0.3,
            (x - cabin_length * 0.3, width * 0.33, depth + cabin_height * 0.45),
            turn=(90, 0, 0),
        )
        toy.add(ring(0.3), colour, 0.3, (bow * 0.55, 0, depth + 0.16), turn=(0, 70, 0), front=True)
    return toy
