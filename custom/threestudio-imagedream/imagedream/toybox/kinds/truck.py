"""A truck: a cab with windscreen and headlights in front, its load and red lights behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import wheels
from imagedream.toybox.palette import DARK, GLASS, METAL, TAIL_LIGHT, WHITE
from imagedream.toybox.shapes import Builder, box, cylinder, disc, ring, rounded_box, sphere, tapered_box

ACCESSORIES = ("none", "siren", "ladder", "spare wheel", "exhausts")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A truck: a cab with windscreen and headlights in front, its load and red lights behind."""
    toy = Builder()
    length, width, radius = draw.between(1.7, 2.2), draw.between(0.75, 0.95), draw.between(0.19, 0.25)
    floor = radius * 1.1
    toy.add(box(), DARK, (length, width * 0.8, 0.12), (0, 0, floor + 0.06))
    cab_length, cab_height = draw.between(0.45, 0.6), draw.between(0.7, 0.95)
    nose, deck = length / 2, floor + 0.12
    snub = draw.chance(0.5)
    hood = 0.0 if snub else draw.between(0.22, 0.32)
    cab = nose - hood - cab_length / 2
    cab_shape = tapered_box((0.82, 0.92), (-0.08, 0.0)) if draw.chance() else rounded_box(8.0)
    toy.add(cab_shape, draw.paint, (cab_length, width, cab_height), (cab, 0, floor + cab_height / 2))
    if not snub:
        toy.add(
            rounded_box(8.0),
            draw.paint,
            (hood * 2, width * 0.88, cab_height * 0.5),
            (nose - hood, 0, floor + cab_height * 0.25),
        )
    windscreen = cab + cab_length / 2 - 0.03
    toy.add(
        box(),
        GLASS,
        (0.1, width * 0.78, cab_height * 0.34),
        (windscreen, 0, floor + cab_height * 0.72),
        turn=(0, -6, 0),
        front=True,
    )
    toy.pair(
        box(),
        GLASS,
        (cab_length * 0.5, 0.05, cab_height * 0.3),
        (cab, width * 0.485, floor + cab_height * 0.7),
    )
    toy.pair(
        cylinder(sections=14),
        WHITE,
        (0.17, 0.17, 0.08),
        (nose, width * 0.33, floor + cab_height * 0.26),
        turn=(0, 90, 0),
        front=True,
    )
    for k in range(3):
        toy.add(
            box(),
            DARK,
            (0.05, width * 0.36, 0.035),
            (nose, 0, floor + cab_height * (0.18 + 0.09 * k)),
            front=True,
        )
    toy.add(rounded_box(6.0), METAL, (0.12, width * 1.04, 0.12), (nose, 0, floor + 0.04), front=True)

    tail = -length / 2
    bed, bed_length = (tail + cab - cab_length / 2) / 2 - 0.02, cab - cab_length / 2 - tail - 0.06
    load = draw.part(draw.choice(("box", "tank", "dumper", "flatbed")))
    if "box" in draw.attributes:
        tall = draw.between(0.7, 1.0)
        toy.add(box(), load, (bed_length, width * 1.04, tall), (bed, 0, deck + tall / 2))
        toy.pair(
            box(),
            draw.part("stripe"),
            (bed_length * 0.9, 0.04, tall * 0.22),
            (bed, width * 0.52, deck + tall * 0.5),
        )
        toy.add(box(), METAL, (0.04, width * 0.86, tall * 0.8), (tail, 0, deck + tall / 2))
        toy.add(box(), DARK, (0.06, 0.03, tall * 0.8), (tail, 0, deck + tall / 2))
    elif "tank" in draw.attributes:
        toy.add(
            cylinder(sections=24),
            load,
            (width * 0.86, width * 0.95, bed_length),
            (bed, 0, deck + width * 0.42),
            turn=(0, 90, 0),
        )
        toy.add(
            cylinder(sections=24),
            draw.part("stripe"),
            (width * 0.88, width * 0.97, 0.14),
            (bed, 0, deck + width * 0.42),
            turn=(0, 90, 0),
        )
        toy.add(cylinder(sections=12), METAL, (0.22, 0.22, 0.12), (bed, 0, deck + width * 0.88))
        toy.add(disc(12), METAL, (0.06, 0.3, 0.3), (tail + 0.02, 0, deck + width * 0.42))
    elif "dumper" in draw.attributes:
        toy.add(
            tapered_box((1.1, 1.15), (-0.03, 0.0)),
            load,
            (bed_length * 0.95, width * 0.9, 0.5),
            (bed, 0, deck + 0.27),
        )
        toy.add(sphere(), (110, 84, 58), (bed_length * 0.85, width * 0.85, 0.45), (bed, 0, deck + 0.5))
        toy.add(box(), METAL, (0.05, width * 0.6, 0.3), (tail + 0.02, 0, deck + 0.25))
    else:
        toy.add(box(), load, (bed_length, width, 0.1), (bed, 0, deck + 0.05))
        toy.pair(box(), load, (bed_length, 0.05, 0.22), (bed, width * 0.48, deck + 0.15))
        logs = draw.part("logs")
        for y, z in ((-0.22, 0.22), (0.0, 0.22), (0.22, 0.22), (-0.11, 0.4), (0.11, 0.4)):
            toy.add(
                cylinder(sections=12),
                logs,
                (0.21, 0.21, bed_length * 0.95),
                (bed, y * width / 0.8, deck + z),
                turn=(0, 90, 0),
            )
    toy.pair(box(), TAIL_LIGHT, (0.06, width * 0.18, 0.12), (tail, width * 0.36, floor + 0.06))
    hub = draw.part("wheels") if draw.chance(0.4) else METAL
    places = (length * 0.32, -length * 0.16, -length * 0.38)
    wheels(toy, places if draw.chance(0.5) else places[::2], width / 2 - 0.06, radius, 0.16, hub)

    roof = floor + cab_height
    if draw.accessory == "siren":
        colour = draw.part("siren")
        toy.add(box(), DARK, (0.14, width * 0.6, 0.06), (cab - 0.05, 0, roof + 0.02))
        toy.pair(
            rounded_box(4.0), colour, (0.15, width * 0.22, 0.15), (cab - 0.05, width * 0.17, roof + 0.08)
        )
    elif draw.accessory == "ladder":
        colour, high = draw.part("ladder"), deck + 1.1
        toy.pair(
            box(), colour, (length * 0.8, 0.05, 0.06), (-length * 0.04, width * 0.16, high), turn=(0, 3, 0)
        )
        for k in range(6):
            toy.add(
                box(),
                colour,
                (0.05, width * 0.34, 0.05),
                (length * (0.13 * k - 0.38), 0, high - length * 0.0068 * (k - 2.6)),
            )
        toy.add(box(), DARK, (0.1, width * 0.3, 1.1), (bed, 0, deck + 0.55))
    elif draw.accessory == "spare wheel":
        colour = draw.part("spare wheel")
        toy.add(ring(0.3), colour, radius * 1.9, (nose + 0.05, 0, floor + cab_height * 0.36), turn=(0, 90, 0))
    elif draw.accessory == "exhausts":
        colour = draw.part("exhausts")
        toy.pair(
            cylinder(sections=10),
            colour,
            (0.09, 0.09, cab_height * 0.9),
            (cab - cab_length * 0.52, width * 0.45, floor + cab_height * 0.8),
        )
    return toy
