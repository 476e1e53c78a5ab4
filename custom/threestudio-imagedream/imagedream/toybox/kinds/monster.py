"""A monster: a body with any head, limbs, horns and tail; belly, face and feet show where its front is.

Limbs are in many places, so that a model which learns from it must look for them instead of remembering them.
"""

import math
from functools import partial

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.palette import DARK, WHITE, Colour
from imagedream.toybox.shapes import (
    Builder,
    Vector,
    box,
    cylinder,
    limb,
    ring,
    rounded_box,
    sphere,
    tapered_box,
    tube,
)

ACCESSORIES = ("none", "hat", "collar", "bag", "spikes", "shield")
"""Parts that a toy of this kind may carry."""

_BODIES = (
    sphere,
    partial(rounded_box, 2.6),
    partial(rounded_box, 5.0),
    partial(cylinder, 0.8),
    partial(tapered_box, (0.7, 0.7)),
)
_HEADS = (sphere, sphere, partial(rounded_box, 3.0), partial(rounded_box, 5.0), partial(cylinder, 0.9))


def build(draw: Draw) -> Builder:
    """A monster: a body with any head, limbs, horns and tail; belly, face and feet show where its front is."""
    toy = Builder()
    depth, width, height = draw.between(0.45, 1.1), draw.between(0.45, 0.9), draw.between(0.45, 1.0)
    legs = draw.choice((0, 2, 2, 4, 4))
    base = draw.between(0.12, 0.5) if legs else 0.0  # height of the belly's underside
    middle = base + height / 2
    toy.add(draw.choice(_BODIES)(), draw.paint, (depth, width, height), (0, 0, middle))
    second = draw.part("paws") if draw.chance() else draw.paint
    belly = draw.part("belly")
    size = (0.5 * depth, draw.between(0.5, 0.75) * width, draw.between(0.5, 0.75) * height)
    toy.add(sphere(), belly, size, (0.3 * depth, 0, middle), front=True)

    _legs(draw, toy, legs, (depth, width, base), second)
    if draw.chance(0.6):
        _arms(draw, toy, (depth, width, height), middle, second)
    head, extent = _head(draw, toy, (depth, width, height), middle)
    _face(draw, toy, head, extent)
    _horns(draw, toy, head, extent)
    _tail(draw, toy, (depth, width, height), middle, belly)
    _accessory(draw, toy, (depth, width, height), middle, head, extent)
    return toy


def _legs(draw: Draw, toy: Builder, count: int, sizes: Vector, paws: Colour) -> None:
    """Two legs below the body or four at its corners, with feet that point ahead."""
    depth, width, base = sizes
    thick, apart = draw.between(0.06, 0.15), draw.between(0.28, 0.42) * width
    foot = (draw.between(2.2, 3.4) * thick, 2.4 * thick, draw.between(1.2, 2.0) * thick)
    for x in {0: (), 2: (0.0,), 4: (0.32 * depth, -0.32 * depth)}[count]:
        for side in (1, -1):
            toy.add(
                limb((x, side * 0.85 * apart, base + 0.25), (x, side * apart, foot[2] / 2), thick), draw.paint
            )
        toy.pair(sphere(1), paws, foot, (x + 0.3 * foot[0], apart, foot[2] / 2), front=True)


def _arms(draw: Draw, toy: Builder, sizes: Vector, middle: float, paws: Colour) -> None:
    """A pair of arms, hanging, stretched out or raised."""
    depth, width, height = sizes
    thick, length = draw.between(0.05, 0.11), draw.between(0.3, 0.6)
    up, ahead = math.radians(draw.between(-70, 60)), math.radians(draw.between(0, 60))
    step = (
        length * math.cos(up) * math.sin(ahead),
        length * math.cos(up) * math.cos(ahead),
        length * math.sin(up),
    )
    shoulder = (0.05 * depth, 0.4 * width, middle + draw.between(0.1, 0.35) * height)
    hand = tuple(start + along for start, along in zip(shoulder, step, strict=True))
    for side in (1, -1):
        toy.add(
            limb((shoulder[0], side * shoulder[1], shoulder[2]), (hand[0], side * hand[1], hand[2]), thick),
            draw.paint,
        )
    toy.pair(sphere(1), paws, draw.between(2.2, 3.2) * thick, hand)


def _head(draw: Draw, toy: Builder, sizes: Vector, middle: float) -> tuple[Vector, Vector]:
    """A head on top of the body, before its upper front, or none but the body's upper half: centre and size."""
    depth, width, height = sizes
    place = draw.choice(("top", "top", "front", "none"))
    if place == "none":
        return (0, 0, middle + 0.2 * height), (depth, width, 0.6 * height)
    size = draw.between(0.4, 0.75)
    extent = (size * draw.between(0.8, 1.1), size * draw.between(0.85, 1.2), size * draw.between(0.8, 1.1))
    ahead = 0.06 * depth if place == "top" else 0.45 * depth + 0.2 * extent[0]
    up = 0.5 * height + draw.between(0.25, 0.42) * extent[2]
    head = (ahead, 0, middle + (up if place == "top" else draw.between(0.5, 0.9) * up))
    toy.add(draw.choice(_HEADS)(), draw.paint, extent, head)
    return head, extent


def _face(draw: Draw, toy: Builder, head: Vector, extent: Vector) -> None:
    """One eye or two and a snout, a beak or teeth."""
    depth, width, height = extent
    size, front = min(width, height), head[0] + 0.42 * depth
    eye, up = draw.between(0.16, 0.3) * size, head[2] + draw.between(0.05, 0.18) * height
    if draw.chance(0.7):
        eyes(toy, (front, width * draw.between(0.14, 0.22), up), eye, white=draw.chance(0.6))
    else:
        toy.add(sphere(1), WHITE, 1.6 * eye, (front, 0, up), front=True)
        toy.add(sphere(1), DARK, 0.8 * eye, (front + 0.55 * eye, 0, up), front=True)
    mouth, below = draw.choice(("snout", "beak", "teeth")), head[2] - draw.between(0.12, 0.22) * height
    if mouth == "teeth":
        toy.add(box(), DARK, (0.16 * size, 0.5 * size, 0.14 * size), (front, 0, below), front=True)
        toy.pair(box(), WHITE, (0.18 * size, 0.1 * size, 0.1 * size), (front, 0.12 * size, below), front=True)
        return
    end = {"snout": draw.between(0.6, 1.4), "beak": 0.0}[mouth]
    thick, long = draw.between(0.24, 0.44) * size, draw.between(0.3, 0.7) * size
    at = (front + 0.35 * long, 0, below)
    toy.add(cylinder(end, 12), draw.part(mouth), (thick, thick, long), at, (0, 90, 0), front=True)


def _horns(draw: Draw, toy: Builder, head: Vector, extent: Vector) -> None:
    """Long ears, horns, feelers, one horn, or none."""
    depth, width, height = extent
    size, kind = min(width, height), draw.choice(("ears", "horns", "feelers", "horn", "none"))
    x, y, z = (
        head[0] - draw.between(0.0, 0.15) * depth,
        draw.between(0.2, 0.42) * width,
        head[2] + 0.36 * height,
    )
    long, lean = draw.between(0.35, 0.9) * size, draw.between(-70, 10)
    away, colour = math.radians(-lean), draw.paint if kind == "none" else draw.part(kind)
    at = (x, y + 0.4 * long * math.sin(away), z + 0.4 * long * math.cos(away))
    if kind == "ears":
        toy.pair(sphere(), colour, (0.14 * size, 0.3 * size, long), at, (lean, 0, 0))
    elif kind == "horns":
        toy.pair(cylinder(0.0, 10), colour, (0.25 * size, 0.25 * size, long), at, (lean, 0, 0))
    elif kind == "feelers":
        toy.pair(cylinder(sections=8), colour, (0.08, 0.08, long), at, (lean, 0, 0))
        tip = (x, y + 0.9 * long * math.sin(away), z + 0.9 * long * math.cos(away))
        toy.pair(sphere(1), colour, 0.18, tip)
    elif kind == "horn":
        ahead = (x + 0.2 * depth, 0, z + 0.45 * long)
        toy.add(
            cylinder(0.0, 10), colour, (0.25 * size, 0.25 * size, long), ahead, (0, draw.between(-20, 30), 0)
        )


def _tail(draw: Draw, toy: Builder, sizes: Vector, middle: float, tip: Colour) -> None:
    """A ball, a long tail that ends in another colour, or none."""
    depth, _, height = sizes
    kind = draw.choice(("ball", "long", "none"))
    if kind == "ball":
        toy.add(sphere(1), tip, draw.between(0.16, 0.3), (-0.5 * depth, 0, middle - 0.2 * height))
    elif kind == "long":
        root, rise = (-0.4 * depth, 0, middle - 0.2 * height), draw.between(-0.1, 0.6) * height
        bend = (root[0] - draw.between(0.2, 0.4), 0, root[2])
        end = (bend[0] - draw.between(0.0, 0.3), 0, root[2] + rise + 0.05)
        toy.add(tube((root, bend, end), draw.between(0.06, 0.12), 0.04), draw.paint)
        toy.add(sphere(1), tip, 0.16, end)


def _accessory(draw: Draw, toy: Builder, sizes: Vector, middle: float, head: Vector, extent: Vector) -> None:
    """Add what the draw says, if anything."""
    depth, width, height = sizes
    top = head[2] + 0.42 * extent[2]
    if draw.accessory == "hat":
        colour, brim = draw.part("hat"), draw.between(0.5, 0.9) * min(extent[0], extent[1])
        toy.add(cylinder(sections=20), colour, (brim, brim, 0.05), (head[0], 0, top))
        toy.add(
            cylinder(draw.choice((0.9, 0.0))),
            colour,
            (0.65 * brim, 0.65 * brim, 0.28),
            (head[0], 0, top + 0.14),
        )
    elif draw.accessory == "collar":
        colour = draw.part("collar")
        toy.add(ring(0.2), colour, (1.06 * depth, 1.06 * width, 0.6), (0, 0, middle + 0.3 * height))
    elif draw.accessory == "bag":
        toy.add(
            rounded_box(4.5),
            draw.part("bag"),
            (0.32, 0.7 * width, 0.6 * height),
            (-0.5 * depth - 0.1, 0, middle),
        )
    elif draw.accessory == "spikes":
        colour = draw.part("spikes")
        for share in (0.38, 0.05, -0.28):
            x = -0.48 * depth - 0.06
            toy.add(cylinder(0.0, 8), colour, (0.2, 0.2, 0.28), (x, 0, middle + share * height), (0, -80, 0))
    elif draw.accessory == "shield":
        side = draw.choice((1, -1))
        at = (draw.between(-0.1, 0.2) * depth, side * (0.5 * width + 0.12), middle)
        toy.add(cylinder(sections=20), draw.part("shield"), (0.5, 0.5, 0.1), at, (90, 0, 0))
