"""What lies about a house: mug, teapot, potted plant, hammer."""

import math
from typing import NamedTuple

from imagedream.toybox.builder import Builder, recipe
from imagedream.toybox.kinds.features import badge, wall_patch
from imagedream.toybox.palette import DARK, GLOW, METAL, WHITE, Colour
from imagedream.toybox.shapes import (
    Number,
    Vector,
    arc,
    box,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    ring,
    rounded_box,
    sphere,
    star,
    tapered_box,
    tube,
)


class Wall(NamedTuple):
    """A mug's outside: its height, and its radius at the foot, half way up and at the top."""

    height: Number
    foot: Number
    waist: Number
    top: Number

    def radius(self, share: Number) -> Number:
        """Outer radius at a share of the height."""
        if share < 0.5:
            return self.foot + (self.waist - self.foot) * share * 2
        return self.waist + (self.top - self.waist) * (share - 0.5) * 2

    def band(
        self,
        toy: Builder,
        colour: Colour,
        shares: tuple[Number, Number],
        half_angle_deg: Number,
        azimuth_deg: Number = 0,
    ) -> None:
        """Glues a thin band to the wall, between two shares of the height."""
        (low, down), (high, up) = ((self.radius(share), share * self.height) for share in shares)
        profile = ((low - 0.03, down), (low + 0.02, down), (high + 0.02, up), (high - 0.03, up))
        toy.add(arc(profile, azimuth_deg - half_angle_deg, azimuth_deg + half_angle_deg), colour)


@recipe("spoon", "lid", "straw", "saucer")
def mug(toy: Builder) -> None:
    """A face or a badge in front, the handle to its left, a stripe behind."""
    radius, height = toy.between(0.34, 0.46), toy.between(0.85, 1.25)
    top, waist = radius * toy.between(0.92, 1.12), radius * toy.between(0.88, 1.1)
    foot = radius * toy.between(0.85, 1.0)
    wall, thick, floor = Wall(height, foot, waist, top), 0.05, 0.08
    lining = toy.colour("inside", chance=0.5, otherwise=WHITE)
    outside = ((foot, 0), (waist, height * 0.5), (top, height))
    inside = ((top - thick, height), (waist - thick, height * 0.5), (foot - thick, floor))
    toy.add(lathe((*outside, *inside), 28), toy.paint)
    drink = toy.choice(((84, 48, 28), (196, 120, 40), (236, 220, 196)))
    level = height * toy.between(0.62, 0.86)
    toy.add(lathe(((waist - thick * 1.5, floor), (min(waist, top) - thick, level))), drink)
    inner, low, high = top - thick - 0.012, height - 0.09, height + 0.015
    rim = ((top + 0.012, low), (top + 0.014, high), (inner, high), (inner, low))
    toy.add(lathe(rim, 28, loop=True), lining)

    handle = toy.colour("handle", chance=0.6)
    reach, grip, middle = toy.between(0.24, 0.36), height * toy.between(0.24, 0.34), height * 0.52
    side = radius * 0.96
    if toy.chance(0.65):
        path = _bow(side - 0.04, middle, reach, grip)
    else:
        corners = ((0, -1), (0.9, -1), (0.9, 1), (0, 1))
        path = [(0.0, side - 0.05 + y * reach, middle + z * grip) for y, z in corners]
    toy.add(tube(path, toy.between(0.06, 0.085)), handle)

    _mug_front(toy, wall)
    stripe = toy.colour("stripe")
    for share in (0.35, 0.6):
        wall.band(toy, stripe, (share - 0.06, share + 0.06), 70, azimuth_deg=180)

    colour = toy.accessory_colour()
    if toy.accessory == "spoon":
        toy.add(limb((0.0, 0.05, height * 0.5), (0.12, -top, height * 1.35), 0.03), colour)
        toy.add(sphere(1), colour, (0.14, 0.1, 0.2), (0.12, -top * 1.05, height * 1.38), turn=(30, 0, 0))
    elif toy.accessory == "lid":
        toy.add(dome(24), colour, (top * 2.1, top * 2.1, 0.3), (0, 0, height))
        toy.add(sphere(), colour, 0.14, (0, 0, height + 0.18))
    elif toy.accessory == "straw":
        y = -top * 0.5
        bends = ((-0.05, 0.0, height * 0.4), (-0.05, y, height * 1.3), (-0.05 + 0.14, y - 0.1, height * 1.5))
        toy.add(tube(bends, 0.035), colour)
    elif toy.accessory == "saucer":
        wide = foot * 2.0
        plate = ((wide * 0.55, -0.08), (wide * 0.9, 0.0), (wide * 0.9, 0.04), (wide * 0.5, -0.02))
        toy.add(lathe(plate, 28), colour)


def _mug_front(toy: Builder, wall: Wall) -> None:
    """A face, a star, dots or a label."""
    height, style = wall.height, toy.choice(("face", "star", "dots", "label"))
    if style == "face":
        toy.mention("face", "a face")
        radius, z = wall.radius(0.62), height * 0.62
        x, y = radius * math.cos(math.radians(24)), radius * math.sin(math.radians(24))
        toy.pair(sphere(1), WHITE, (0.1, 0.2, 0.24), (x, y, z))
        toy.pair(sphere(1), DARK, (0.09, 0.11, 0.13), (x + 0.035, y, z))
        wall.band(toy, DARK, (0.3, 0.36), toy.between(12, 26))
        return
    colour = toy.colour(style)
    if style == "star":
        size = min(height * 0.5, wall.waist * 1.1)
        toy.add(star(), colour, (0.12, size, size), (wall.radius(0.5) - 0.02, 0, height * 0.5))
    elif style == "dots":
        for azimuth, share in ((-32, 0.35), (0, 0.65), (32, 0.35), (-40, 0.75), (40, 0.75), (0, 0.25)):
            radius, angle = wall.radius(share), math.radians(azimuth)
            at = (radius * math.cos(angle), radius * math.sin(angle), height * share)
            toy.add(disc(), colour, (0.08, 0.17, 0.17), at, turn=(0, 0, azimuth))
    else:
        wall.band(toy, colour, (0.25, 0.78), 48)
        over = Wall(height, *(radius + 0.015 for radius in wall[1:]))
        over.band(toy, WHITE, (0.42, 0.6), 30)


def _bow(y: Number, z: Number, reach: Number, grip: Number) -> list[Vector]:
    """A handle's half circle in the yz plane, out to the left."""
    angles = [math.radians(-90 + 22.5 * k) for k in range(9)]
    return [(0.0, y + reach * math.cos(angle), z + grip * math.sin(angle)) for angle in angles]


@recipe("saucer", "ribbon", "feet", "tea bag")
def teapot(toy: Builder) -> None:
    """A badge or a face in front, the handle to its left and the spout to its right."""
    radius, height = toy.between(0.4, 0.5), toy.between(0.55, 0.85)
    exponent = toy.choice((2.0, 2.6, 3.4))
    # feet lift the pot
    lift = 0.1 if toy.accessory == "feet" else 0.0
    middle = lift + height * 0.46
    toy.add(rounded_box(exponent, 7), toy.paint, (radius * 2, radius * 2, height), (0, 0, middle))
    lid, top = toy.colour("lid"), middle + height * 0.4
    toy.add(dome(24), lid, (radius * 1.3, radius * 1.3, height * 0.4), (0, 0, top))
    toy.add(sphere(), toy.colour("knob"), radius * 0.36, (0, 0, top + height * 0.24))
    toy.add(cylinder(24, 0.85), lid, (radius * 1.2, radius * 1.2, 0.07), (0, 0, lift + 0.035))

    handle = toy.colour("handle", chance=0.6)
    reach, grip = toy.between(0.26, 0.36), height * toy.between(0.24, 0.32)
    toy.add(tube(_bow(radius * 0.86, middle, reach, grip), 0.06), handle)
    spout = toy.colour("spout", chance=0.5)
    length, rise = toy.between(0.28, 0.4), height * toy.between(0.3, 0.45)
    root = -radius * 0.75
    path = (
        (0, root, middle - height * 0.12),
        (0, root - length * 0.55, middle),
        (0, root - length * 0.75, middle + rise * 0.6),
        (0, root - length, middle + rise),
    )
    toy.add(tube(path, 0.15, 0.07, corners=14), spout)
    toy.add(sphere(1), DARK, (0.1, 0.1, 0.04), (0, root - length - 0.01, middle + rise))

    badge(toy, radius, middle, height * 0.5)
    stripe = toy.colour("stripe")
    for up in (-0.1, 0.08):
        toy.add(wall_patch(radius * 0.96, 0.07, 180, 48), stripe, at=(0, 0, middle + height * up))

    colour = toy.accessory_colour()
    if toy.accessory == "saucer":
        plate = ((radius * 0.6, -0.06), (radius * 1.5, 0.02), (radius * 1.5, 0.06), (radius * 0.6, 0.01))
        toy.add(lathe(plate, 28), colour)
    elif toy.accessory == "ribbon":
        z = middle + height * 0.27
        toy.add(ring(0.12, 24), colour, (radius * 1.72, radius * 1.72, 0.5), (0, 0, z))
        toy.pair(cylinder(8, 0.15), colour, (0.2, 0.1, 0.24), (radius * 0.84, 0.11, z), turn=(90, 0, 0))
    elif toy.accessory == "feet":
        for x in (radius * 0.45, -radius * 0.45):
            toy.pair(sphere(1), colour, (0.2, 0.2, 0.22), (x, radius * 0.45, 0.1))
    elif toy.accessory == "tea bag":
        x, y, z = radius * 0.78, radius * 0.5, middle + height * 0.12
        string = ((radius * 0.5, radius * 0.35, top), (x, y, z + 0.1), (x + 0.03, y, z))
        toy.add(tube(string, 0.016, corners=6), WHITE)
        toy.add(box(), colour, (0.04, 0.16, 0.18), (x + 0.06, y, z - 0.06), turn=(0, 0, 25))


@recipe("flowers", "sign", "saucer", "ladybird", noun="potted plant")
def plant(toy: Builder) -> None:
    """A pot of the body's colour: a face or a badge on its front, a stripe behind."""
    radius, height = toy.between(0.26, 0.38), toy.between(0.4, 0.6)
    upper = radius * toy.between(1.05, 1.35)
    pot = ((radius, 0), (upper, height), (upper - 0.05, height), (radius - 0.05, height * 0.8))
    toy.add(lathe(pot, 24), toy.paint)
    inner, outer, low, high = upper - 0.06, upper + 0.04, height - 0.1, height + 0.02
    rim = lathe(((inner, low), (outer, low), (outer, high), (inner, high)), 24, loop=True)
    toy.add(rim, toy.colour("rim", chance=0.6))
    toy.add(cylinder(), (84, 56, 38), (upper * 1.8, upper * 1.8, 0.06), (0, 0, height - 0.05))
    wall, middle = (radius + upper) / 2, height * 0.45
    badge(toy, wall, middle, height * 0.5)
    toy.add(wall_patch(wall, height * 0.2, 180, 60), toy.colour("stripe"), at=(0, 0, middle))

    crown, colour = _leaves(toy, height), toy.accessory_colour()
    if toy.accessory == "flowers":
        for y, z in ((0.0, 0.2), (0.2, 0.08), (-0.2, 0.02)):
            toy.add(disc(8), colour, (0.07, 0.22, 0.22), (0.24, y, crown + z))
            toy.add(sphere(1), GLOW, (0.08, 0.1, 0.1), (0.27, y, crown + z))
    elif toy.accessory == "sign":
        x, y = upper * 0.7, upper * 0.5
        toy.add(box(), METAL, (0.04, 0.05, 0.35), (x, y, height + 0.12))
        toy.add(box(), colour, (0.06, 0.3, 0.2), (x, y, height + 0.3))
    elif toy.accessory == "saucer":
        plate = ((radius * 0.9, -0.05), (radius * 1.5, 0.03), (radius * 1.5, 0.08), (radius * 0.9, 0.02))
        toy.add(lathe(plate, 24), colour)
    elif toy.accessory == "ladybird":
        x, y, z = upper * 0.8, -upper * 0.55, height + 0.06
        toy.add(dome(16), colour, (0.26, 0.22, 0.26), (x, y, z - 0.04))
        toy.add(sphere(1), DARK, 0.13, (x + 0.12, y, z + 0.01))


def _leaves(toy: Builder, soil: Number) -> Number:
    """A bush, a cactus, a palm or leaves, on soil at this height; returns the height of the crown."""
    green = toy.colour("leaves", ("green", "teal", "purple", "red"))
    style = toy.choice(("bush", "cactus", "palm", "leaves"))
    if style == "bush":
        stem = toy.between(0.1, 0.4)
        toy.add(cylinder(), (110, 74, 44), (0.1, 0.1, stem + 0.1), (0, 0, soil + stem / 2))
        crown = soil + stem + 0.2
        for y, z, size in ((0, 0.12, 0.56), (0.2, -0.02, 0.42), (-0.22, 0.02, 0.38)):
            toy.add(sphere(), green, size, (toy.between(-0.06, 0.06), y, crown + z))
        return crown
    if style == "cactus":
        tall = toy.between(0.5, 0.8)
        toy.add(limb((0, 0, soil), (0, 0, soil + tall), 0.15), green)
        for y in (0.3, -0.3)[: toy.choice((1, 2))]:
            z = soil + tall * toy.between(0.3, 0.55)
            toy.add(limb((0, 0, z), (0, y, z), 0.075), green)
            toy.add(limb((0, y, z), (0, y, z + 0.22), 0.075), green)
        return soil + tall
    count, tall = toy.choice((6, 7, 8)), toy.between(0.4, 0.7)
    crown = soil + (tall if style == "palm" else 0.1)
    if style == "palm":
        trunk = tube(((0, 0, soil - 0.1), (0, 0.04, soil + tall * 0.5), (0, 0, crown)), 0.07, 0.05)
        toy.add(trunk, (124, 84, 48))
    for k in range(count):
        turn, droop = 360 * k / count, toy.between(-70, -40) if style == "leaves" else toy.between(-25, 20)
        angle, down, reach = math.radians(turn), math.radians(droop), 0.27
        out = reach * math.cos(down)
        at = (out * math.cos(angle), out * math.sin(angle), crown - reach * math.sin(down))
        toy.add(sphere(1), green, (0.62, 0.2, 0.07), at, turn=(0, droop, turn))
    return crown


@recipe("strap", "nails", "ribbon")
def hammer(toy: Builder) -> None:
    """The striking face in front, a claw or a wedge behind."""
    tall, thick = toy.between(0.9, 1.3), toy.between(0.12, 0.18)
    # the handle is the body, for it is what a hand would paint
    shape = toy.choice((cylinder(), rounded_box(8.0)))
    toy.add(shape, toy.paint, (thick, thick * 1.1, tall), (0, 0, tall / 2))
    grip = (thick * 1.4, thick * 1.5, tall * 0.34)
    toy.add(rounded_box(5.0), toy.colour("grip"), grip, (0, 0, tall * 0.17))
    for k in range(3):
        toy.add(box(), DARK, (0.05, thick * 1.1, 0.035), (-thick * 0.68, 0, tall * (0.09 + 0.08 * k)))
    badge, shape = toy.colour("badge"), toy.choice((star(), disc()))
    toy.add(shape, badge, (0.06, 0.2, 0.2), (thick * 0.5 + 0.01, 0, tall * 0.55))
    toy.add(box(), badge, (0.06, 0.14, 0.12), (thick * 0.72, 0, tall * 0.2))

    head, size, reach = toy.colour("head"), toy.between(0.24, 0.36), toy.between(0.3, 0.45)
    style, ahead = toy.choice(("claw", "mallet", "wedge")), (0, 90, 0)
    toy.add(rounded_box(6.0), head, (size * 1.1, size, size), (0, 0, tall))
    if style == "mallet":
        toy.add(cylinder(24), head, (size * 1.7, size * 1.7, reach * 2), (0, 0, tall), turn=ahead)
        toy.add(cylinder(24), METAL, (size * 1.8, size * 1.8, 0.08), (reach - 0.06, 0, tall), turn=ahead)
        toy.add(disc(), toy.colour("face"), (0.06, size * 1.4, size * 1.4), (reach, 0, tall))
        toy.add(box(), DARK, (0.05, size, 0.08), (-reach, 0, tall))
    else:
        toy.add(cylinder(top=0.8), head, (size * 0.8, size * 0.8, reach), (reach / 2, 0, tall), turn=ahead)
        toy.add(cylinder(24), METAL, (size * 1.15, size * 1.15, 0.16), (reach, 0, tall), turn=ahead)
        toy.add(disc(), toy.colour("face"), (0.06, size * 0.8, size * 0.8), (reach + 0.07, 0, tall))
        if style == "claw":
            root, bend = (-size * 0.3, size * 0.22, tall), (-reach * 0.7, size * 0.26, tall + 0.02)
            toy.pair(tube((root, bend, (-reach * 1.2, size * 0.34, tall - 0.16)), size * 0.2, 0.03, 8), head)
        else:
            wedge, at = (size * 0.9, size, reach * 1.2), (-reach * 0.7, 0, tall)
            toy.add(tapered_box((1.0, 0.08)), head, wedge, at, turn=(0, -90, 0))

    colour = toy.accessory_colour()
    if toy.accessory == "strap":
        toy.add(ring(0.16, 18), colour, (0.34, 0.44, 0.4), (-0.1, 0, 0.02), turn=(90, 0, 30))
    elif toy.accessory == "nails":
        for y, x in ((0.26, 0.12), (0.36, -0.04), (-0.28, 0.1)):
            toy.add(cylinder(8), colour, (0.05, 0.05, 0.3), (x, y, 0.15))
            toy.add(cylinder(12), colour, (0.15, 0.15, 0.04), (x, y, 0.31))
    elif toy.accessory == "ribbon":
        x, z = thick * 0.5, tall * 0.72
        toy.pair(cylinder(8, 0.15), colour, (0.2, 0.1, 0.24), (x + 0.03, 0.11, z), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.13, (x + 0.05, 0, z))
