"""What drives, swims and flies: car, truck, boat, plane, rocket."""

import math

from imagedream.toybox.builder import Builder, frame, moved, recipe
from imagedream.toybox.kinds.features import wheels
from imagedream.toybox.palette import DARK, GLASS, METAL, TAIL_LIGHT, WHITE
from imagedream.toybox.shapes import (
    box,
    cone,
    cylinder,
    disc,
    hull,
    lathe,
    limb,
    prism,
    ring,
    rounded_box,
    sphere,
    star,
    tapered_box,
)

_CABINS = {"sedan": (0.52, -0.05), "van": (0.72, -0.12), "pickup": (0.36, 0.04), "beetle": (0.62, -0.04)}
"""How long a car's cabin is and how far ahead its middle lies, in lengths of the car."""


@recipe("spoiler", "roof rack", "siren", "surfboard")
def car(toy: Builder) -> None:
    """Headlights, grille and windscreen in front, red lights and a plate behind."""
    length, width, height = toy.between(1.5, 2.1), toy.between(0.8, 1.0), toy.between(0.3, 0.42)
    radius = toy.between(0.17, 0.24)
    floor = radius * 0.75
    top = floor + height
    shape = toy.choice((rounded_box(8.0), tapered_box((0.94, 0.9)), box()))
    body = toy.add(shape, toy.paint, (length, width, height), (0, 0, floor + height / 2))

    style = toy.choice(tuple(_CABINS))
    tall = toy.between(0.3, 0.42) * (1.25 if style == "van" else 1.0)
    share, ahead = _CABINS[style]
    roof = toy.colour("roof", chance=0.6)
    slope = toy.between(0.6, 0.75) if style != "van" else 0.84
    cabin = frame((length * share, width, tall), (length * ahead, 0, top + tall / 2))
    toy.add(tapered_box((slope, 0.84), (-0.06, 0.0)), GLASS, cabin.size * (1, 0.9, 1), cabin.centre)
    roof_length = cabin.size[0] * slope
    ceiling = (cabin.at(-0.06)[0], 0, top + tall)
    toy.add(rounded_box(6.0), roof, (roof_length * 1.06, width * 0.8, 0.09), ceiling)
    # posts part the glass into windows, and close the cabin's back
    post = moved(cabin.at(0, 0.42), 0.02)
    toy.pair(tapered_box((0.9, 1.0), (-0.4, 0.0)), roof, (0.09, 0.04, tall), post, turn=(8, 0, 0))
    back = cabin.centre[0] - cabin.size[0] * (0.5 + slope) / 4 - cabin.size[0] * 0.03
    toy.add(box(), roof, (0.06, width * 0.7, tall * 0.5), (back, 0, top + tall * 0.22))

    toy.pair(cylinder(14), WHITE, (0.19, 0.19, 0.08), body.at(0.5, 0.33, 0.12), turn=(0, 90, 0))
    toy.add(box(), DARK, (0.05, width * 0.32, height * 0.3), body.at(0.5, 0, 0.05))
    toy.add(rounded_box(5.0), METAL, (0.12, width * 1.02, 0.1), (length / 2, 0, floor + 0.05))
    toy.pair(box(), TAIL_LIGHT, (0.06, width * 0.2, height * 0.32), body.at(-0.5, 0.36, 0.12))
    toy.add(box(), WHITE, (0.05, width * 0.3, height * 0.28), body.at(-0.5))
    toy.add(rounded_box(5.0), DARK, (0.12, width * 1.02, 0.1), (-length / 2, 0, floor + 0.05))
    hub = toy.colour("wheels", chance=0.4, otherwise=METAL)
    wheels(toy, (length * 0.3, -length * 0.3), width / 2 - 0.03, radius, 0.17, hub)

    decal = toy.choice(("none", "stripe", "star", "disc"))
    if decal == "stripe":
        at = (0, 0, top - height * 0.25 + 0.014)
        toy.add(box(), toy.colour("stripe"), body.size * (1.006, 0.24, 0.5), at)
    elif decal != "none":
        shape, colour = (star(), toy.colour("star")) if decal == "star" else (disc(), toy.colour("dots"))
        at, size = (-0.03, width / 2, floor + height / 2), (0.05, height * 0.85, height * 0.85)
        toy.pair(shape, colour, size, at, turn=(0, 0, 90))

    colour, (x, _, z) = toy.accessory_colour(), ceiling
    if toy.accessory == "spoiler":
        toy.pair(box(), colour, (0.1, 0.05, 0.24), (-length * 0.45, width * 0.34, top + 0.08))
        toy.add(box(), colour, (0.22, width * 1.04, 0.06), (-length * 0.46, 0, top + 0.2))
    elif toy.accessory == "roof rack":
        for share in (-0.28, 0.28):
            toy.add(box(), DARK, (0.06, width * 0.84, 0.1), (x + roof_length * share, 0, z + 0.06))
        toy.add(rounded_box(8.0), colour, (roof_length * 0.7, width * 0.6, 0.2), (x, 0, z + 0.18))
    elif toy.accessory == "siren":
        toy.add(box(), DARK, (0.16, width * 0.55, 0.06), (x, 0, z + 0.06))
        toy.pair(rounded_box(4.0), colour, (0.16, width * 0.2, 0.15), (x, width * 0.17, z + 0.12))
    elif toy.accessory == "surfboard":
        toy.add(sphere(), colour, (length * 0.75, 0.32, 0.08), (x + 0.05, width * 0.12, z + 0.12))
        toy.add(box(), DARK, (0.08, width * 0.6, 0.1), (x, 0, z + 0.06))


@recipe("siren", "ladder", "spare wheel", "exhausts")
def truck(toy: Builder) -> None:
    """A cab with windscreen and headlights in front, its load and red lights behind."""
    length, width, radius = toy.between(1.7, 2.2), toy.between(0.75, 0.95), toy.between(0.19, 0.25)
    floor = radius * 1.1
    toy.add(box(), DARK, (length, width * 0.8, 0.12), (0, 0, floor + 0.06))
    long, tall = toy.between(0.45, 0.6), toy.between(0.7, 0.95)
    nose, tail, deck = length / 2, -length / 2, floor + 0.12
    hood = 0.0 if toy.chance(0.5) else toy.between(0.22, 0.32)
    ahead, roof = nose - hood - long / 2, floor + tall
    shape = tapered_box((0.82, 0.92), (-0.08, 0.0)) if toy.chance() else rounded_box(8.0)
    toy.add(shape, toy.paint, (long, width, tall), (ahead, 0, floor + tall / 2))
    if hood:
        at = (nose - hood, 0, floor + tall * 0.25)
        toy.add(rounded_box(8.0), toy.paint, (hood * 2, width * 0.88, tall * 0.5), at)
    windscreen = (ahead + long / 2 - 0.03, 0, floor + tall * 0.72)
    toy.add(box(), GLASS, (0.1, width * 0.78, tall * 0.34), windscreen, turn=(0, -6, 0))
    window = (ahead, width * 0.485, floor + tall * 0.7)
    toy.pair(box(), GLASS, (long * 0.5, 0.05, tall * 0.3), window)
    headlight = (nose, width * 0.33, floor + tall * 0.26)
    toy.pair(cylinder(14), WHITE, (0.17, 0.17, 0.08), headlight, turn=(0, 90, 0))
    for k in range(3):
        toy.add(box(), DARK, (0.05, width * 0.36, 0.035), (nose, 0, floor + tall * (0.18 + 0.09 * k)))
    toy.add(rounded_box(6.0), METAL, (0.12, width * 1.04, 0.12), (nose, 0, floor + 0.04))

    bed, bed_length = (tail + ahead - long / 2) / 2 - 0.02, ahead - long / 2 - tail - 0.06
    _load(toy, bed, (bed_length, width), deck, tail)
    toy.pair(box(), TAIL_LIGHT, (0.06, width * 0.18, 0.12), (tail, width * 0.36, floor + 0.06))
    hub = toy.colour("wheels", chance=0.4, otherwise=METAL)
    places = (length * 0.32, -length * 0.16, -length * 0.38)
    wheels(toy, places if toy.chance(0.5) else places[::2], width / 2 - 0.06, radius, 0.16, hub)

    colour = toy.accessory_colour()
    if toy.accessory == "siren":
        x = ahead - 0.05
        toy.add(box(), DARK, (0.14, width * 0.6, 0.06), (x, 0, roof + 0.02))
        toy.pair(rounded_box(4.0), colour, (0.15, width * 0.22, 0.15), (x, width * 0.17, roof + 0.08))
    elif toy.accessory == "ladder":
        high, rail = deck + 1.1, (length * 0.8, 0.05, 0.06)
        toy.pair(box(), colour, rail, (-length * 0.04, width * 0.16, high), turn=(0, 3, 0))
        for k in range(6):
            at = (length * (0.13 * k - 0.38), 0, high - length * 0.0068 * (k - 2.6))
            toy.add(box(), colour, (0.05, width * 0.34, 0.05), at)
        toy.add(box(), DARK, (0.1, width * 0.3, 1.1), (bed, 0, deck + 0.55))
    elif toy.accessory == "spare wheel":
        toy.add(ring(0.3), colour, radius * 1.9, (nose + 0.05, 0, floor + tall * 0.36), turn=(0, 90, 0))
    elif toy.accessory == "exhausts":
        at = (ahead - long * 0.52, width * 0.45, floor + tall * 0.8)
        toy.pair(cylinder(10), colour, (0.09, 0.09, tall * 0.9), at)


def _load(toy: Builder, x: float, size: tuple[float, float], deck: float, tail: float) -> None:
    """A closed box, a tank, a tipper full of earth or a flatbed with logs, on the bed behind a truck's cab."""
    length, width = size
    style = toy.choice(("box", "tank", "dumper", "flatbed"))
    load = toy.colour(style)
    if style == "box":
        tall = toy.between(0.7, 1.0)
        middle = deck + tall / 2
        toy.add(box(), load, (length, width * 1.04, tall), (x, 0, middle))
        stripe = (x, width * 0.52, deck + tall * 0.5)
        toy.pair(box(), toy.colour("stripe"), (length * 0.9, 0.04, tall * 0.22), stripe)
        toy.add(box(), METAL, (0.04, width * 0.86, tall * 0.8), (tail, 0, middle))
        toy.add(box(), DARK, (0.06, 0.03, tall * 0.8), (tail, 0, middle))
    elif style == "tank":
        at, band = (x, 0, deck + width * 0.42), (width * 0.88, width * 0.97, 0.14)
        toy.add(cylinder(24), load, (width * 0.86, width * 0.95, length), at, turn=(0, 90, 0))
        toy.add(cylinder(24), toy.colour("stripe"), band, at, turn=(0, 90, 0))
        toy.add(cylinder(12), METAL, (0.22, 0.22, 0.12), (x, 0, deck + width * 0.88))
        toy.add(disc(12), METAL, (0.06, 0.3, 0.3), (tail + 0.02, 0, deck + width * 0.42))
    elif style == "dumper":
        tipper = tapered_box((1.1, 1.15), (-0.03, 0.0))
        toy.add(tipper, load, (length * 0.95, width * 0.9, 0.5), (x, 0, deck + 0.27))
        toy.add(sphere(), (110, 84, 58), (length * 0.85, width * 0.85, 0.45), (x, 0, deck + 0.5))
        toy.add(box(), METAL, (0.05, width * 0.6, 0.3), (tail + 0.02, 0, deck + 0.25))
    else:
        toy.add(box(), load, (length, width, 0.1), (x, 0, deck + 0.05))
        toy.pair(box(), load, (length, 0.05, 0.22), (x, width * 0.48, deck + 0.15))
        logs, size = toy.colour("logs"), (0.21, 0.21, length * 0.95)
        for y, z in ((-0.22, 0.22), (0.0, 0.22), (0.22, 0.22), (-0.11, 0.4), (0.11, 0.4)):
            toy.add(cylinder(12), logs, size, (x, y * width / 0.8, deck + z), turn=(0, 90, 0))


@recipe("funnel", "flag", "sail", "lifebuoy")
def boat(toy: Builder) -> None:
    """A pointed bow and the bridge's windows in front, a flat stern with a rudder behind."""
    length, width, depth = toy.between(1.5, 2.0), toy.between(0.6, 0.85), toy.between(0.3, 0.42)
    bow, stern, half = length / 2, -length / 2, width / 2
    lines = ((bow, 0.0), (bow * 0.72, half * 0.6), (bow * 0.3, half), (stern, half * 0.85))
    outline = (*lines, *((x, -y) for x, y in reversed(lines[1:])))
    keel = hull(outline, toy.between(0.6, 0.8), -0.04 * length)
    toy.add(keel, toy.paint, (1, 1, depth), (0, 0, depth / 2))
    toy.add(prism(outline), toy.colour("rim"), (1.03, 1.06, 0.07), (0, 0, depth))
    toy.add(prism(outline), (196, 158, 108), (0.95, 0.88, 0.06), (0, 0, depth + 0.02))
    toy.add(box(), DARK, (0.12, 0.05, depth * 0.8), (stern + 0.02, 0, depth * 0.4))
    toy.add(box(), WHITE, (0.05, width * 0.4, depth * 0.28), (stern + 0.03, 0, depth * 0.75))
    toy.pair(sphere(1), WHITE, 0.1, (bow * 0.8, half * 0.48, depth * 0.72))

    cabin = toy.colour("cabin")
    long, tall = toy.between(0.4, 0.7), toy.between(0.28, 0.42)
    x, top = toy.between(-0.25, 0.1), depth + tall
    toy.add(box(), cabin, (long, width * 0.6, tall), (x, 0, depth + tall / 2))
    roof = toy.colour("roof", chance=0.5, otherwise=WHITE)
    toy.add(box(), roof, (long * 1.15, width * 0.7, 0.06), (x, 0, top + 0.02))
    toy.add(box(), GLASS, (0.05, width * 0.48, tall * 0.42), (x + long / 2, 0, depth + tall * 0.64))
    porthole = (x, width * 0.3, depth + tall * 0.55)
    toy.pair(disc(12), GLASS, (0.05, 0.16, 0.16), porthole, turn=(0, 0, 90))
    toy.add(box(), DARK, (0.05, 0.18, tall * 0.75), (x - long / 2, 0, depth + tall * 0.38))

    colour = toy.accessory_colour()
    if toy.accessory == "funnel":
        toy.add(cylinder(16, 0.85), colour, (0.22, 0.22, 0.42), (x - 0.08, 0, top + 0.22), turn=(0, -8, 0))
        toy.add(cylinder(16, 0.98), DARK, (0.2, 0.2, 0.1), (x - 0.12, 0, top + 0.42), turn=(0, -8, 0))
    elif toy.accessory == "flag":
        toy.add(cylinder(8), DARK, (0.04, 0.04, 0.7), (stern + 0.12, 0, depth + 0.3))
        toy.add(box(), colour, (0.32, 0.03, 0.22), (stern + 0.29, 0, depth + 0.52))
    elif toy.accessory == "sail":
        mast, foot, ahead = top + toy.between(0.7, 1.0), top + 0.12, x + long / 2 + 0.08
        toy.add(cylinder(8), (110, 74, 44), (0.06, 0.06, mast - depth), (ahead, 0, (mast + depth) / 2))
        mainsail = ((ahead - 0.04, mast), (ahead - 0.04, foot), (stern + 0.1, foot))
        jib = ((ahead + 0.04, mast - 0.1), (ahead + 0.04, foot), (bow * 0.92, depth + 0.15))
        toy.add(prism(mainsail, "y"), colour, (1, 0.04, 1))
        toy.add(prism(jib, "y"), WHITE, (1, 0.04, 1))
    elif toy.accessory == "lifebuoy":
        at = (x - long * 0.3, width * 0.33, depth + tall * 0.45)
        toy.pair(ring(0.3), colour, 0.3, at, turn=(90, 0, 0))
        toy.add(ring(0.3), colour, 0.3, (bow * 0.55, 0, depth + 0.16), turn=(0, 70, 0))


@recipe("engines", "floats", "upper wing")
def plane(toy: Builder) -> None:
    """Propeller and cockpit in front, fins behind."""
    length, girth = toy.between(1.3, 1.7), toy.between(0.32, 0.46)
    fuselage = lathe(((0.18, -0.5), (0.4, -0.2), (0.5, 0.15), (0.46, 0.38), (0.3, 0.5)), 20)
    toy.add(fuselage, toy.paint, (girth, girth, length), turn=(0, 90, 0))
    nose, tail = length / 2, -length / 2
    wings = toy.colour("wings")
    span, chord = toy.between(0.65, 0.95), toy.between(0.28, 0.42)
    sweep, low = toy.between(0, 0.3), toy.choice((-0.25, 0.3)) * girth
    outline = ((chord / 2, 0), (chord / 2 - sweep, span), (-chord * 0.3 - sweep, span), (-chord / 2, 0))
    toy.pair(prism(outline), wings, (1, 1, 0.06), (0.12, girth * 0.2, low), turn=(toy.between(0, 8), 0, 0))
    fin = toy.colour("fins")
    small = ((0.12, 0), (-0.04, 0.32), (-0.18, 0.32), (-0.14, 0))
    rudder = ((0.16, 0), (-0.1, 0.4), (-0.24, 0.4), (-0.14, 0))
    toy.pair(prism(small), fin, (1, 1, 0.05), (tail + 0.14, 0.02, 0.05))
    toy.add(prism(rudder, "y"), fin, (1, 0.06, 1), (tail + 0.14, 0, 0.05))
    toy.add(sphere(1), TAIL_LIGHT, 0.1, (tail - 0.01, 0, 0))

    toy.add(sphere(), GLASS, (0.46, girth * 0.62, girth * 0.62), (length * 0.14, 0, girth * 0.42))
    if toy.chance(0.65):
        blades, count = toy.colour("propeller"), toy.choice((2, 3, 4))
        toy.add(sphere(1), blades, (0.26, girth * 0.4, girth * 0.4), (nose, 0, 0))
        start = toy.between(0, 90)
        for k in range(count):
            turn = start + 360 * k / count
            at = (nose + 0.06, -0.2 * math.sin(math.radians(turn)), 0.2 * math.cos(math.radians(turn)))
            toy.add(rounded_box(3.0), blades, (0.05, 0.1, 0.4), at, turn=(turn, 0, 0))
    else:
        toy.add(sphere(), toy.colour("nose"), (0.4, girth * 0.68, girth * 0.68), (nose - 0.05, 0, 0))
        toy.pair(sphere(1), DARK, 0.09, (nose - 0.08, girth * 0.3, girth * 0.16))
    for k in range(3):
        window = (-0.05 - 0.17 * k, girth * (0.45 - 0.03 * k), girth * 0.1)
        toy.pair(disc(10), DARK, (0.04, 0.1, 0.1), window, turn=(0, 0, 90))

    colour, under = toy.accessory_colour(), -girth / 2
    if toy.accessory == "engines":
        at = (0.24 - sweep * 0.5, span * 0.52, low - 0.1)
        toy.pair(cylinder(top=0.85), colour, (0.18, 0.18, 0.4), at, turn=(0, 90, 0))
        toy.pair(disc(14), DARK, (0.04, 0.13, 0.13), (at[0] + 0.19, *at[1:]))
    elif toy.accessory == "floats":
        toy.pair(sphere(), colour, (length * 0.6, 0.16, 0.14), (0.06, 0.26, under - 0.25))
        for x in (0.26, -0.12):
            toy.pair(limb((x, 0.1, -girth * 0.3), (x, 0.26, under - 0.22), 0.025), METAL)
    elif toy.accessory == "upper wing":
        high = girth / 2 + 0.36
        toy.add(box(), colour, (chord, span * 1.7, 0.06), (0.16, 0, high))
        strut = (0.05, 0.04, girth / 2 + 0.4 - low)
        toy.pair(box(), METAL, strut, (0.14, span * 0.5, (high + low) / 2))
    if toy.accessory != "floats":
        toy.pair(limb((0.25, 0.06, -girth * 0.3), (0.28, 0.18, under - 0.1), 0.025), METAL)
        toy.pair(cylinder(14), DARK, (0.18, 0.18, 0.07), (0.28, 0.2, under - 0.14), turn=(90, 0, 0))


@recipe("boosters", "antenna", "flag")
def rocket(toy: Builder) -> None:
    """A standing rocket: porthole and hatch in front, a ladder behind."""
    radius, height, ground = toy.between(0.22, 0.34), toy.between(0.8, 1.2), toy.between(0.18, 0.3)
    bulge, top = toy.between(1.0, 1.3), ground + height
    belly = radius * bulge
    body = ((radius * 0.8, ground), (belly, ground + height / 2), (radius, top))
    toy.add(lathe(body, 24), toy.paint)
    tip, tall = toy.colour("tip"), toy.between(0.35, 0.55)
    nose = ((radius * 1.02, 0), (radius * 0.72, tall * 0.45), (radius * 0.3, tall * 0.85), (0, tall))
    toy.add(lathe(nose if toy.chance(0.6) else (nose[0], nose[-1]), 24), tip, at=(0, 0, top))
    toy.add(lathe(((radius * 0.75, ground - 0.14), (radius * 0.5, ground)), 20), DARK)
    fins, count, reach = toy.colour("fins"), toy.choice((3, 4)), toy.between(0.22, 0.36)
    root = radius * 0.7
    outline = ((root, ground + 0.4), (root + reach, ground), (root + reach, 0), (root, ground + 0.02))
    for k in range(count):
        # no fin straight ahead: three leave one behind, four stand on the diagonals
        turn = 180 + 120 * k if count == 3 else 45 + 90 * k
        toy.add(prism(outline, "y"), fins, (1, 0.07, 1), turn=(0, 0, turn))

    porthole = (radius * (1 + (bulge - 1) * 0.55), 0, ground + height * 0.76)
    toy.add(disc(), METAL, (0.1, radius * 1.05, radius * 1.05), porthole)
    toy.add(disc(), GLASS, (0.14, radius * 0.75, radius * 0.75), porthole)
    wall, middle = belly * 0.95, ground + height * 0.36
    toy.add(box(), toy.colour("hatch"), (0.12, radius * 0.8, height * 0.26), (wall, 0, middle))
    toy.add(sphere(1), DARK, 0.06, (wall + 0.07, radius * 0.25, middle))
    for k in range(6):
        toy.add(box(), METAL, (0.08, radius * 0.7, 0.03), (-wall, 0, ground + height * (0.18 + 0.12 * k)))
    if toy.chance(0.5):
        band = radius * (1 + (bulge - 1) * 0.2) + 0.012
        at = (0, 0, ground + height * 0.93)
        toy.add(cylinder(24), toy.colour("stripe"), (band * 2, band * 2, 0.09), at)

    colour = toy.accessory_colour()
    if toy.accessory == "boosters":
        for y in (belly + 0.1, -(belly + 0.1)):
            toy.add(cylinder(16), colour, (0.22, 0.22, height * 0.6), (0, y, middle))
            toy.add(cone(16), tip, (0.22, 0.22, 0.2), (0, y, ground + height * 0.66 + 0.1))
            toy.add(cylinder(12, 0.6), DARK, (0.2, 0.2, 0.1), (0, y, ground + height * 0.06 - 0.04))
    elif toy.accessory == "antenna":
        up = top + tall
        toy.add(limb((0, 0, up - 0.05), (0, 0, up + 0.2), 0.02), METAL)
        toy.add(sphere(1), colour, 0.12, (0, 0, up + 0.22))
    elif toy.accessory == "flag":
        high = porthole[2]
        toy.add(limb((0, radius * 0.8, high), (0, radius + 0.42, high + 0.14), 0.022), METAL)
        toy.add(box(), colour, (0.04, 0.3, 0.2), (0, radius + 0.3, high + 0.2))
