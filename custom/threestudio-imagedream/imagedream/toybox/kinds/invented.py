"""What nobody has seen before: sculpture and monster.

They are like nothing in particular and have their parts in many places, so that a model which learns from them must
look at the picture and cannot get away with recognising the kind.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from imagedream.toybox.builder import Builder, Frame, frame, moved, recipe
from imagedream.toybox.kinds.features import eyes, hat
from imagedream.toybox.palette import DARK, WHITE, Colour
from imagedream.toybox.shapes import (
    Number,
    Shape,
    Vector,
    box,
    cone,
    cylinder,
    disc,
    limb,
    ring,
    rounded_box,
    sphere,
    star,
    tapered_box,
    tube,
)

_BLOCKS: dict[str, Callable[[], Shape]] = {
    "ball": sphere,
    "pebble": partial(rounded_box, 3.0),
    "block": box,
    "wedge": partial(tapered_box, (0.5, 0.8)),
    "pyramid": partial(tapered_box, (0.15, 0.15)),
    "drum": cylinder,
    "cup": partial(cylinder, top=0.6),
    "cone": cone,
    "ring": partial(ring, 0.3),
}
"""By what captions call them; each of size 1."""

_TURNS: tuple[tuple[Vector, list[int]], ...] = (
    ((0, 0, 0), [0, 1, 2]),
    ((90, 0, 0), [0, 2, 1]),
    ((0, 90, 0), [2, 1, 0]),
)
"""Quarter turns that lay a shape's own z along z, y and x, and which side of the result each side becomes."""

_UP, _DOWN, _SIDE, _FRONT, _BACK = (2, 1), (2, -1), (1, 1), (0, 1), (0, -1)
_PLACES = (_UP, _UP, _SIDE, _SIDE, _FRONT, _BACK, _DOWN)
"""Axis and direction in which a block may be stuck to another; some twice as often. Blocks at the side come in pairs."""


class Block(NamedTuple):
    """One block: what it is, the box around it, its colour."""

    name: str
    frame: Frame
    colour: Colour


@recipe("legs", "wings", "antenna", "tail")
def sculpture(toy: Builder) -> None:
    """Blocks of any shape stuck to one another, mirror-symmetric; a plate and eyes show where its front is."""
    size = (toy.between(0.5, 1.1), toy.between(0.5, 1.1), toy.between(0.5, 1.2))
    name = toy.choice(("ball", "pebble", "block", "wedge", "drum", "cup"))
    trunk = Block(name, frame(size, (0, 0, 0)), toy.paint)
    _add(toy, trunk)
    middle = [trunk]  # blocks on the plane of symmetry, to which others may be stuck
    for _ in range(toy.choice((2, 3, 4, 5))):
        parent, place = toy.choice(middle), toy.choice(_PLACES)
        block = _beside(toy, parent, place)
        _add(toy, block, paired=place == _SIDE)
        if place != _SIDE:
            middle.append(block)

    body, plate = trunk.frame, toy.colour("plate")
    shape = toy.choice((disc(), star(), box(), sphere()))
    size = body.size * (0.3, toy.between(0.5, 0.8), toy.between(0.5, 0.8))
    toy.add(shape, plate, size, body.at(0.42))
    head = max((block.frame for block in middle), key=lambda frame: frame.centre[2])
    eyes(toy, head.at(0.46, toy.between(0.15, 0.3), toy.between(0.0, 0.2)), 0.25 * min(head.size[1:]))

    if toy.accessory == "legs":
        colour, thick = toy.colour("legs"), toy.between(0.12, 0.25)
        for share in (-0.28, 0.28):
            toy.pair(box(), colour, (thick, thick, 0.5), moved(body.at(share, 0.28, -0.5), up=-0.15))
    elif toy.accessory == "wings":
        size = (toy.between(0.2, 0.5), 0.7, toy.between(0.06, 0.3))
        toy.pair(rounded_box(4.0), toy.colour("wings"), size, moved(body.at(-0.15, 0.5, 0.2), left=0.25))
    elif toy.accessory == "antenna":
        colour, top = toy.colour("antenna"), head.at(0, 0, 0.5)
        toy.add(cylinder(8), colour, (0.06, 0.06, 0.4), moved(top, up=0.1))
        toy.add(sphere(1), colour, 0.2, moved(top, up=0.35))
    elif toy.accessory == "tail":
        length = toy.between(0.4, 0.8)
        at = moved(body.at(-0.5, 0, toy.between(-0.2, 0.3)), -0.35 * length)
        toy.add(cylinder(12, 0.4), toy.colour("tail"), (0.22, 0.22, length), at, turn=(0, -80, 0))


def _beside(toy: Builder, parent: Block, place: tuple[int, int]) -> Block:
    """A block at one side of another, sunk into it a little: of its colour or one of its own."""
    around = parent.frame
    name, scale = toy.choice(tuple(_BLOCKS)), toy.between(0.4, 0.9)
    size = scale * around.size * [toy.between(0.5, 1.2) for _ in range(3)]
    centre = around.at(*(toy.between(-0.25, 0.25) for _ in range(3))) * (1, 0, 1)
    sunk, (axis, sign) = toy.between(0.7, 0.9), place
    centre[axis] = around.centre[axis] + sign * sunk * (around.size[axis] + size[axis]) / 2
    colour = parent.colour if toy.chance(0.3) else toy.colour(f"{name}s" if place == _SIDE else name)
    return Block(name, frame(size, centre), colour)


def _add(toy: Builder, block: Block, paired: bool = False) -> None:
    """Adds a block, turned any way."""
    turn, sides = toy.choice(_TURNS)
    add = toy.pair if paired else toy.add
    add(_BLOCKS[block.name](), block.colour, block.frame.size[sides], block.frame.centre, turn)


_BODIES = (
    sphere,
    partial(rounded_box, 2.6),
    partial(rounded_box, 5.0),
    partial(cylinder, top=0.8),
    partial(tapered_box, (0.7, 0.7)),
)
_HEADS = (sphere, sphere, partial(rounded_box, 3.0), partial(rounded_box, 5.0), partial(cylinder, top=0.9))


@recipe("hat", "collar", "bag", "spikes", "shield")
def monster(toy: Builder) -> None:
    """A body with any head, limbs, horns and tail; belly, face and feet show where its front is."""
    size = (toy.between(0.45, 1.1), toy.between(0.45, 0.9), toy.between(0.45, 1.0))
    legs = toy.choice((0, 2, 2, 4, 4))
    base = toy.between(0.12, 0.5) if legs else 0.0  # height of the belly's underside
    body = toy.add(toy.choice(_BODIES)(), toy.paint, size, (0, 0, base + size[2] / 2))
    paws, belly = toy.colour("paws", chance=0.5), toy.colour("belly")
    size = body.size * (0.5, toy.between(0.5, 0.75), toy.between(0.5, 0.75))
    toy.add(sphere(), belly, size, body.at(0.3))

    _legs(toy, legs, body, base, paws)
    if toy.chance(0.6):
        _arms(toy, body, paws)
    head = _head(toy, body)
    _face(toy, head)
    _horns(toy, head)
    _tail(toy, body, belly)
    _monster_accessory(toy, body, head)


def _legs(toy: Builder, count: int, body: Frame, base: Number, paws: Colour) -> None:
    """Two legs below the body or four at its corners, with feet that point ahead."""
    depth, width, _ = body.size
    thick, apart = toy.between(0.06, 0.15), toy.between(0.28, 0.42) * width
    foot = (toy.between(2.2, 3.4) * thick, 2.4 * thick, toy.between(1.2, 2.0) * thick)
    for x in {0: (), 2: (0.0,), 4: (0.32 * depth, -0.32 * depth)}[count]:
        for y in (apart, -apart):
            toy.add(limb((x, 0.85 * y, base + 0.25), (x, y, foot[2] / 2), thick), toy.paint)
        toy.pair(sphere(1), paws, foot, (x + 0.3 * foot[0], apart, foot[2] / 2))


def _arms(toy: Builder, body: Frame, paws: Colour) -> None:
    """A pair of arms, hanging, stretched out or raised."""
    thick, length = toy.between(0.05, 0.11), toy.between(0.3, 0.6)
    up, ahead = math.radians(toy.between(-70, 60)), math.radians(toy.between(0, 60))
    out = length * math.cos(up)
    shoulder = body.at(0.05, 0.4, toy.between(0.1, 0.35))
    hand = moved(shoulder, out * math.sin(ahead), out * math.cos(ahead), length * math.sin(up))
    for side in (1, -1):
        mirror = np.array((1, side, 1))
        toy.add(limb(shoulder * mirror, hand * mirror, thick), toy.paint)
    toy.pair(sphere(1), paws, toy.between(2.2, 3.2) * thick, hand)


def _head(toy: Builder, body: Frame) -> Frame:
    """A head on top of the body, before its upper front, or none but the body's upper half."""
    place = toy.choice(("top", "top", "front", "none"))
    if place == "none":
        return frame(body.size * (1, 1, 0.6), body.at(0, 0, 0.2))
    size, (depth, _, height) = toy.between(0.4, 0.75), body.size
    size = (size * toy.between(0.8, 1.1), size * toy.between(0.85, 1.2), size * toy.between(0.8, 1.1))
    ahead = 0.06 * depth if place == "top" else 0.45 * depth + 0.2 * size[0]
    up = 0.5 * height + toy.between(0.25, 0.42) * size[2]
    at = moved(body.centre, ahead, 0, up if place == "top" else toy.between(0.5, 0.9) * up)
    return toy.add(toy.choice(_HEADS)(), toy.paint, size, at)


def _face(toy: Builder, head: Frame) -> None:
    """One eye or two and a snout, a beak or teeth."""
    size = min(head.size[1:])
    eye, up = toy.between(0.16, 0.3) * size, toy.between(0.05, 0.18)
    if toy.chance(0.7):
        eyes(toy, head.at(0.42, toy.between(0.14, 0.22), up), eye, white=toy.chance(0.6))
    else:
        at = head.at(0.42, 0, up)
        toy.add(sphere(1), WHITE, 1.6 * eye, at)
        toy.add(sphere(1), DARK, 0.8 * eye, moved(at, 0.55 * eye))
    mouth, below = toy.choice(("snout", "beak", "teeth")), head.at(0.42, 0, -toy.between(0.12, 0.22))
    if mouth == "teeth":
        toy.add(box(), DARK, (0.16 * size, 0.5 * size, 0.14 * size), below)
        toy.pair(box(), WHITE, (0.18 * size, 0.1 * size, 0.1 * size), moved(below, left=0.12 * size))
        return
    end = toy.between(0.6, 1.4)  # drawn for a beak too, which is pointed
    shape = cylinder(12, end) if mouth == "snout" else cone(12)
    thick, long = toy.between(0.24, 0.44) * size, toy.between(0.3, 0.7) * size
    at = moved(below, 0.35 * long)
    toy.add(shape, toy.colour(mouth), (thick, thick, long), at, turn=(0, 90, 0))


def _horns(toy: Builder, head: Frame) -> None:
    """Long ears, horns, feelers, one horn, or none."""
    size, kind = min(head.size[1:]), toy.choice(("ears", "horns", "feelers", "horn", "none"))
    root = head.at(-toy.between(0.0, 0.15), toy.between(0.2, 0.42), 0.36)
    long, lean = toy.between(0.35, 0.9) * size, toy.between(-70, 10)
    if kind == "none":
        return
    colour, away, turn = toy.colour(kind), math.radians(-lean), (lean, 0, 0)
    middle = moved(root, 0, 0.4 * long * math.sin(away), 0.4 * long * math.cos(away))
    if kind == "ears":
        toy.pair(sphere(), colour, (0.14 * size, 0.3 * size, long), middle, turn)
    elif kind == "horns":
        toy.pair(cone(10), colour, (0.25 * size, 0.25 * size, long), middle, turn)
    elif kind == "feelers":
        toy.pair(cylinder(8), colour, (0.08, 0.08, long), middle, turn)
        tip = moved(root, 0, 0.9 * long * math.sin(away), 0.9 * long * math.cos(away))
        toy.pair(sphere(1), colour, 0.18, tip)
    else:
        at = (root[0] + 0.2 * head.size[0], 0, root[2] + 0.45 * long)
        tilt = toy.between(-20, 30)
        toy.add(cone(10), colour, (0.25 * size, 0.25 * size, long), at, turn=(0, tilt, 0))


def _tail(toy: Builder, body: Frame, tip: Colour) -> None:
    """A ball, a long tail that ends in another colour, or none."""
    kind = toy.choice(("ball", "long", "none"))
    if kind == "ball":
        toy.add(sphere(1), tip, toy.between(0.16, 0.3), body.at(-0.5, 0, -0.2))
    elif kind == "long":
        root = body.at(-0.4, 0, -0.2)
        height = root[2] + toy.between(-0.1, 0.6) * body.size[2] + 0.05
        bend = moved(root, -toy.between(0.2, 0.4))
        end = (bend[0] - toy.between(0.0, 0.3), 0, height)
        toy.add(tube((root, bend, end), toy.between(0.06, 0.12), 0.04), toy.paint)
        toy.add(sphere(1), tip, 0.16, end)


def _monster_accessory(toy: Builder, body: Frame, head: Frame) -> None:
    """What a monster wears or carries."""
    depth, width, height = body.size
    if toy.accessory == "hat":
        colour, brim = toy.colour("hat"), toy.between(0.5, 0.9) * min(head.size[:2])
        hat(toy, colour, head.at(0, 0, 0.42), brim, 0.65 * brim, 0.28, (0.9, 0.0), corners=20)
    elif toy.accessory == "collar":
        size = (1.06 * depth, 1.06 * width, 0.6)
        toy.add(ring(0.2), toy.colour("collar"), size, body.at(0, 0, 0.3))
    elif toy.accessory == "bag":
        size = (0.32, 0.7 * width, 0.6 * height)
        toy.add(rounded_box(4.5), toy.colour("bag"), size, moved(body.at(-0.5), -0.1))
    elif toy.accessory == "spikes":
        colour = toy.colour("spikes")
        for share in (0.38, 0.05, -0.28):
            at = moved(body.at(-0.48, 0, share), -0.06)
            toy.add(cone(8), colour, (0.2, 0.2, 0.28), at, turn=(0, -80, 0))
    elif toy.accessory == "shield":
        side = toy.choice((1, -1))
        at = moved(body.at(toy.between(-0.1, 0.2), side * 0.5), left=side * 0.12)
        toy.add(cylinder(), toy.colour("shield"), (0.5, 0.5, 0.1), at, turn=(90, 0, 0))
