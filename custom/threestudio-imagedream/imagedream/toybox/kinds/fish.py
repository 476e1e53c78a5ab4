"""A fish: lips and eyes in front, a tail fin behind."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.shapes import Builder, cylinder, lathe, prism, ring, rounded_box, sphere, tube

ACCESSORIES = ("none", "crown", "snorkel", "bow")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A fish: lips and eyes in front, a tail fin behind."""
    toy = Builder()
    length, width, height = draw.between(0.9, 1.3), draw.between(0.4, 0.6), draw.between(0.5, 0.8)
    exponent = draw.choice((2.0, 2.5))
    toy.add(rounded_box(exponent, 7), draw.paint, (length, width, height))
    fins = draw.part("fins")
    back, tail = -length * 0.44, draw.between(0.3, 0.5)
    spread = height * draw.between(0.4, 0.6)
    outline = ((0.12, 0.04), (-tail, spread), (-tail * 0.6, 0), (-tail, -spread), (0.12, -0.04))
    toy.add(prism(outline, "y"), fins, (1, 0.08, 1), (back, 0, 0))
    dorsal = ((0.28, 0), (-0.02, draw.between(0.2, 0.4)), (-0.3, 0.12), (-0.28, 0))
    toy.add(prism(dorsal, "y"), fins, (1, 0.07, 1), (0, 0, height * 0.42))
    flap = ((0.08, 0), (-0.14, 0.3), (-0.26, 0.24), (-0.12, 0))
    toy.pair(
        prism(flap),
        fins,
        (1, 1, 0.06),
        (length * 0.12, width * 0.4, -height * 0.12),
        turn=(draw.between(-50, 10), 0, 0),
    )
    eyes(toy, (length * 0.36, width * 0.3, height * 0.14), 0.22)
    lips = draw.part("lips", ("red", "pink", "orange", "yellow", "purple"))
    toy.add(
        ring(0.4, 14),
        lips,
        (width * 0.55, 0.24, 0.5),
        (length * 0.5, 0, -height * 0.06),
        turn=(90, 0, 90),
        front=True,
    )
    style = draw.choice(("stripes", "dots", "belly"))
    colour = draw.part(style)
    if style == "stripes":
        for share in (0.16, -0.06, -0.26):
            # a slice a little larger than the body's own cross-section there
            size = (1 - abs(2 * share) ** exponent) ** (1 / exponent) * 1.05
            toy.add(
                rounded_box(exponent),
                colour,
                (length * 0.14, width * size, height * size),
                (length * share, 0, 0),
            )
    elif style == "dots":
        for x, z in ((0.12, 0.18), (-0.08, -0.1), (-0.22, 0.12), (0.04, -0.24), (-0.3, -0.06)):
            out = (1 - abs(2 * x) ** exponent - abs(2 * z) ** exponent) ** (1 / exponent) * width / 2
            toy.pair(sphere(1), colour, (0.15, 0.08, 0.15), (length * x, out, height * z))
    else:
        toy.add(
            sphere(),
            colour,
            (length * 0.85, width * 0.86, height * 0.7),
            (length * 0.05, 0, -height * 0.17),
            front=True,
        )

    top = (length * 0.2, 0, height * 0.44)
    if draw.accessory == "crown":
        gold = draw.part("crown", ("yellow", "orange", "white", "gray"))
        toy.add(lathe(((0.15, 0), (0.19, 0.13), (0.15, 0.13), (0.12, 0)), 16, loop=True), gold, at=top)
        for k in range(6):
            a = math.radians(60 * k)
            toy.add(
                cylinder(0.0, 6),
                gold,
                (0.1, 0.1, 0.13),
                (top[0] + 0.16 * math.cos(a), 0.16 * math.sin(a), top[2] + 0.18),
            )
    elif draw.accessory == "snorkel":
        colour, y = draw.part("snorkel"), width * 0.46
        path = (
            (length * 0.46, y * 0.5, -height * 0.05),
            (length * 0.36, y, -height * 0.05),
            (length * 0.26, y, height * 0.5),
            (length * 0.2, y, height * 0.75),
        )
        toy.add(tube(path, 0.045), colour)
    elif draw.accessory == "bow":
        colour = draw.part("bow")
        toy.pair(cylinder(0.15, 8), colour, (0.2, 0.12, 0.22), (top[0], 0.11, top[2] + 0.06), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.13, (top[0], 0, top[2] + 0.06))
    return toy
