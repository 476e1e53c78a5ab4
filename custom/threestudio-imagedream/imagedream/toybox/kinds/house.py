"""A house."""

from imagedream.toybox.builder import Builder, recipe
from imagedream.toybox.palette import DARK, GLASS, WHITE, Colour
from imagedream.toybox.shapes import Number, Vector, box, cylinder, prism, sphere, tapered_box


@recipe("chimney", "porch", "flag", "bushes")
def house(toy: Builder) -> None:
    """Door, windows and a path in front, one shuttered window behind."""
    depth, width, height = toy.between(0.55, 0.8), toy.between(0.7, 1.0), toy.between(0.65, 1.1)
    toy.add(box(), toy.paint, (depth, width, height), (0, 0, height / 2))
    roof, rise = toy.colour("roof"), toy.between(0.35, 0.65)
    _roof(toy, roof, (depth, width, rise), height)

    base = toy.between(0.04, 0.09)
    toy.add(box(), (168, 164, 158), (depth * 1.05, width * 1.05, base), (0, 0, base / 2))
    front = depth / 2
    paint, tall = toy.colour("door"), min(height * 0.72, toy.between(0.46, 0.6))
    left = toy.choice((0.0, width * 0.22, -width * 0.22))
    wide = toy.between(0.22, 0.3)
    toy.add(box(), WHITE, (0.04, wide + 0.08, tall + 0.04), (front, left, tall / 2 + 0.02))
    toy.add(box(), paint, (0.08, wide, tall), (front, left, tall / 2))
    toy.add(sphere(1), DARK, 0.05, (front + 0.05, left + wide * 0.3, tall * 0.5))
    toy.add(box(), (150, 146, 140), (0.2, wide + 0.12, 0.06), (front + 0.1, left, 0.03))

    pane = min(toy.between(0.18, 0.26), depth * 0.36)
    for side in (1, -1):
        if left == 0 or side == 1:
            y = side * width * 0.32 if left == 0 else (width * 0.28 if left < 0 else -width * 0.28)
            _window(toy, (front, y, height * 0.55), pane)
        # one window on the left wall, two on the right
        for x in (0.0,) if side == 1 else (depth * 0.25, -depth * 0.25):
            at = (x, side * width / 2, height * 0.58)
            toy.add(box(), WHITE, (pane + 0.06, 0.05, pane + 0.06), at)
            toy.add(box(), GLASS, (pane, 0.08, pane), at)
    toy.add(box(), paint, (0.05, width * 0.36, height * 0.32), (-front, 0, height * 0.58))
    toy.add(box(), DARK, (0.07, 0.03, height * 0.32), (-front, 0, height * 0.58))

    ridge = height + rise
    if toy.accessory == "chimney":
        colour, x, y = toy.colour("chimney"), -depth * 0.2, width * toy.choice((0.25, -0.25))
        toy.add(box(), colour, (0.2, 0.2, rise + 0.15), (x, y, height + (rise + 0.15) / 2))
        toy.add(box(), DARK, (0.24, 0.24, 0.05), (x, y, ridge + 0.16))
    elif toy.accessory == "porch":
        shape, size = tapered_box((0.8, 1.0), (-0.1, 0.0)), (0.42, width * 0.62, 0.1)
        toy.add(shape, toy.colour("porch"), size, (front + 0.2, left * 0.7, tall + 0.14))
        post = (front + 0.34, width * 0.26, tall / 2 + 0.05)
        toy.pair(cylinder(10), WHITE, (0.06, 0.06, tall + 0.1), post)
    elif toy.accessory == "flag":
        toy.add(cylinder(8), DARK, (0.045, 0.045, 0.6), (0, 0, ridge + 0.1))
        toy.add(box(), toy.colour("flag"), (0.03, 0.36, 0.22), (0, 0.19, ridge + 0.28))
    elif toy.accessory == "bushes":
        colour = toy.colour("bushes", ("green", "teal", "pink", "yellow"))
        for y in (width * 0.42, width * 0.2, -width * 0.2, -width * 0.42):
            if abs(y - left) > wide:
                toy.add(sphere(1), colour, (0.26, 0.26, toy.between(0.22, 0.34)), (front + 0.1, y, 0.1))


def _roof(toy: Builder, colour: Colour, size: Vector, eaves: Number) -> None:
    """One of four roofs over walls of this depth and width; eaves at this height, the roof above them."""
    depth, width, rise = size
    style = toy.choice(("gable to the front", "gable to the sides", "hipped", "shed"))
    if style == "gable to the front":
        outline, over = ((-width * 0.58, 0), (width * 0.58, 0), (0, rise)), depth * 1.14
        toy.add(prism(outline, "x"), colour, (over, 1, 1), (0, 0, eaves))
        toy.add(cylinder(16), WHITE, (0.2, 0.2, 0.05), (over / 2, 0, eaves + rise * 0.4), turn=(0, 90, 0))
    elif style == "hipped":
        shape = tapered_box((0.12, toy.between(0.1, 0.5)))
        toy.add(shape, colour, (depth * 1.14, width * 1.14, rise), (0, 0, eaves + rise / 2))
    else:
        back, front = -depth * 0.58, depth * 0.58
        shed = ((back, rise), (back, 0), (front, 0), (front, 0.1))
        outline = shed if style == "shed" else ((back, 0), (front, 0), (0, rise))
        toy.add(prism(outline, "y"), colour, (1, width * 1.14, 1), (0, 0, eaves))


def _window(toy: Builder, at: Vector, pane: Number) -> None:
    toy.add(box(), WHITE, (0.05, pane + 0.06, pane + 0.06), at)
    toy.add(box(), GLASS, (0.08, pane, pane), at)
    toy.add(box(), WHITE, (0.1, 0.03, pane), at)
