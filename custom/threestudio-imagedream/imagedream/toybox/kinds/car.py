"""A car: headlights, grille and windscreen in front, red lights and a plate behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import wheels
from imagedream.toybox.palette import DARK, GLASS, METAL, TAIL_LIGHT, WHITE
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    disc,
    rounded_box,
    sphere,
    star,
    tapered_box,
)

ACCESSORIES = ("none", "spoiler", "roof rack", "siren", "surfboard")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A car: headlights, grille and windscreen in front, red lights and a plate behind."""
    toy = Builder()
    length, width, height = draw.between(1.5, 2.1), draw.between(0.8, 1.0), draw.between(0.3, 0.42)
    radius = draw.between(0.17, 0.24)
    floor = radius * 0.75
    middle, top = floor + height / 2, floor + height
    body = draw.choice((rounded_box(8.0), tapered_box((0.94, 0.9)), box()))
    toy.add(body, draw.paint, (length, width, height), (0, 0, middle))

    style = draw.choice(("sedan", "van", "pickup", "beetle"))
    cabin_height = draw.between(0.3, 0.42) * (1.25 if style == "van" else 1.0)
    share, centre = {
        "sedan": (0.52, -0.05),
        "van": (0.72, -0.12),
        "pickup": (0.36, 0.04),
        "beetle": (0.62, -0.04),
    }[style]
    cabin, middle_x = length * share, length * centre
    roof = draw.part("roof") if draw.chance(0.6) else draw.paint
    slope = draw.between(0.6, 0.75) if style != "van" else 0.84
    glass_top = (slope, 0.84)
    tilt = (-0.06, 0.0)
    toy.add(
        tapered_box(glass_top, tilt),
        GLASS,
        (cabin, width * 0.9, cabin_height),
        (middle_x, 0, top + cabin_height / 2),
    )
    roof_centre = (middle_x + tilt[0] * cabin, 0, top + cabin_height)
    toy.add(rounded_box(6.0), roof, (cabin * slope * 1.06, width * 0.8, 0.09), roof_centre)
    # posts part the glass into windows, and close the cabin's back
    toy.pair(
        tapered_box((0.9, 1.0), (-0.4, 0.0)),
        roof,
        (0.09, 0.04, cabin_height),
        (middle_x + 0.02, width * 0.42, top + cabin_height / 2),
        turn=(8, 0, 0),
    )
    toy.add(
        box(),
        roof,
        (0.06, width * 0.7, cabin_height * 0.5),
        (middle_x - cabin * (0.5 + slope) / 4 - tilt[0] * 0 - cabin * 0.03, 0, top + cabin_height * 0.22),
    )

    nose, tail = length / 2, -length / 2
    toy.pair(
        cylinder(sections=14),
        WHITE,
        (0.19, 0.19, 0.08),
        (nose, width * 0.33, middle + height * 0.12),
        turn=(0, 90, 0),
        front=True,
    )
    toy.add(box(), DARK, (0.05, width * 0.32, height * 0.3), (nose, 0, middle + height * 0.05), front=True)
    toy.add(rounded_box(5.0), METAL, (0.12, width * 1.02, 0.1), (nose, 0, floor + 0.05), front=True)
    toy.pair(
        box(), TAIL_LIGHT, (0.06, width * 0.2, height * 0.32), (tail, width * 0.36, middle + height * 0.12)
    )
    toy.add(box(), WHITE, (0.05, width * 0.3, height * 0.28), (tail, 0, middle))
    toy.add(rounded_box(5.0), DARK, (0.12, width * 1.02, 0.1), (tail, 0, floor + 0.05))
    hub = draw.part("wheels") if draw.chance(0.4) else METAL
    wheels(toy, (length * 0.3, -length * 0.3), width / 2 - 0.03, radius, 0.17, hub)

    decal = draw.choice(("none", "stripe", "star", "disc"))
    if decal == "stripe":
        colour = draw.part("stripe")
        toy.add(
            box(), colour, (length * 1.006, width * 0.24, height * 0.5), (0, 0, top - height * 0.25 + 0.014)
        )
    elif decal in ("star", "disc"):
        shape = star() if decal == "star" else disc()
        toy.pair(
            shape,
            draw.part("star" if decal == "star" else "dots"),
            (0.05, height * 0.85, height * 0.85),
            (-0.03, width / 2, middle),
            turn=(0, 0, 90),
        )

    _accessory(draw, toy, (length, width, height), top, roof_centre, cabin * slope)
    return toy


def _accessory(
    draw: Draw,
    toy: Builder,
    size: Vector,
    top: Number,
    roof: Vector,
    roof_length: Number,
) -> None:
    length, width, _ = size
    x, _, z = roof
    if draw.accessory == "spoiler":
        colour = draw.part("spoiler")
        toy.pair(box(), colour, (0.1, 0.05, 0.24), (-length * 0.45, width * 0.34, top + 0.08))
        toy.add(box(), colour, (0.22, width * 1.04, 0.06), (-length * 0.46, 0, top + 0.2))
    elif draw.accessory == "roof rack":
        colour = draw.part("roof rack")
        for share in (-0.28, 0.28):
            toy.add(box(), DARK, (0.06, width * 0.84, 0.1), (x + roof_length * share, 0, z + 0.06))
        toy.add(rounded_box(8.0), colour, (roof_length * 0.7, width * 0.6, 0.2), (x, 0, z + 0.18))
    elif draw.accessory == "siren":
        colour = draw.part("siren")
        toy.add(box(), DARK, (0.16, width * 0.55, 0.06), (x, 0, z + 0.06))
        toy.pair(rounded_box(4.0), colour, (0.16, width * 0.2, 0.15), (x, width * 0.17, z + 0.12))
    elif draw.accessory == "surfboard":
        colour = draw.part("surfboard")
        toy.add(sphere(), colour, (length * 0.75, 0.32, 0.08), (x + 0.05, width * 0.12, z + 0.12))
        toy.add(box(), DARK, (0.08, width * 0.6, 0.1), (x, 0, z + 0.06))
