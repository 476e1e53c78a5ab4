"""A house: door, windows and a path in front, one shuttered window behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLASS, WHITE
from imagedream.toybox.shapes import Builder, Number, Vector, box, cylinder, prism, sphere, tapered_box

ACCESSORIES = ("none", "chimney", "porch", "flag", "bushes")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A house: door, windows and a path in front, one shuttered window behind."""
    toy = Builder()
    depth, width, height = draw.between(0.55, 0.8), draw.between(0.7, 1.0), draw.between(0.65, 1.1)
    toy.add(box(), draw.paint, (depth, width, height), (0, 0, height / 2))
    roof, rise = draw.part("roof"), draw.between(0.35, 0.65)
    style = draw.choice(("gable to the front", "gable to the sides", "hipped", "shed"))
    eaves = 1.14
    if style == "gable to the front":
        outline = ((-width * 0.58, 0), (width * 0.58, 0), (0, rise))
        toy.add(prism(outline, "x"), roof, (depth * eaves, 1, 1), (0, 0, height))
        toy.add(
            cylinder(sections=16),
            WHITE,
            (0.2, 0.2, 0.05),
            (depth * eaves / 2, 0, height + rise * 0.4),
            turn=(0, 90, 0),
            front=True,
        )
    elif style == "gable to the sides":
        outline = ((-depth * 0.58, 0), (depth * 0.58, 0), (0, rise))
        toy.add(prism(outline, "y"), roof, (1, width * eaves, 1), (0, 0, height))
    elif style == "hipped":
        toy.add(
            tapered_box((0.12, draw.between(0.1, 0.5))),
            roof,
            (depth * eaves, width * eaves, rise),
            (0, 0, height + rise / 2),
        )
    else:
        outline = ((-depth * 0.58, rise), (-depth * 0.58, 0), (depth * 0.58, 0), (depth * 0.58, 0.1))
        toy.add(prism(outline, "y"), roof, (1, width * eaves, 1), (0, 0, height))

    base = draw.between(0.04, 0.09)
    toy.add(box(), (168, 164, 158), (depth * 1.05, width * 1.05, base), (0, 0, base / 2))
    front = depth / 2
    door, door_height = draw.part("door"), min(height * 0.72, draw.between(0.46, 0.6))
    door_y = draw.choice((0.0, width * 0.22, -width * 0.22))
    door_width = draw.between(0.22, 0.3)
    toy.add(
        box(),
        WHITE,
        (0.04, door_width + 0.08, door_height + 0.04),
        (front, door_y, door_height / 2 + 0.02),
        front=True,
    )
    toy.add(box(), door, (0.08, door_width, door_height), (front, door_y, door_height / 2), front=True)
    toy.add(sphere(1), DARK, 0.05, (front + 0.05, door_y + door_width * 0.3, door_height * 0.5), front=True)
    toy.add(box(), (150, 146, 140), (0.2, door_width + 0.12, 0.06), (front + 0.1, door_y, 0.03), front=True)

    pane = min(draw.between(0.18, 0.26), depth * 0.36)
    for side in (1, -1):
        y = side * width * 0.32 if door_y == 0 else (width * 0.28 if door_y < 0 else -width * 0.28)
        if door_y == 0 or side == 1:
            _window(toy, (front, y, height * 0.55), pane)
        # one window on the left wall, two on the right
        for x in (0.0,) if side == 1 else (depth * 0.25, -depth * 0.25):
            toy.add(box(), WHITE, (pane + 0.06, 0.05, pane + 0.06), (x, side * width / 2, height * 0.58))
            toy.add(box(), GLASS, (pane, 0.08, pane), (x, side * width / 2, height * 0.58))
    toy.add(box(), door, (0.05, width * 0.36, height * 0.32), (-front, 0, height * 0.58))
    toy.add(box(), DARK, (0.07, 0.03, height * 0.32), (-front, 0, height * 0.58))

    ridge = height + rise
    if draw.accessory == "chimney":
        colour = draw.part("chimney")
        x, y = -depth * 0.2, width * draw.choice((0.25, -0.25))
        toy.add(box(), colour, (0.2, 0.2, rise + 0.15), (x, y, height + (rise + 0.15) / 2))
        toy.add(box(), DARK, (0.24, 0.24, 0.05), (x, y, height + rise + 0.16))
    elif draw.accessory == "porch":
        colour = draw.part("porch")
        toy.add(
            tapered_box((0.8, 1.0), (-0.1, 0.0)),
            colour,
            (0.42, width * 0.62, 0.1),
            (front + 0.2, door_y * 0.7, door_height + 0.14),
        )
        toy.pair(
            cylinder(sections=10),
            WHITE,
            (0.06, 0.06, door_height + 0.1),
            (front + 0.34, width * 0.26, door_height / 2 + 0.05),
        )
    elif draw.accessory == "flag":
        colour = draw.part("flag")
        toy.add(cylinder(sections=8), DARK, (0.045, 0.045, 0.6), (0, 0, ridge + 0.1))
        toy.add(box(), colour, (0.03, 0.36, 0.22), (0, 0.19, ridge + 0.28))
    elif draw.accessory == "bushes":
        colour = draw.part("bushes", ("green", "teal", "pink", "yellow"))
        for y in (width * 0.42, width * 0.2, -width * 0.2, -width * 0.42):
            if abs(y - door_y) > door_width:
                toy.add(sphere(1), colour, (0.26, 0.26, draw.between(0.22, 0.34)), (front + 0.1, y, 0.1))
    return toy


def _window(toy: Builder, at: Vector, pane: Number) -> None:
    x, y, z = at
    toy.add(box(), WHITE, (0.05, pane + 0.06, pane + 0.06), at, front=True)
    toy.add(box(), GLASS, (0.08, pane, pane), at, front=True)
    toy.add(box(), WHITE, (0.1, 0.03, pane), (x, y, z), front=True)
