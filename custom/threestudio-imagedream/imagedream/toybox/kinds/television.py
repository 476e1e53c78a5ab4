"""A television: a picture and knobs in front, a hump with vents and a cable behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, GLOW, METAL, WHITE
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    rounded_box,
    sphere,
    tapered_box,
    tube,
)

ACCESSORIES = ("none", "antenna", "vase", "loudspeakers")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A television: a picture and knobs in front, a hump with vents and a cable behind."""
    toy = Builder()
    width, height, depth = draw.between(0.9, 1.25), draw.between(0.65, 0.85), draw.between(0.22, 0.6)
    stand = draw.choice(("legs", "foot"))
    base = draw.between(0.12, 0.35)
    middle = base + height / 2
    toy.add(draw.choice((box(), rounded_box(9.0))), draw.paint, (depth, width, height), (0, 0, middle))
    stand_paint = draw.part("legs" if stand == "legs" else "foot")
    if stand == "legs":
        for x in (depth * 0.3, -depth * 0.3):
            toy.pair(limb((x, width * 0.3, base + 0.03), (x * 1.2, width * 0.4, 0.03), 0.035), stand_paint)
    else:
        toy.add(cylinder(), stand_paint, (0.16, 0.16, base), (0, 0, base / 2))
        toy.add(rounded_box(6.0), stand_paint, (max(depth, 0.34), width * 0.6, 0.08), (0, 0, 0.04))

    front, sided = depth / 2, draw.chance(0.6)
    screen_width, screen_height = width * (0.68 if sided else 0.86), height * 0.78
    screen_y = -width * 0.1 if sided else 0.0
    toy.add(
        rounded_box(9.0),
        DARK,
        (0.06, screen_width + 0.05, screen_height + 0.05),
        (front, screen_y, middle),
        front=True,
    )
    screen = draw.part("screen")
    toy.add(
        rounded_box(9.0), screen, (0.09, screen_width, screen_height), (front, screen_y, middle), front=True
    )
    _picture(draw, toy, (front + 0.045, screen_y, middle), screen_width, screen_height)
    for k in range(3):
        y, z = (
            (width * 0.385, middle + height * (0.25 - 0.2 * k))
            if sided
            else (width * (0.2 + 0.1 * k), base + 0.04)
        )
        size = 0.11 if sided else 0.05
        toy.add(disc(12), METAL, (0.08, size, size), (front, y, z), front=True)

    toy.add(
        tapered_box((0.7, 0.7)),
        DARK,
        (width * 0.6, height * 0.6, 0.16),
        (-front - 0.06, 0, middle),
        turn=(0, -90, 0),
    )
    for k in range(3):
        toy.add(box(), METAL, (0.03, width * 0.3, 0.035), (-front - 0.135, 0, middle + 0.1 * (k - 1)))
    toy.add(
        tube(
            ((-front, 0.1, base + 0.1), (-front - 0.12, 0.12, 0.06), (-front - 0.16, 0.3, 0.04)),
            0.025,
            corners=6,
        ),
        DARK,
    )

    top = base + height
    if draw.accessory == "antenna":
        colour = draw.part("antenna")
        toy.add(dome(), colour, (0.22, 0.22, 0.16), (0, 0, top - 0.01))
        for side in (1, -1):
            tip = (-0.05, side * 0.32, top + 0.42)
            toy.add(limb((0, 0, top), tip, 0.022), METAL)
            toy.add(sphere(1), colour, 0.09, tip)
    elif draw.accessory == "vase":
        colour = draw.part("vase")
        y = draw.choice((1, -1)) * width * 0.28
        toy.add(lathe(((0.06, 0), (0.12, 0.1), (0.05, 0.22), (0.07, 0.28))), colour, at=(0, y, top))
        for k in range(3):
            toy.add(sphere(1), GLOW, 0.11, (0.04 * k - 0.02, y + 0.08 * (k - 1), top + 0.36 - 0.03 * k))
    elif draw.accessory == "loudspeakers":
        colour = draw.part("loudspeakers")
        toy.pair(box(), colour, (depth * 0.8, 0.2, height * 0.85), (0, width / 2 + 0.12, middle))
        for share in (0.2, -0.2):
            toy.pair(
                disc(),
                DARK,
                (0.06, 0.14, 0.14),
                (depth * 0.4, width / 2 + 0.12, middle + height * share),
                front=True,
            )
    return toy


def _picture(draw: Draw, toy: Builder, at: Vector, width: Number, height: Number) -> None:
    x, y, z = at
    style = draw.choice(("face", "sun", "bars"))
    if style == "face":
        draw.mention("picture", "a face")
        for side in (1, -1):
            toy.add(
                disc(),
                DARK,
                (0.03, height * 0.2, height * 0.26),
                (x, y + side * width * 0.2, z + height * 0.12),
                front=True,
            )
        toy.add(box(), DARK, (0.03, width * 0.36, height * 0.08), (x, y, z - height * 0.24), front=True)
    elif style == "sun":
        toy.add(
            disc(),
            GLOW,
            (0.03, height * 0.36, height * 0.36),
            (x, y + width * 0.18, z + height * 0.16),
            front=True,
        )
        toy.add(
            box(),
            draw.part("picture"),
            (0.026, width * 0.9, height * 0.26),
            (x, y, z - height * 0.3),
            front=True,
        )
    else:
        for k, tint in enumerate((WHITE, draw.part("bars"), DARK)):
            toy.add(
                box(),
                tint,
                (0.03, width * 0.18, height * 0.8),
                (x, y + width * 0.26 * (k - 1), z),
                front=True,
            )
