"""What stands in a room: chair, table, lamp, television."""

import math

import numpy as np

from imagedream.toybox.builder import Builder, Frame, recipe
from imagedream.toybox.palette import DARK, GLASS, GLOW, METAL, WHITE
from imagedream.toybox.shapes import (
    Number,
    Vector,
    box,
    cone,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    rounded_box,
    sphere,
    star,
    tapered_box,
    tube,
)


@recipe("cushion", "armrests", "blanket", "wheels")
def chair(toy: Builder) -> None:
    """The seat opens to the front, the backrest stands behind with a badge towards the sitter."""
    width, depth, seat = toy.between(0.6, 0.85), toy.between(0.55, 0.8), toy.between(0.4, 0.65)
    thick, tall = toy.between(0.08, 0.16), toy.between(0.55, 0.95)
    toy.add(rounded_box(8.0), toy.paint, (depth, width, thick), (0, 0, seat))
    top = seat + thick / 2

    legs = toy.colour("legs")
    if toy.accessory == "wheels":
        colour, out = toy.colour("wheels"), depth * 0.34
        toy.add(cylinder(), legs, (0.1, 0.1, seat), (0, 0, seat / 2 + 0.05))
        for turn in range(0, 360, 90):
            toy.add(box(), legs, (depth * 0.95, 0.07, 0.07), (0, 0, 0.13), turn=(0, 0, turn / 2))
        toy.pair(sphere(1), colour, 0.15, (out, out, 0.075))
        toy.pair(sphere(1), colour, 0.15, (-out, out, 0.075))
    else:
        splay, radius = toy.between(0, 0.06), toy.between(0.03, 0.05)
        for end in (1, -1):
            x, y = end * depth * 0.42, width * 0.42
            toy.pair(limb((x, y, seat), (x + end * splay, y + splay, radius), radius), legs)

    rest = toy.colour("backrest", chance=0.55)
    recline = toy.between(0, 12)
    back, lean = -depth * 0.44, (0, -recline, 0)
    style = toy.choice(("panel", "slats", "round"))
    x, z = back - tall * 0.1 * recline / 12, top + tall / 2 - 0.03
    if style == "panel":
        toy.add(rounded_box(7.0), rest, (0.1, width * 0.96, tall), (x, 0, z), turn=lean)
    elif style == "round":
        z = top + width * 0.62
        toy.add(disc(), rest, (0.09, width, width), (x, 0, z), turn=lean)
        toy.pair(box(), legs, (0.06, 0.06, width * 0.5), (back, width * 0.25, top + width * 0.15), turn=lean)
    else:
        toy.pair(box(), legs, (0.08, 0.08, tall), (x, width * 0.44, z), turn=lean)
        for share in (0.3, 0.55, 0.82):
            slat = (x - (share - 0.5) * tall * recline / 57, 0, top + tall * share)
            toy.add(box(), rest, (0.06, width * 0.9, tall * 0.16), slat, turn=lean)
    badge, shape = toy.colour("badge"), toy.choice((star(), disc(), box()))
    toy.add(shape, badge, (0.06, width * 0.4, width * 0.4), (x + 0.06, 0, z + 0.02), turn=lean)
    toy.add(box(), DARK, (0.05, width * 0.45, 0.1), (x - 0.05, 0, z + 0.12), turn=lean)
    toy.add(box(), badge, (0.04, width * 0.8, thick * 0.5), (depth / 2, 0, seat))

    if toy.accessory == "cushion":
        size = (depth * 0.8, width * 0.82, 0.17)
        toy.add(rounded_box(3.5), toy.colour("cushion"), size, (0.04, 0, top + 0.06))
    elif toy.accessory == "armrests":
        colour = toy.colour("armrests")
        toy.pair(box(), colour, (depth * 0.85, 0.09, 0.06), (0, width * 0.48, top + 0.27))
        toy.pair(box(), colour, (0.07, 0.07, 0.28), (depth * 0.34, width * 0.48, top + 0.12))
    elif toy.accessory == "blanket":
        colour, y = toy.colour("blanket"), toy.choice((1, -1)) * width * 0.18
        high = z + (width * 0.5 if style == "round" else tall * 0.5)
        toy.add(box(), colour, (0.2, width * 0.5, 0.06), (x - 0.04, y, high), turn=lean)
        toy.add(box(), colour, (0.05, width * 0.5, 0.42), (x - 0.12, y, high - 0.2), turn=lean)


@recipe("computer", "books", "vase", "globe")
def table(toy: Builder) -> None:
    """A desk: drawers with knobs in front, a closed panel behind."""
    width, depth, height = toy.between(1.0, 1.35), toy.between(0.6, 0.8), toy.between(0.6, 0.8)
    slab, shape = toy.between(0.06, 0.11), toy.choice((box(), rounded_box(9.0)))
    toy.add(shape, toy.paint, (depth, width, slab), (0, 0, height - slab / 2))
    legs, splay, low = toy.colour("legs"), toy.between(0, 0.07), height - slab
    for x in (depth * 0.4, -depth * 0.4):
        foot = (x * (1 + splay), width * 0.43 + splay, 0.035)
        toy.pair(limb((x, width * 0.43, low), foot, 0.04), legs)

    drawers, knobs = toy.colour("drawers"), toy.colour("knobs")
    side, rows = toy.choice((1, -1)), toy.choice((1, 2, 3))
    tall, wide, front = min(0.17 * rows, height - 0.16), width * 0.46, depth * 0.4
    y = side * width * 0.2
    toy.add(box(), toy.paint, (depth * 0.8, wide, tall), (0, y, low - tall / 2))
    for row in range(rows):
        z = low - tall * (row + 0.5) / rows
        toy.add(box(), drawers, (0.06, wide * 0.9, tall / rows * 0.8), (front, y, z))
        toy.add(sphere(1), knobs, 0.08, (front + 0.05, y, z))
    toy.add(box(), legs, (0.05, width * 0.86, height * 0.35), (-front, 0, low - height * 0.17))

    colour = toy.accessory_colour()
    if toy.accessory == "computer":
        y = -side * 0.1
        toy.add(box(), colour, (0.07, 0.5, 0.36), (-0.1, y, height + 0.27))
        toy.add(box(), GLASS, (0.03, 0.43, 0.29), (-0.06, y, height + 0.27))
        toy.add(box(), colour, (0.1, 0.1, 0.12), (-0.12, y, height + 0.05))
        toy.add(box(), WHITE, (0.16, 0.4, 0.04), (depth * 0.28, y, height + 0.02))
    elif toy.accessory == "books":
        for k, cover in enumerate((colour, WHITE, colour)):
            at = (0, side * width * 0.26, height + 0.035 + 0.07 * k)
            toy.add(box(), cover, (0.34, 0.26, 0.07), at, turn=(0, 0, 12 * k - 8))
    elif toy.accessory == "vase":
        y = -side * width * 0.28
        toy.add(lathe(((0.08, 0), (0.14, 0.14), (0.06, 0.3), (0.09, 0.36))), colour, at=(0, y, height))
        for k in range(3):
            toy.add(sphere(1), GLOW, 0.14, (0.05 * k - 0.04, y + 0.1 * (k - 1), height + 0.45 - 0.03 * k))
    elif toy.accessory == "globe":
        y = -side * width * 0.25
        toy.add(cylinder(top=0.6), DARK, (0.22, 0.22, 0.08), (0, y, height + 0.04))
        toy.add(sphere(), colour, 0.32, (0, y, height + 0.24))


@recipe("ribbon", "holder", "clock", "cat")
def lamp(toy: Builder) -> None:
    """A lamp that leans and shines forward: bulb, button and badge in front, cable behind."""
    wide, base = toy.between(0.4, 0.52), toy.between(0.08, 0.14)
    shape = toy.choice((cylinder(24, 0.85), rounded_box(7.0), cylinder(6, 0.7)))
    toy.add(shape, toy.paint, (wide, wide, base), (0, 0, base / 2))
    stem = toy.colour("stem")
    tall, bow = toy.between(0.95, 1.3), toy.between(0.1, 0.3)
    style = toy.choice(("straight", "jointed", "curved"))
    if style == "straight":
        bends = ((0.0, 0.0), (0.0, 1.0))
    elif style == "jointed":
        bends = ((-0.02, 0.0), (-bow, 0.5), (0.06, 1.0))
    else:
        bends = tuple((-bow * 4 * up * (1 - up), up) for up in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    path = [np.array((x, 0.0, base + tall * up)) for x, up in bends]
    thick = toy.between(0.035, 0.06)
    toy.add(tube(path, thick), stem)
    if style == "jointed":
        toy.add(sphere(1), METAL, thick * 3.2, path[1])

    size, length, rim = toy.between(0.46, 0.66), toy.between(0.34, 0.46), toy.between(0.12, 0.18)
    tilt = toy.between(35, 60)
    shade = toy.colour("shade", chance=0.75)
    # a hollow bell with its closed narrow end on the stem, its mouth tilted forward
    outside, wall = ((size / 2, 0), (rim, length), (0, length)), 0.03
    inside = ((0, length - wall), (rim - wall, length - wall), (size / 2 - wall, 0))
    neck, axis = path[-1], np.array((math.sin(math.radians(tilt)), 0, -math.cos(math.radians(tilt))))
    mouth = neck + length * axis
    toy.add(lathe((*outside, *inside), 24, loop=True), shade, at=mouth, turn=(0, -tilt, 0))
    toy.add(sphere(), GLOW, size * 0.52, mouth - length * 0.3 * axis)
    toy.add(sphere(1), METAL, rim * 0.9, neck)
    if toy.chance(0.5):
        band, at = (size / 2 * 0.45 + rim * 0.55) * 2 * 1.04, neck + length * 0.45 * axis
        toy.add(cylinder(24), toy.colour("stripe"), (band, band, 0.07), at, turn=(0, -tilt, 0))

    front = wide / 2
    toy.add(cylinder(14), toy.colour("button"), (0.16, 0.16, 0.08), (front * 0.6, 0, base))
    x = -front
    cable = ((x * 0.8, 0, 0.05), (x - 0.06, 0.03, 0.04), (x - 0.1, 0.14, 0.04), (x - 0.02, 0.24, 0.04))
    toy.add(tube(cable, 0.035, corners=6), DARK)
    knot = path[len(path) // 2] if len(path) > 2 else (path[0][0], 0, base + tall * 0.4)
    _lamp_accessory(toy, base, knot)


def _lamp_accessory(toy: Builder, base: Number, knot: Vector) -> None:
    """What stands on a lamp's base, `base` high, or hangs at its stem."""
    colour = toy.accessory_colour()
    if toy.accessory == "ribbon":
        x, _, z = knot
        toy.pair(cylinder(8, 0.15), colour, (0.2, 0.1, 0.24), (x + 0.03, 0.1, z), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.14, (x + 0.03, 0, z))
    elif toy.accessory == "holder":
        cup = lathe(((0.12, 0), (0.12, 0.3), (0.09, 0.3), (0.09, 0.05)))
        toy.add(cup, colour, at=(-0.02, 0.22, base * 0.5))
        for k, pencil in enumerate((DARK, METAL)):
            at = (-0.04 + 0.06 * k, 0.2, base + 0.22)
            toy.add(cylinder(6), pencil, (0.04, 0.04, 0.4), at, turn=(8, 6 - 12 * k, 0))
    elif toy.accessory == "clock":
        toy.add(cylinder(24), colour, (0.3, 0.3, 0.12), (0.08, -0.2, base + 0.14), turn=(0, 90, 0))
        toy.add(disc(), WHITE, (0.06, 0.23, 0.23), (0.125, -0.2, base + 0.14))
        toy.add(box(), DARK, (0.06, 0.03, 0.1), (0.135, -0.2, base + 0.18))
    elif toy.accessory == "cat":
        x, y = 0.08, 0.2
        toy.add(sphere(), colour, (0.24, 0.2, 0.26), (x - 0.04, y, base + 0.1))
        toy.add(sphere(), colour, 0.18, (x, y, base + 0.28))
        for side in (1, -1):
            toy.add(cone(8), colour, (0.07, 0.07, 0.1), (x, y + side * 0.055, base + 0.38))
            toy.add(sphere(1), DARK, 0.045, (x + 0.08, y + side * 0.04, base + 0.3))


@recipe("antenna", "vase", "loudspeakers")
def television(toy: Builder) -> None:
    """A picture and knobs in front, a hump with vents and a cable behind."""
    width, height, depth = toy.between(0.9, 1.25), toy.between(0.65, 0.85), toy.between(0.22, 0.6)
    stand, base = toy.choice(("legs", "foot")), toy.between(0.12, 0.35)
    shape, middle = toy.choice((box(), rounded_box(9.0))), base + height / 2
    case = toy.add(shape, toy.paint, (depth, width, height), (0, 0, middle))
    colour = toy.colour(stand)
    if stand == "legs":
        for x in (depth * 0.3, -depth * 0.3):
            toy.pair(limb((x, width * 0.3, base + 0.03), (x * 1.2, width * 0.4, 0.03), 0.035), colour)
    else:
        toy.add(cylinder(), colour, (0.16, 0.16, base), (0, 0, base / 2))
        toy.add(rounded_box(6.0), colour, (max(depth, 0.34), width * 0.6, 0.08), (0, 0, 0.04))

    sided = toy.chance(0.6)
    wide, tall, at = width * (0.68 if sided else 0.86), height * 0.78, case.at(0.5, -0.1 if sided else 0)
    toy.add(rounded_box(9.0), DARK, (0.06, wide + 0.05, tall + 0.05), at)
    screen = toy.add(rounded_box(9.0), toy.colour("screen"), (0.09, wide, tall), at)
    _picture(toy, screen)
    for k in range(3):
        if sided:
            knob, size = case.at(0.5, 0.385, 0.25 - 0.2 * k), 0.11
        else:
            knob, size = (depth / 2, width * (0.2 + 0.1 * k), base + 0.04), 0.05
        toy.add(disc(12), METAL, (0.08, size, size), knob)

    x = -depth / 2
    hump = (width * 0.6, height * 0.6, 0.16)
    toy.add(tapered_box((0.7, 0.7)), DARK, hump, (x - 0.06, 0, middle), turn=(0, -90, 0))
    for k in range(3):
        toy.add(box(), METAL, (0.03, width * 0.3, 0.035), (x - 0.135, 0, middle + 0.1 * (k - 1)))
    cable = ((x, 0.1, base + 0.1), (x - 0.12, 0.12, 0.06), (x - 0.16, 0.3, 0.04))
    toy.add(tube(cable, 0.025, corners=6), DARK)

    top, colour = base + height, toy.accessory_colour()
    if toy.accessory == "antenna":
        toy.add(dome(), colour, (0.22, 0.22, 0.16), (0, 0, top - 0.01))
        for side in (1, -1):
            tip = (-0.05, side * 0.32, top + 0.42)
            toy.add(limb((0, 0, top), tip, 0.022), METAL)
            toy.add(sphere(1), colour, 0.09, tip)
    elif toy.accessory == "vase":
        y = toy.choice((1, -1)) * width * 0.28
        toy.add(lathe(((0.06, 0), (0.12, 0.1), (0.05, 0.22), (0.07, 0.28))), colour, at=(0, y, top))
        for k in range(3):
            toy.add(sphere(1), GLOW, 0.11, (0.04 * k - 0.02, y + 0.08 * (k - 1), top + 0.36 - 0.03 * k))
    elif toy.accessory == "loudspeakers":
        y = width / 2 + 0.12
        toy.pair(box(), colour, (depth * 0.8, 0.2, height * 0.85), (0, y, middle))
        for share in (0.2, -0.2):
            toy.pair(disc(), DARK, (0.06, 0.14, 0.14), (depth * 0.4, y, middle + height * share))


def _picture(toy: Builder, screen: Frame) -> None:
    """What a television shows: a face, the sun over land, or bars."""
    _, width, height = screen.size
    style = toy.choice(("face", "sun", "bars"))
    if style == "face":
        toy.mention("picture", "a face")
        for side in (1, -1):
            toy.add(disc(), DARK, (0.03, height * 0.2, height * 0.26), screen.at(0.5, side * 0.2, 0.12))
        toy.add(box(), DARK, (0.03, width * 0.36, height * 0.08), screen.at(0.5, 0, -0.24))
    elif style == "sun":
        toy.add(disc(), GLOW, (0.03, height * 0.36, height * 0.36), screen.at(0.5, 0.18, 0.16))
        toy.add(box(), toy.colour("picture"), (0.026, width * 0.9, height * 0.26), screen.at(0.5, 0, -0.3))
    else:
        for k, bar in enumerate((WHITE, toy.colour("bars"), DARK)):
            toy.add(box(), bar, (0.03, width * 0.18, height * 0.8), screen.at(0.5, 0.26 * (k - 1)))
