"""A hammer: the striking face in front, a claw or a wedge behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, METAL
from imagedream.toybox.shapes import (
    Builder,
    box,
    cylinder,
    disc,
    ring,
    rounded_box,
    sphere,
    star,
    tapered_box,
    tube,
)

ACCESSORIES = ("none", "strap", "nails", "ribbon")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A hammer: the striking face in front, a claw or a wedge behind."""
    toy = Builder()
    tall, thick = draw.between(0.9, 1.3), draw.between(0.12, 0.18)
    # the handle is the body, for it is what a hand would paint
    toy.add(
        draw.choice((cylinder(), rounded_box(8.0))), draw.paint, (thick, thick * 1.1, tall), (0, 0, tall / 2)
    )
    grip = draw.part("grip")
    toy.add(rounded_box(5.0), grip, (thick * 1.4, thick * 1.5, tall * 0.34), (0, 0, tall * 0.17))
    for k in range(3):
        toy.add(box(), DARK, (0.05, thick * 1.1, 0.035), (-thick * 0.68, 0, tall * (0.09 + 0.08 * k)))
    badge = draw.part("badge")
    toy.add(
        draw.choice((star(), disc())),
        badge,
        (0.06, 0.2, 0.2),
        (thick * 0.5 + 0.01, 0, tall * 0.55),
        front=True,
    )
    toy.add(box(), badge, (0.06, 0.14, 0.12), (thick * 0.72, 0, tall * 0.2), front=True)

    head, size = draw.part("head"), draw.between(0.24, 0.36)
    top, reach = tall, draw.between(0.3, 0.45)
    style = draw.choice(("claw", "mallet", "wedge"))
    toy.add(rounded_box(6.0), head, (size * 1.1, size, size), (0, 0, top))
    if style == "mallet":
        toy.add(
            cylinder(sections=24), head, (size * 1.7, size * 1.7, reach * 2), (0, 0, top), turn=(0, 90, 0)
        )
        toy.add(
            cylinder(sections=24),
            METAL,
            (size * 1.8, size * 1.8, 0.08),
            (reach - 0.06, 0, top),
            turn=(0, 90, 0),
            front=True,
        )
        toy.add(disc(), draw.part("face"), (0.06, size * 1.4, size * 1.4), (reach, 0, top), front=True)
        toy.add(box(), DARK, (0.05, size, 0.08), (-reach, 0, top))
    else:
        toy.add(
            cylinder(0.8),
            head,
            (size * 0.8, size * 0.8, reach),
            (reach / 2, 0, top),
            turn=(0, 90, 0),
            front=True,
        )
        toy.add(
            cylinder(sections=24),
            METAL,
            (size * 1.15, size * 1.15, 0.16),
            (reach, 0, top),
            turn=(0, 90, 0),
            front=True,
        )
        toy.add(disc(), draw.part("face"), (0.06, size * 0.8, size * 0.8), (reach + 0.07, 0, top), front=True)
        if style == "claw":
            path = (
                (-size * 0.3, size * 0.22, top),
                (-reach * 0.7, size * 0.26, top + 0.02),
                (-reach * 1.2, size * 0.34, top - 0.16),
            )
            toy.pair(tube(path, size * 0.2, 0.03, corners=8), head)
        else:
            toy.add(
                tapered_box((1.0, 0.08)),
                head,
                (size * 0.9, size, reach * 1.2),
                (-reach * 0.7, 0, top),
                turn=(0, -90, 0),
            )
    if draw.accessory == "strap":
        colour = draw.part("strap")
        toy.add(ring(0.16, 18), colour, (0.34, 0.44, 0.4), (-0.1, 0, 0.02), turn=(90, 0, 30))
    elif draw.accessory == "nails":
        colour = draw.part("nails")
        for y, x in ((0.26, 0.12), (0.36, -0.04), (-0.28, 0.1)):
            toy.add(cylinder(1.0, 8), colour, (0.05, 0.05, 0.3), (x, y, 0.15))
            toy.add(cylinder(1.0, 12), colour, (0.15, 0.15, 0.04), (x, y, 0.31))
    elif draw.accessory == "ribbon":
        colour, z = draw.part("ribbon"), tall * 0.72
        toy.pair(
            cylinder(0.15, 8),
            colour,
            (0.2, 0.1, 0.24),
            (thick * 0.5 + 0.03, 0.11, z),
            turn=(90, 0, 0),
            front=True,
        )
        toy.add(sphere(1), colour, 0.13, (thick * 0.5 + 0.05, 0, z), front=True)
    return toy
