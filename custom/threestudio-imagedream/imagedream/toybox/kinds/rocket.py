"""A standing rocket: porthole and hatch in front, a ladder behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLASS, METAL
from imagedream.toybox.shapes import Builder, box, cylinder, disc, lathe, limb, prism, sphere

ACCESSORIES = ("none", "boosters", "antenna", "flag")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A standing rocket: porthole and hatch in front, a ladder behind."""
    toy = Builder()
    radius, height, ground = draw.between(0.22, 0.34), draw.between(0.8, 1.2), draw.between(0.18, 0.3)
    belly = draw.between(1.0, 1.3)
    middle = ground + height / 2
    body = ((radius * 0.8, ground), (radius * belly, middle), (radius, ground + height))
    toy.add(lathe(body, 24), draw.paint)
    tip, tall = draw.part("tip"), draw.between(0.35, 0.55)
    nose = ((radius * 1.02, 0), (radius * 0.72, tall * 0.45), (radius * 0.3, tall * 0.85), (0, tall))
    toy.add(lathe(nose if draw.chance(0.6) else (nose[0], nose[-1]), 24), tip, at=(0, 0, ground + height))
    toy.add(lathe(((radius * 0.75, ground - 0.14), (radius * 0.5, ground)), 20), DARK)
    fins, count, reach = draw.part("fins"), draw.choice((3, 4)), draw.between(0.22, 0.36)
    root = radius * 0.7
    outline = ((root, ground + 0.4), (root + reach, ground), (root + reach, 0), (root, ground + 0.02))
    for k in range(count):
        # no fin straight ahead: three leave one behind, four stand on the diagonals
        toy.add(
            prism(outline, "y"), fins, (1, 0.07, 1), turn=(0, 0, 180 + 120 * k if count == 3 else 45 + 90 * k)
        )

    wall, high = radius * (1 + (belly - 1) * 0.55), ground + height * 0.76
    toy.add(disc(), METAL, (0.1, radius * 1.05, radius * 1.05), (wall, 0, high), front=True)
    toy.add(disc(), GLASS, (0.14, radius * 0.75, radius * 0.75), (wall, 0, high), front=True)
    hatch = draw.part("hatch")
    toy.add(
        box(),
        hatch,
        (0.12, radius * 0.8, height * 0.26),
        (radius * belly * 0.95, 0, ground + height * 0.36),
        front=True,
    )
    toy.add(
        sphere(1),
        DARK,
        0.06,
        (radius * belly * 0.95 + 0.07, radius * 0.25, ground + height * 0.36),
        front=True,
    )
    for k in range(6):
        toy.add(
            box(),
            METAL,
            (0.08, radius * 0.7, 0.03),
            (-radius * belly * 0.95, 0, ground + height * (0.18 + 0.12 * k)),
        )
    if draw.chance(0.5):
        band = radius * (1 + (belly - 1) * 0.2) + 0.012
        toy.add(
            cylinder(sections=24),
            draw.part("stripe"),
            (band * 2, band * 2, 0.09),
            (0, 0, ground + height * 0.93),
        )

    if draw.accessory == "boosters":
        colour = draw.part("boosters")
        for side in (1, -1):
            y = side * (radius * belly + 0.1)
            toy.add(cylinder(sections=16), colour, (0.22, 0.22, height * 0.6), (0, y, ground + height * 0.36))
            toy.add(cylinder(0.0, 16), tip, (0.22, 0.22, 0.2), (0, y, ground + height * 0.66 + 0.1))
            toy.add(cylinder(0.6, 12), DARK, (0.2, 0.2, 0.1), (0, y, ground + height * 0.06 - 0.04))
    elif draw.accessory == "antenna":
        colour, top = draw.part("antenna"), ground + height + tall
        toy.add(limb((0, 0, top - 0.05), (0, 0, top + 0.2), 0.02), METAL)
        toy.add(sphere(1), colour, 0.12, (0, 0, top + 0.22))
    elif draw.accessory == "flag":
        colour = draw.part("flag")
        toy.add(limb((0, radius * 0.8, high), (0, radius + 0.42, high + 0.14), 0.022), METAL)
        toy.add(box(), colour, (0.04, 0.3, 0.2), (0, radius + 0.3, high + 0.2))
    return toy
