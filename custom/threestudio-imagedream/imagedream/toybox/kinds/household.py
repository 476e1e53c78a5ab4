"""Things of the house."""

import math

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLOW, METAL, WHITE, Colour
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    arc,
    box,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    rounded_box,
    sphere,
    star,
    tube,
)

CHAIR_ACCESSORIES = ("none", "cushion", "armrests", "blanket", "wheels")
LAMP_ACCESSORIES = ("none", "ribbon", "holder", "clock", "cat")
MUG_ACCESSORIES = ("none", "spoon", "lid", "straw", "saucer")


def chair(draw: Draw) -> Builder:
    """A chair: the seat opens to the front, the backrest stands behind with a badge towards the sitter."""
    toy = Builder()
    width, depth, seat = draw.between(0.6, 0.85), draw.between(0.55, 0.8), draw.between(0.4, 0.65)
    thickness, tall = draw.between(0.08, 0.16), draw.between(0.55, 0.95)
    toy.add(rounded_box(8.0), draw.paint, (depth, width, thickness), (0, 0, seat))
    top = seat + thickness / 2

    legs = draw.part("legs")
    if draw.accessory == "wheels":
        colour = draw.part("wheels")
        toy.add(cylinder(), legs, (0.1, 0.1, seat), (0, 0, seat / 2 + 0.05))
        for turn in range(0, 360, 90):
            toy.add(box(), legs, (depth * 0.95, 0.07, 0.07), (0, 0, 0.13), turn=(0, 0, turn / 2))
        toy.pair(sphere(1), colour, 0.15, (depth * 0.34, depth * 0.34, 0.075))
        toy.pair(sphere(1), colour, 0.15, (-depth * 0.34, depth * 0.34, 0.075))
    else:
        splay, radius = draw.between(0, 0.06), draw.between(0.03, 0.05)
        for x in (depth * 0.42, -depth * 0.42):
            foot = (x + (splay if x > 0 else -splay), width * 0.42 + splay, radius)
            toy.pair(limb((x, width * 0.42, seat), foot, radius), legs)

    rest = draw.part("backrest") if draw.chance(0.55) else draw.paint
    back, recline = -depth * 0.44, draw.between(0, 12)
    style = draw.choice(("panel", "slats", "round"))
    middle = (back - tall * 0.1 * recline / 12, 0, top + tall / 2 - 0.03)
    if style == "panel":
        toy.add(rounded_box(7.0), rest, (0.1, width * 0.96, tall), middle, turn=(0, -recline, 0))
    elif style == "round":
        toy.add(disc(), rest, (0.09, width, width), (middle[0], 0, top + width * 0.62), turn=(0, -recline, 0))
        toy.pair(
            box(),
            legs,
            (0.06, 0.06, width * 0.5),
            (back, width * 0.25, top + width * 0.15),
            turn=(0, -recline, 0),
        )
        middle = (middle[0], 0, top + width * 0.62)
    else:
        toy.pair(box(), legs, (0.08, 0.08, tall), (middle[0], width * 0.44, middle[2]), turn=(0, -recline, 0))
        for share in (0.3, 0.55, 0.82):
            lean = -(share - 0.5) * tall * recline / 57
            toy.add(
                box(),
                rest,
                (0.06, width * 0.9, tall * 0.16),
                (middle[0] + lean, 0, top + tall * share),
                turn=(0, -recline, 0),
            )
    badge = draw.part("badge")
    shape = draw.choice((star(), disc(), box()))
    badge_size = width * 0.4
    toy.add(
        shape,
        badge,
        (0.06, badge_size, badge_size),
        (middle[0] + 0.06, 0, middle[2] + 0.02),
        turn=(0, -recline, 0),
    )
    toy.add(
        box(), DARK, (0.05, width * 0.45, 0.1), (middle[0] - 0.05, 0, middle[2] + 0.12), turn=(0, -recline, 0)
    )
    toy.add(box(), badge, (0.04, width * 0.8, thickness * 0.5), (depth / 2, 0, seat), front=True)

    if draw.accessory == "cushion":
        toy.add(
            rounded_box(3.5), draw.part("cushion"), (depth * 0.8, width * 0.82, 0.17), (0.04, 0, top + 0.06)
        )
    elif draw.accessory == "armrests":
        colour = draw.part("armrests")
        toy.pair(box(), colour, (depth * 0.85, 0.09, 0.06), (0, width * 0.48, top + 0.27))
        toy.pair(box(), colour, (0.07, 0.07, 0.28), (depth * 0.34, width * 0.48, top + 0.12))
    elif draw.accessory == "blanket":
        colour = draw.part("blanket")
        side = draw.choice((1, -1)) * width * 0.18
        high = middle[2] + (width * 0.5 if style == "round" else tall * 0.5)
        toy.add(
            box(), colour, (0.2, width * 0.5, 0.06), (middle[0] - 0.04, side, high), turn=(0, -recline, 0)
        )
        toy.add(
            box(),
            colour,
            (0.05, width * 0.5, 0.42),
            (middle[0] - 0.12, side, high - 0.2),
            turn=(0, -recline, 0),
        )
    return toy


def lamp(draw: Draw) -> Builder:
    """A lamp that leans and shines forward: bulb, button and badge in front, cable behind."""
    toy = Builder()
    base_size, base_height = draw.between(0.4, 0.52), draw.between(0.08, 0.14)
    toy.add(
        draw.choice((cylinder(0.85, 24), rounded_box(7.0), cylinder(0.7, 6))),
        draw.paint,
        (base_size, base_size, base_height),
        (0, 0, base_height / 2),
    )
    stem = draw.part("stem")
    tall, bow = draw.between(0.95, 1.3), draw.between(0.1, 0.3)
    style = draw.choice(("straight", "jointed", "curved"))
    if style == "straight":
        path = ((0.0, 0.0, base_height), (0.0, 0.0, base_height + tall))
    elif style == "jointed":
        path = (
            (-0.02, 0.0, base_height),
            (-bow, 0.0, base_height + tall * 0.5),
            (0.06, 0.0, base_height + tall),
        )
    else:
        path = tuple(
            (-bow * 4 * s * (1 - s), 0.0, base_height + tall * s) for s in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        )
    thick = draw.between(0.035, 0.06)
    toy.add(tube(path, thick), stem)
    if style == "jointed":
        toy.add(sphere(1), METAL, thick * 3.2, path[1])

    size, length, rim = draw.between(0.46, 0.66), draw.between(0.34, 0.46), draw.between(0.12, 0.18)
    tilt = draw.between(35, 60)
    lean, drop = math.sin(math.radians(tilt)), math.cos(math.radians(tilt))
    shade = draw.part("shade") if draw.chance(0.75) else draw.paint
    wide, wall = size / 2, 0.03
    # a hollow bell with its closed narrow end on the stem, its mouth tilted forward
    bell = (
        (wide, 0),
        (rim, length),
        (0, length),
        (0, length - wall),
        (rim - wall, length - wall),
        (wide - wall, 0),
    )
    x, z = path[-1][0] + length * lean, path[-1][2] - length * drop
    toy.add(lathe(bell, 24, loop=True), shade, at=(x, 0, z), turn=(0, -tilt, 0))
    toy.add(sphere(), GLOW, size * 0.52, (x - length * 0.3 * lean, 0, z + length * 0.3 * drop), front=True)
    toy.add(sphere(1), METAL, rim * 0.9, path[-1])
    if draw.chance(0.5):
        band = (wide * 0.45 + rim * 0.55) * 2
        at = (path[-1][0] + length * 0.45 * lean, 0, path[-1][2] - length * 0.45 * drop)
        toy.add(
            cylinder(sections=24),
            draw.part("stripe"),
            (band * 1.04, band * 1.04, 0.07),
            at,
            turn=(0, -tilt, 0),
        )

    front = base_size / 2
    toy.add(
        cylinder(sections=14),
        draw.part("button"),
        (0.16, 0.16, 0.08),
        (front * 0.6, 0, base_height),
        front=True,
    )
    cable = (
        (-front * 0.8, 0, 0.05),
        (-front - 0.06, 0.03, 0.04),
        (-front - 0.1, 0.14, 0.04),
        (-front - 0.02, 0.24, 0.04),
    )
    toy.add(tube(cable, 0.035, corners=6), DARK)
    _lamp_accessory(draw, toy, path, base_height, tall)
    return toy


def _lamp_accessory(
    draw: Draw, toy: Builder, path: tuple[Vector, ...], base_height: Number, tall: Number
) -> None:
    if draw.accessory == "ribbon":
        colour, (x, _, z) = draw.part("ribbon"), path[len(path) // 2 if len(path) > 2 else 0]
        z = z if len(path) > 2 else base_height + tall * 0.4
        toy.pair(cylinder(0.15, 8), colour, (0.2, 0.1, 0.24), (x + 0.03, 0.1, z), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.14, (x + 0.03, 0, z))
    elif draw.accessory == "holder":
        colour = draw.part("holder")
        toy.add(
            lathe(((0.12, 0), (0.12, 0.3), (0.09, 0.3), (0.09, 0.05))),
            colour,
            at=(-0.02, 0.22, base_height * 0.5),
        )
        for k, tint in enumerate((DARK, METAL)):
            toy.add(
                cylinder(sections=6),
                tint,
                (0.04, 0.04, 0.4),
                (-0.04 + 0.06 * k, 0.2, base_height + 0.22),
                turn=(8, 6 - 12 * k, 0),
            )
    elif draw.accessory == "clock":
        colour = draw.part("clock")
        toy.add(
            cylinder(sections=24), colour, (0.3, 0.3, 0.12), (0.08, -0.2, base_height + 0.14), turn=(0, 90, 0)
        )
        toy.add(disc(), WHITE, (0.06, 0.23, 0.23), (0.125, -0.2, base_height + 0.14), front=True)
        toy.add(box(), DARK, (0.06, 0.03, 0.1), (0.135, -0.2, base_height + 0.18), front=True)
    elif draw.accessory == "cat":
        colour = draw.part("cat")
        x, y, z = 0.08, 0.2, base_height
        toy.add(sphere(), colour, (0.24, 0.2, 0.26), (x - 0.04, y, z + 0.1))
        toy.add(sphere(), colour, 0.18, (x, y, z + 0.28))
        for side in (1, -1):
            toy.add(cylinder(0.0, 8), colour, (0.07, 0.07, 0.1), (x, y + side * 0.055, z + 0.38))
            toy.add(sphere(1), DARK, 0.045, (x + 0.08, y + side * 0.04, z + 0.3), front=True)


def mug(draw: Draw) -> Builder:
    """A mug: a face or a badge in front, the handle to its left, a stripe behind."""
    toy = Builder()
    radius, height = draw.between(0.34, 0.46), draw.between(0.85, 1.25)
    top, waist = radius * draw.between(0.92, 1.12), radius * draw.between(0.88, 1.1)
    foot = radius * draw.between(0.85, 1.0)
    wall, floor = 0.05, 0.08
    inside = draw.part("inside") if draw.chance(0.5) else WHITE
    outer = ((foot, 0), (waist, height * 0.5), (top, height))
    toy.add(
        lathe((*outer, (top - wall, height), (waist - wall, height * 0.5), (foot - wall, floor)), 28),
        draw.paint,
    )
    drink = draw.choice(((84, 48, 28), (196, 120, 40), (236, 220, 196)))
    level = height * draw.between(0.62, 0.86)
    toy.add(lathe(((waist - wall * 1.5, floor), (min(waist, top) - wall, level))), drink)
    toy.add(
        lathe(
            (
                (top + 0.012, height - 0.09),
                (top + 0.014, height + 0.015),
                (top - wall - 0.012, height + 0.015),
                (top - wall - 0.012, height - 0.09),
            ),
            28,
            loop=True,
        ),
        inside,
    )

    handle = draw.part("handle") if draw.chance(0.6) else draw.paint
    reach, grip, middle = draw.between(0.24, 0.36), height * draw.between(0.24, 0.34), height * 0.52
    side = radius * 0.96
    if draw.chance(0.65):
        angles = [math.radians(-90 + 22.5 * k) for k in range(9)]
        path = tuple((0.0, side - 0.04 + reach * math.cos(a), middle + grip * math.sin(a)) for a in angles)
    else:
        path = tuple(
            (0.0, side - 0.05 + y * reach, middle + z * grip)
            for y, z in ((0, -1), (0.9, -1), (0.9, 1), (0, 1))
        )
    toy.add(tube(path, draw.between(0.06, 0.085), corners=10), handle)

    _mug_front(draw, toy, height, (foot, waist, top))
    back = draw.part("stripe")
    for share in (0.35, 0.6):
        _mug_band(toy, back, height, (foot, waist, top), (share - 0.06, share + 0.06), 180, 70)
    _mug_accessory(draw, toy, height, (foot, waist, top))
    return toy


def _mug_radius(radii: Vector, share: Number) -> Number:
    """Outer radius at a share of the height."""
    foot, waist, top = radii
    return foot + (waist - foot) * share * 2 if share < 0.5 else waist + (top - waist) * (share - 0.5) * 2


def _mug_band(
    toy: Builder,
    colour: Colour,
    height: Number,
    radii: Vector,
    shares: tuple[Number, Number],
    azimuth_deg: Number,
    half_angle_deg: Number,
    front: bool = False,
) -> None:
    """Glues a thin band around the wall, between two shares of the height."""
    low, high = shares
    inner, outer = ((_mug_radius(radii, share), share * height) for share in (low, high))
    profile = (
        (inner[0] - 0.03, inner[1]),
        (inner[0] + 0.02, inner[1]),
        (outer[0] + 0.02, outer[1]),
        (outer[0] - 0.03, outer[1]),
    )
    band = arc(profile, azimuth_deg - half_angle_deg, azimuth_deg + half_angle_deg)
    toy.add(band, colour, front=front)


def _mug_front(draw: Draw, toy: Builder, height: Number, radii: Vector) -> None:
    style = draw.choice(("face", "star", "dots", "label"))
    if style == "face":
        draw.mention("face", "a face")
        r, z = _mug_radius(radii, 0.62) + 0.0, height * 0.62
        x, y = r * math.cos(math.radians(24)), r * math.sin(math.radians(24))
        toy.pair(sphere(1), WHITE, (0.1, 0.2, 0.24), (x, y, z), front=True)
        toy.pair(sphere(1), DARK, (0.09, 0.11, 0.13), (x + 0.035, y, z), front=True)
        _mug_band(toy, DARK, height, radii, (0.3, 0.36), 0, draw.between(12, 26), front=True)
        return
    colour = draw.part({"star": "star", "dots": "dots", "label": "label"}[style])
    if style == "star":
        size = min(height * 0.5, radii[1] * 1.1)
        toy.add(
            star(), colour, (0.12, size, size), (_mug_radius(radii, 0.5) - 0.02, 0, height * 0.5), front=True
        )
    elif style == "dots":
        for azimuth, share in ((-32, 0.35), (0, 0.65), (32, 0.35), (-40, 0.75), (40, 0.75), (0, 0.25)):
            r, a = _mug_radius(radii, share), math.radians(azimuth)
            toy.add(
                disc(),
                colour,
                (0.08, 0.17, 0.17),
                (r * math.cos(a), r * math.sin(a), height * share),
                turn=(0, 0, azimuth),
                front=True,
            )
    else:
        _mug_band(toy, colour, height, radii, (0.25, 0.78), 0, 48, front=True)
        _mug_band(toy, WHITE, height, tuple(r + 0.015 for r in radii), (0.42, 0.6), 0, 30, front=True)


def _mug_accessory(draw: Draw, toy: Builder, height: Number, radii: Vector) -> None:
    top = radii[2]
    if draw.accessory == "spoon":
        colour = draw.part("spoon")
        toy.add(limb((0.0, 0.05, height * 0.5), (0.12, -top * 1.0, height * 1.35), 0.03), colour)
        toy.add(sphere(1), colour, (0.14, 0.1, 0.2), (0.12, -top * 1.05, height * 1.38), turn=(30, 0, 0))
    elif draw.accessory == "lid":
        colour = draw.part("lid")
        toy.add(dome(24), colour, (top * 2.1, top * 2.1, 0.3), (0, 0, height))
        toy.add(sphere(), colour, 0.14, (0, 0, height + 0.18))
    elif draw.accessory == "straw":
        colour = draw.part("straw")
        x, y = -0.05, -top * 0.5
        toy.add(
            tube(((x, 0.0, height * 0.4), (x, y, height * 1.3), (x + 0.14, y - 0.1, height * 1.5)), 0.035),
            colour,
        )
    elif draw.accessory == "saucer":
        colour = draw.part("saucer")
        wide = radii[0] * 2.0
        toy.add(
            lathe(((wide * 0.55, -0.08), (wide * 0.9, 0.0), (wide * 0.9, 0.04), (wide * 0.5, -0.02)), 28),
            colour,
        )
