"""A chair: the seat opens to the front, the backrest stands behind with a badge towards the sitter."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK
from imagedream.toybox.shapes import Builder, box, cylinder, disc, limb, rounded_box, sphere, star

ACCESSORIES = ("none", "cushion", "armrests", "blanket", "wheels")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
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
