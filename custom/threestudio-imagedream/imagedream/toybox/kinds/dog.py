"""A four-legged animal: head with snout at the front, tail at the back."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.palette import DARK
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    limb,
    ring,
    rounded_box,
    sphere,
    tube,
)

ACCESSORIES = ("none", "collar", "hat", "saddle", "scarf")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A four-legged animal: head with snout at the front, tail at the back."""
    toy = Builder()
    length, girth, leg = draw.between(0.75, 1.25), draw.between(0.38, 0.55), draw.between(0.25, 0.55)
    spine = leg + girth * 0.4
    toy.add(rounded_box(2.7), draw.paint, (length, girth, girth), (0, 0, spine))

    marks = draw.part(draw.choice(("ears", "patches")))
    leg_radius = draw.between(0.07, 0.1)
    socks = draw.chance(0.4)
    socks_paint = draw.part("paws") if socks else draw.paint
    for x in (length * 0.36, -length * 0.36):
        hip = (x, girth * 0.32, leg)
        toy.pair(limb(hip, (x + 0.02, girth * 0.34, leg_radius), leg_radius), draw.paint)
        toy.pair(
            sphere(1),
            socks_paint,
            (leg_radius * 3.2, leg_radius * 2.5, leg_radius * 2),
            (x + 0.05, girth * 0.34, leg_radius),
        )

    head_size = draw.between(0.42, 0.58)
    neck = (length * 0.42, 0, spine + girth * 0.2)
    head = (length * 0.5 + draw.between(0.02, 0.14), 0, spine + girth * 0.2 + draw.between(0.2, 0.42))
    toy.add(limb(neck, head, head_size * 0.28), draw.paint)
    toy.add(sphere(), draw.paint, (head_size, head_size, head_size * 0.92), head)
    snout = draw.between(0.22, 0.42)
    front = head[0] + head_size * 0.38
    low = head[2] - head_size * 0.14
    toy.add(
        rounded_box(2.6),
        marks if draw.chance() else draw.paint,
        (snout * 1.5, head_size * 0.5, head_size * 0.42),
        (front, 0, low),
    )
    toy.add(sphere(1), DARK, head_size * 0.24, (front + snout * 0.72, 0, low + head_size * 0.1), front=True)
    eyes(toy, (head[0] + head_size * 0.38, head_size * 0.22, head[2] + head_size * 0.16), head_size * 0.24)
    if draw.chance(0.3):
        toy.add(
            box(),
            draw.part("tongue", ("red", "pink")),
            (0.05, 0.11, 0.16),
            (front + snout * 0.6, 0, low - head_size * 0.22),
            front=True,
        )

    _ears(draw, toy, head, head_size, marks)
    if "patches" in draw.attributes:
        for _ in range(3):
            x, side = draw.between(-0.34, 0.3) * length, draw.choice((1, -1))
            toy.add(
                sphere(1),
                marks,
                (girth * 0.55, girth * 0.2, girth * 0.5),
                (x, side * girth * 0.4, spine + draw.between(-0.05, 0.12)),
            )

    tail_length, tail = draw.between(0.25, 0.5), (-length * 0.46, 0, spine + girth * 0.2)
    tip = (
        tail[0] - tail_length * 0.7,
        draw.between(-0.1, 0.1),
        tail[2] + tail_length * draw.between(-0.3, 0.9),
    )
    bend = (tail[0] - tail_length * 0.5, 0, tail[2] + 0.05)
    toy.add(tube((tail, bend, tip), 0.075, 0.04), draw.paint)
    toy.add(sphere(1), marks, 0.13, tip)

    if draw.accessory == "collar":
        toy.add(ring(0.22), draw.part("collar"), head_size * 0.95, _between(neck, head, 0.4), turn=(0, 25, 0))
    elif draw.accessory == "hat":
        colour = draw.part("hat")
        top = (head[0] - 0.02, 0, head[2] + head_size * 0.42)
        toy.add(cylinder(sections=24), colour, (head_size * 0.95, head_size * 0.95, 0.05), top)
        toy.add(
            cylinder(draw.choice((0.85, 0.0))),
            colour,
            (head_size * 0.6, head_size * 0.6, 0.26),
            (top[0], 0, top[2] + 0.13),
        )
    elif draw.accessory == "saddle":
        colour = draw.part("saddle")
        toy.add(
            rounded_box(4.0),
            colour,
            (length * 0.36, girth * 1.08, girth * 0.55),
            (-length * 0.02, 0, spine + girth * 0.27),
        )
    elif draw.accessory == "scarf":
        colour = draw.part("scarf")
        toy.add(ring(0.3), colour, head_size * 1.05, _between(neck, head, 0.35), turn=(0, 20, 0))
        toy.add(
            box(),
            colour,
            (0.06, 0.14, 0.34),
            (length * 0.5 + 0.04, head_size * 0.36, spine),
            turn=(10, -8, 0),
        )
    return toy


def _between(a: Vector, b: Vector, share: Number) -> Vector:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def _ears(draw: Draw, toy: Builder, head: Vector, head_size: Number, colour: tuple[int, int, int]) -> None:
    x, _, z = head
    style = draw.choice(("floppy", "pointed", "round"))
    if style == "floppy":
        toy.pair(
            sphere(),
            colour,
            (head_size * 0.32, head_size * 0.16, head_size * 0.75),
            (x - 0.03, head_size * 0.5, z),
            turn=(14, 0, 0),
        )
    elif style == "pointed":
        toy.pair(
            cylinder(0.0, 8),
            colour,
            (head_size * 0.2, head_size * 0.34, head_size * 0.55),
            (x - 0.04, head_size * 0.3, z + head_size * 0.52),
            turn=(-12, 0, 0),
        )
    else:
        toy.pair(
            sphere(),
            colour,
            (head_size * 0.16, head_size * 0.4, head_size * 0.4),
            (x - 0.02, head_size * 0.4, z + head_size * 0.36),
        )
