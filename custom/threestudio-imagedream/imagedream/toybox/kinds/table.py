"""A desk: drawers with knobs in front, a closed panel behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLASS, GLOW, WHITE
from imagedream.toybox.shapes import Builder, box, cylinder, lathe, limb, rounded_box, sphere

ACCESSORIES = ("none", "computer", "books", "vase", "globe")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A desk: drawers with knobs in front, a closed panel behind."""
    toy = Builder()
    width, depth, height = draw.between(1.0, 1.35), draw.between(0.6, 0.8), draw.between(0.6, 0.8)
    slab = draw.between(0.06, 0.11)
    toy.add(
        draw.choice((box(), rounded_box(9.0))), draw.paint, (depth, width, slab), (0, 0, height - slab / 2)
    )
    legs = draw.part("legs")
    splay = draw.between(0, 0.07)
    for x in (depth * 0.4, -depth * 0.4):
        toy.pair(
            limb((x, width * 0.43, height - slab), (x * (1 + splay), width * 0.43 + splay, 0.035), 0.04), legs
        )

    drawers, knobs = draw.part("drawers"), draw.part("knobs")
    side = draw.choice((1, -1))
    rows = draw.choice((1, 2, 3))
    tall = min(0.17 * rows, height - 0.16)
    y, wide, low = side * width * 0.2, width * 0.46, height - slab
    toy.add(box(), draw.paint, (depth * 0.8, wide, tall), (0, y, low - tall / 2))
    for row in range(rows):
        z = low - tall * (row + 0.5) / rows
        toy.add(box(), drawers, (0.06, wide * 0.9, tall / rows * 0.8), (depth * 0.4, y, z), front=True)
        toy.add(sphere(1), knobs, 0.08, (depth * 0.4 + 0.05, y, z), front=True)
    toy.add(box(), legs, (0.05, width * 0.86, height * 0.35), (-depth * 0.4, 0, low - height * 0.17))

    if draw.accessory == "computer":
        colour = draw.part("computer")
        toy.add(box(), colour, (0.07, 0.5, 0.36), (-0.1, -side * 0.1, height + 0.27))
        toy.add(box(), GLASS, (0.03, 0.43, 0.29), (-0.06, -side * 0.1, height + 0.27), front=True)
        toy.add(box(), colour, (0.1, 0.1, 0.12), (-0.12, -side * 0.1, height + 0.05))
        toy.add(box(), WHITE, (0.16, 0.4, 0.04), (depth * 0.28, -side * 0.1, height + 0.02), front=True)
    elif draw.accessory == "books":
        colour = draw.part("books")
        for k, tint in enumerate((colour, WHITE, colour)):
            toy.add(
                box(),
                tint,
                (0.34, 0.26, 0.07),
                (0, side * width * 0.26, height + 0.035 + 0.07 * k),
                turn=(0, 0, 12 * k - 8),
            )
    elif draw.accessory == "vase":
        colour = draw.part("vase")
        y = -side * width * 0.28
        toy.add(lathe(((0.08, 0), (0.14, 0.14), (0.06, 0.3), (0.09, 0.36))), colour, at=(0, y, height))
        for k in range(3):
            toy.add(sphere(1), GLOW, 0.14, (0.05 * k - 0.04, y + 0.1 * (k - 1), height + 0.45 - 0.03 * k))
    elif draw.accessory == "globe":
        colour = draw.part("globe")
        y = -side * width * 0.25
        toy.add(cylinder(0.6), DARK, (0.22, 0.22, 0.08), (0, y, height + 0.04))
        toy.add(sphere(), colour, 0.32, (0, y, height + 0.24))
    return toy
