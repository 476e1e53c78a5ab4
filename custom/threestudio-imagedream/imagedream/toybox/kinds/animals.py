"""Animals: dog, bird, fish."""

import math

from imagedream.toybox.builder import Builder, Frame, frame, moved, recipe
from imagedream.toybox.kinds.features import eyes, hat
from imagedream.toybox.palette import DARK, Colour
from imagedream.toybox.shapes import (
    box,
    cone,
    cylinder,
    dome,
    lathe,
    limb,
    prism,
    ring,
    rounded_box,
    sphere,
    tube,
)


@recipe("collar", "hat", "saddle", "scarf")
def dog(toy: Builder) -> None:
    """A four-legged animal: head with snout at the front, tail at the back."""
    length, girth, leg = toy.between(0.75, 1.25), toy.between(0.38, 0.55), toy.between(0.25, 0.55)
    body = toy.add(rounded_box(2.7), toy.paint, (length, girth, girth), (0, 0, leg + girth * 0.4))

    marks = toy.colour(toy.choice(("ears", "patches")))
    thick = toy.between(0.07, 0.1)
    paws = toy.colour("paws", chance=0.4)
    for x in (length * 0.36, -length * 0.36):
        ankle = (x + 0.02, girth * 0.34, thick)
        toy.pair(limb((x, girth * 0.32, leg), ankle, thick), toy.paint)
        toy.pair(sphere(1), paws, (thick * 3.2, thick * 2.5, thick * 2), (x + 0.05, girth * 0.34, thick))

    size, neck = toy.between(0.42, 0.58), body.at(0.42, 0, 0.2)
    middle = moved(body.at(0.5, 0, 0.2), toy.between(0.02, 0.14), 0, toy.between(0.2, 0.42))
    head = frame(size, middle)
    toy.add(limb(neck, middle, size * 0.28), toy.paint)
    toy.add(sphere(), toy.paint, head.size * (1, 1, 0.92), middle)
    snout, mouth = toy.between(0.22, 0.42), head.at(0.38, 0, -0.14)
    muzzle = marks if toy.chance() else toy.paint
    toy.add(rounded_box(2.6), muzzle, (snout * 1.5, size * 0.5, size * 0.42), mouth)
    toy.add(sphere(1), DARK, size * 0.24, moved(mouth, snout * 0.72, 0, size * 0.1))
    eyes(toy, head.at(0.38, 0.22, 0.16), size * 0.24)
    if toy.chance(0.3):
        tongue = toy.colour("tongue", ("red", "pink"))
        toy.add(box(), tongue, (0.05, 0.11, 0.16), moved(mouth, snout * 0.6, 0, size * -0.22))

    _ears(toy, head, marks)
    if "patches" in toy.attributes:
        for _ in range(3):
            x, side = toy.between(-0.34, 0.3), toy.choice((1, -1))
            at = moved(body.at(x, side * 0.4), up=toy.between(-0.05, 0.12))
            toy.add(sphere(1), marks, (girth * 0.55, girth * 0.2, girth * 0.5), at)

    long, root = toy.between(0.25, 0.5), body.at(-0.46, 0, 0.2)
    tip = moved(root, long * -0.7, toy.between(-0.1, 0.1), long * toy.between(-0.3, 0.9))
    toy.add(tube((root, moved(root, long * -0.5, 0, 0.05), tip), 0.075, 0.04), toy.paint)
    toy.add(sphere(1), marks, 0.13, tip)

    colour = toy.accessory_colour()
    if toy.accessory == "collar":
        toy.add(ring(0.22), colour, size * 0.95, neck + (middle - neck) * 0.4, turn=(0, 25, 0))
    elif toy.accessory == "hat":
        hat(toy, colour, moved(head.at(0, 0, 0.42), -0.02), size * 0.95, size * 0.6, 0.26)
    elif toy.accessory == "saddle":
        toy.add(rounded_box(4.0), colour, body.size * (0.36, 1.08, 0.55), body.at(-0.02, 0, 0.27))
    elif toy.accessory == "scarf":
        toy.add(ring(0.3), colour, size * 1.05, neck + (middle - neck) * 0.35, turn=(0, 20, 0))
        end = moved(body.at(0.5), 0.04, size * 0.36)
        toy.add(box(), colour, (0.06, 0.14, 0.34), end, turn=(10, -8, 0))


def _ears(toy: Builder, head: Frame, colour: Colour) -> None:
    style = toy.choice(("floppy", "pointed", "round"))
    if style == "floppy":
        at = moved(head.at(0, 0.5), -0.03)
        toy.pair(sphere(), colour, head.size * (0.32, 0.16, 0.75), at, turn=(14, 0, 0))
    elif style == "pointed":
        at = moved(head.at(0, 0.3, 0.52), -0.04)
        toy.pair(cone(8), colour, head.size * (0.2, 0.34, 0.55), at, turn=(-12, 0, 0))
    else:
        toy.pair(sphere(), colour, head.size * (0.16, 0.4, 0.4), moved(head.at(0, 0.4, 0.36), -0.02))


@recipe("crest", "hat", "scarf", "backpack")
def bird(toy: Builder) -> None:
    """A standing bird: beak and belly in front, tail behind, wings at the sides."""
    width, height, depth = toy.between(0.55, 0.75), toy.between(0.7, 0.95), toy.between(0.6, 0.85)
    leg, size = toy.between(0.15, 0.4), (depth, width, height)
    lean = toy.between(-5, 25)
    body = toy.add(sphere(), toy.paint, size, (0, 0, leg + height * 0.46), turn=(0, -lean, 0))
    belly = toy.colour("belly")
    toy.add(sphere(), belly, body.size * (0.85, 0.78, 0.78), body.at(0.13, 0, -0.05), turn=(0, -lean, 0))

    size = toy.between(0.4, 0.55)
    middle = moved(body.at(0.22, 0, 0.4), up=toy.between(0.02, 0.2))
    toy.add(limb(moved(body.centre, 0.02), middle, size * 0.34), toy.paint)
    head = toy.add(sphere(), toy.paint, size, middle)
    eyes(toy, head.at(0.36, 0.26, 0.12), size * 0.27)
    bill = toy.colour("beak", ("yellow", "orange", "red", "pink", "gray"))
    long, flat = toy.between(0.22, 0.5), toy.chance(0.35)
    beak = moved(head.at(0.42, 0, -0.06), long / 2)
    if flat:
        toy.add(rounded_box(3.0), bill, (long * 1.25, size * 0.5, size * 0.17), beak)
    else:
        toy.add(cone(12), bill, (size * 0.36, size * 0.36, long), beak, turn=(0, 95, 0))

    wings = toy.colour("wings")
    if toy.chance(0.4):
        reach, shoulder = toy.between(0.5, 0.8), body.at(0, 0.36, 0.12)
        outline = ((0.22, 0.0), (0.1, reach * 0.7), (-0.12, reach), (-0.28, reach * 0.75), (-0.3, 0.0))
        toy.pair(prism(outline), wings, (1, 1, 0.07), shoulder, turn=(toy.between(-15, 35), 8, 0))
    else:
        folded = body.size * (0.85, 0.18, 0.55)
        toy.pair(sphere(), wings, folded, body.at(-0.1, 0.46), turn=(8, 20 + lean, 0))
    tail = toy.between(0.35, 0.65)
    fan = ((0.15, -0.1), (0.15, 0.1), (-tail, 0.26), (-tail * 0.9, 0.0), (-tail, -0.26))
    rise = toy.between(-25, 30)
    toy.add(prism(fan), wings, (1, 1, 0.09), body.at(-0.36, 0, -0.15), turn=(0, rise, 0))

    for side in (1, -1):
        y = side * width * 0.2
        toy.add(limb((0.0, y, leg + 0.08), (0.02, y, 0.05), 0.045), bill)
        toy.add(rounded_box(3.0), bill, (0.3, 0.2, 0.08), (0.09, y, 0.04))

    colour = toy.accessory_colour()
    if toy.accessory == "crest":
        front = moved(head.centre, 0.08)
        for k in range(3):
            at = moved(front, -0.12 * k, 0, size * (0.56 - 0.06 * k))
            toy.add(sphere(1), colour, (0.12, 0.07, 0.26), at, turn=(0, 10 - 35 * k, 0))
    elif toy.accessory == "hat":
        hat(toy, colour, head.at(0, 0, 0.42), size * 0.95, size * 0.62, 0.28)
    elif toy.accessory == "scarf":
        toy.add(ring(0.28), colour, size * 1.12, moved(head.at(0, 0, -0.4), -0.04))
        toy.add(box(), colour, (0.06, 0.15, 0.32), body.at(0.46, 0.25, 0.1), turn=(0, 0, 25))
    elif toy.accessory == "backpack":
        toy.add(rounded_box(4.0), colour, (0.3, width * 0.6, height * 0.5), body.at(-0.52, 0, 0.08))
        toy.add(dome(), colour, (0.32, width * 0.6, 0.16), body.at(-0.52, 0, 0.3))


@recipe("crown", "snorkel", "bow")
def fish(toy: Builder) -> None:
    """Lips and eyes in front, a tail fin behind."""
    length, width, height = toy.between(0.9, 1.3), toy.between(0.4, 0.6), toy.between(0.5, 0.8)
    exponent = toy.choice((2.0, 2.5))
    body = toy.add(rounded_box(exponent, 7), toy.paint, (length, width, height))
    fins = toy.colour("fins")
    tail, spread = toy.between(0.3, 0.5), height * toy.between(0.4, 0.6)
    outline = ((0.12, 0.04), (-tail, spread), (-tail * 0.6, 0), (-tail, -spread), (0.12, -0.04))
    toy.add(prism(outline, "y"), fins, (1, 0.08, 1), body.at(-0.44))
    dorsal = ((0.28, 0), (-0.02, toy.between(0.2, 0.4)), (-0.3, 0.12), (-0.28, 0))
    toy.add(prism(dorsal, "y"), fins, (1, 0.07, 1), body.at(0, 0, 0.42))
    flap, droop = ((0.08, 0), (-0.14, 0.3), (-0.26, 0.24), (-0.12, 0)), toy.between(-50, 10)
    toy.pair(prism(flap), fins, (1, 1, 0.06), body.at(0.12, 0.4, -0.12), turn=(droop, 0, 0))
    eyes(toy, body.at(0.36, 0.3, 0.14), 0.22)
    lips = toy.colour("lips", ("red", "pink", "orange", "yellow", "purple"))
    toy.add(ring(0.4, 14), lips, (width * 0.55, 0.24, 0.5), body.at(0.5, 0, -0.06), turn=(90, 0, 90))
    style = toy.choice(("stripes", "dots", "belly"))
    colour = toy.colour(style)
    if style == "stripes":
        for share in (0.16, -0.06, -0.26):
            # a slice a little larger than the body's own cross-section there
            around = (1 - abs(2 * share) ** exponent) ** (1 / exponent) * 1.05
            toy.add(rounded_box(exponent), colour, body.size * (0.14, around, around), body.at(share))
    elif style == "dots":
        for x, z in ((0.12, 0.18), (-0.08, -0.1), (-0.22, 0.12), (0.04, -0.24), (-0.3, -0.06)):
            out = (1 - abs(2 * x) ** exponent - abs(2 * z) ** exponent) ** (1 / exponent) / 2
            toy.pair(sphere(1), colour, (0.15, 0.08, 0.15), body.at(x, out, z))
    else:
        toy.add(sphere(), colour, body.size * (0.85, 0.86, 0.7), body.at(0.05, 0, -0.17))

    top = body.at(0.2, 0, 0.44)
    if toy.accessory == "crown":
        gold = toy.colour("crown", ("yellow", "orange", "white", "gray"))
        toy.add(lathe(((0.15, 0), (0.19, 0.13), (0.15, 0.13), (0.12, 0)), 16, loop=True), gold, at=top)
        for k in range(6):
            angle = math.radians(60 * k)
            at = moved(top, 0.16 * math.cos(angle), 0.16 * math.sin(angle), 0.18)
            toy.add(cone(6), gold, (0.1, 0.1, 0.13), at)
    elif toy.accessory == "snorkel":
        bends = ((0.46, 0.23, -0.05), (0.36, 0.46, -0.05), (0.26, 0.46, 0.5), (0.2, 0.46, 0.75))
        toy.add(tube([body.at(*bend) for bend in bends], 0.045), toy.colour("snorkel"))
    elif toy.accessory == "bow":
        colour = toy.colour("bow")
        toy.pair(cylinder(8, 0.15), colour, (0.2, 0.12, 0.22), moved(top, 0, 0.11, 0.06), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.13, moved(top, up=0.06))
