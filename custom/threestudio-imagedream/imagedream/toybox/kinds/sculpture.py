"""A sculpture: blocks of any shape stuck to one another, mirror-symmetric; a plate and eyes show where its front is.

It is like nothing in particular, so that a model which learns from it cannot get away with recognising the kind.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.palette import Colour
from imagedream.toybox.shapes import (
    Builder,
    Shape,
    Vector,
    box,
    cylinder,
    disc,
    ring,
    rounded_box,
    sphere,
    star,
    tapered_box,
)

ACCESSORIES = ("none", "legs", "wings", "antenna", "tail")
"""Parts that a toy of this kind may carry."""

_SHAPES: dict[str, Callable[[], Shape]] = {
    "ball": sphere,
    "pebble": partial(rounded_box, 3.0),
    "block": box,
    "wedge": partial(tapered_box, (0.5, 0.8)),
    "pyramid": partial(tapered_box, (0.15, 0.15)),
    "drum": cylinder,
    "cup": partial(cylinder, 0.6),
    "cone": partial(cylinder, 0.0),
    "ring": partial(ring, 0.3),
}
"""By what captions call them; each of size 1."""

_TURNS: tuple[tuple[Vector, tuple[int, int, int]], ...] = (
    ((0, 0, 0), (0, 1, 2)),
    ((90, 0, 0), (0, 2, 1)),
    ((0, 90, 0), (2, 1, 0)),
)
"""Quarter turns that lay a shape's own z along z, y and x, and which side of the result each side becomes."""

_UP, _DOWN, _SIDE, _FRONT, _BACK = (2, 1), (2, -1), (1, 1), (0, 1), (0, -1)
_PLACES = (_UP, _UP, _SIDE, _SIDE, _FRONT, _BACK, _DOWN)
"""Axis and direction in which a block may be stuck to another; some twice as often. Blocks at the side come in pairs."""


class Block(NamedTuple):
    """One block: what it is, the box around it, its colour."""

    name: str
    centre: Vector
    size: Vector
    colour: Colour


def build(draw: Draw) -> Builder:
    """A sculpture: blocks of any shape stuck to one another; a plate and eyes show where its front is."""
    toy = Builder()
    depth, width, height = draw.between(0.5, 1.1), draw.between(0.5, 1.1), draw.between(0.5, 1.2)
    name = draw.choice(("ball", "pebble", "block", "wedge", "drum", "cup"))
    trunk = Block(name, (0, 0, 0), (depth, width, height), draw.paint)
    _add(draw, toy, trunk)
    middle = [trunk]  # blocks on the plane of symmetry, to which others may be stuck
    for _ in range(draw.choice((2, 3, 4, 5))):
        parent, place = draw.choice(middle), draw.choice(_PLACES)
        block = _beside(draw, parent, place)
        _add(draw, toy, block, paired=place == _SIDE, front=place == _FRONT)
        if place != _SIDE:
            middle.append(block)

    plate = draw.part("plate")
    toy.add(
        draw.choice((disc(), star(), box(), sphere())),
        plate,
        (0.3 * depth, draw.between(0.5, 0.8) * width, draw.between(0.5, 0.8) * height),
        (0.42 * depth, 0, 0),
        front=True,
    )
    head = max(middle, key=lambda block: block.centre[2])
    depth, width, height = head.size
    at = (0.46 * depth, width * draw.between(0.15, 0.3), height * draw.between(0.0, 0.2))
    eyes(toy, (head.centre[0] + at[0], at[1], head.centre[2] + at[2]), 0.25 * min(width, height))
    _accessory(draw, toy, trunk, head)
    return toy


def _beside(draw: Draw, parent: Block, place: tuple[int, int]) -> Block:
    """A block at one side of another, sunk into it a little: of its colour or one of its own."""
    name, scale = draw.choice(tuple(_SHAPES)), draw.between(0.4, 0.9)
    size = [scale * extent * draw.between(0.5, 1.2) for extent in parent.size]
    centre = [
        position + draw.between(-0.25, 0.25) * extent
        for position, extent in zip(parent.centre, parent.size, strict=True)
    ]
    centre[1] = 0.0
    sunk, (axis, sign) = draw.between(0.7, 0.9), place
    centre[axis] = parent.centre[axis] + sign * sunk * (parent.size[axis] + size[axis]) / 2
    colour = parent.colour if draw.chance(0.3) else draw.part(f"{name}s" if place == _SIDE else name)
    return Block(name, (centre[0], centre[1], centre[2]), (size[0], size[1], size[2]), colour)


def _add(draw: Draw, toy: Builder, block: Block, paired: bool = False, front: bool = False) -> None:
    """Add a block, turned any way."""
    turn, (x, y, z) = draw.choice(_TURNS)
    size = (block.size[x], block.size[y], block.size[z])
    (toy.pair if paired else toy.add)(_SHAPES[block.name](), block.colour, size, block.centre, turn, front)


def _accessory(draw: Draw, toy: Builder, trunk: Block, head: Block) -> None:
    """Add what the draw says, if anything."""
    depth, width, height = trunk.size
    top = head.centre[2] + head.size[2] / 2
    if draw.accessory == "legs":
        colour, thick = draw.part("legs"), draw.between(0.12, 0.25)
        for x in (-0.28 * depth, 0.28 * depth):
            toy.pair(box(), colour, (thick, thick, 0.5), (x, 0.28 * width, -0.5 * height - 0.15))
    elif draw.accessory == "wings":
        size = (draw.between(0.2, 0.5), 0.7, draw.between(0.06, 0.3))
        at = (-0.15 * depth, 0.5 * width + 0.25, 0.2 * height)
        toy.pair(rounded_box(4.0), draw.part("wings"), size, at)
    elif draw.accessory == "antenna":
        colour = draw.part("antenna")
        toy.add(cylinder(sections=8), colour, (0.06, 0.06, 0.4), (head.centre[0], 0, top + 0.1))
        toy.add(sphere(1), colour, 0.2, (head.centre[0], 0, top + 0.35))
    elif draw.accessory == "tail":
        length = draw.between(0.4, 0.8)
        at = (-0.5 * depth - 0.35 * length, 0, draw.between(-0.2, 0.3) * height)
        toy.add(cylinder(0.4, 12), draw.part("tail"), (0.22, 0.22, length), at, turn=(0, -80, 0))
