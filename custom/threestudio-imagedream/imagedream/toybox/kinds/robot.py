"""A robot: eyes, mouth and a chest badge in front, a hatch or a backpack behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, METAL, WHITE
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    disc,
    dome,
    limb,
    ring,
    rounded_box,
    sphere,
    star,
)

ACCESSORIES = ("none", "hat", "antenna", "backpack", "headphones")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A robot: eyes, mouth and a chest badge in front, a hatch or a backpack behind."""
    toy = Builder()
    width, depth, height = draw.between(0.55, 0.9), draw.between(0.4, 0.6), draw.between(0.6, 0.95)
    torso_shape = draw.choice((rounded_box(5.0), box(), cylinder()))
    leg_length, leg_radius = draw.between(0.3, 0.6), draw.between(0.08, 0.13)
    middle = leg_length + height / 2
    toy.add(torso_shape, draw.paint, (depth, width, height), (0, 0, middle))

    limbs = draw.part("arms")
    legs = limbs if draw.chance(0.4) else draw.part("legs")
    spread = width * 0.27
    toy.pair(
        cylinder(),
        legs,
        (leg_radius * 2, leg_radius * 2, leg_length + 0.1),
        (0, spread, leg_length / 2 + 0.05),
    )
    foot_length = draw.between(0.32, 0.45)
    toy.pair(rounded_box(6.0), DARK, (foot_length, leg_radius * 2.8, 0.13), (0.08, spread, 0.05), front=True)

    # one arm may be raised, so left and right differ
    shoulder, reach = leg_length + height * 0.85, draw.between(0.4, 0.6)
    arm_radius = draw.between(0.065, 0.1)
    raised = draw.choice((None, 1, -1))
    for side in (1, -1):
        out = side * (width / 2 + arm_radius * 0.6)
        if side == raised:
            hand = (0.12, out + side * 0.25, shoulder + reach * 0.8)
        else:
            hand = (draw.between(0, 0.2), out + side * 0.1, shoulder - reach)
        toy.add(limb((0, out, shoulder), hand, arm_radius), limbs)
        toy.add(sphere(1), METAL, arm_radius * 2.7, hand)

    head_width, head_height = draw.between(0.42, 0.62), draw.between(0.34, 0.48)
    head_depth = head_width * 0.9
    neck = leg_length + height
    head = neck + 0.06 + head_height / 2
    head_paint = draw.part("head") if draw.chance(0.45) else draw.paint
    toy.add(cylinder(), METAL, (0.2, 0.2, 0.2), (0, 0, neck + 0.02))
    round_head = draw.chance(0.35)
    toy.add(
        sphere() if round_head else rounded_box(6.0),
        head_paint,
        (head_depth, head_width, head_height),
        (0, 0, head),
    )
    face = head_depth * (0.44 if round_head else 0.5)
    eye = draw.between(0.12, 0.18)
    eye_height = head + head_height * 0.1
    toy.pair(sphere(1), WHITE, (0.1, eye, eye), (face, head_width * 0.22, eye_height), front=True)
    toy.pair(
        sphere(1),
        DARK,
        (0.07, eye * 0.5, eye * 0.5),
        (face + 0.04, head_width * 0.22, eye_height),
        front=True,
    )
    toy.add(box(), DARK, (0.05, head_width * 0.45, 0.045), (face, 0, head - head_height * 0.27), front=True)

    badge = draw.part("badge")
    badge_shape = draw.choice((disc(), star(), box()))
    toy.add(
        badge_shape,
        badge,
        (0.1, width * 0.42, width * 0.42),
        (depth / 2 + 0.015, 0, middle + height * 0.1),
        front=True,
    )
    _accessory(draw, toy, (depth, width, height), middle, (head_depth, head_width, head_height), head)
    return toy


def _accessory(
    draw: Draw,
    toy: Builder,
    torso: Vector,
    middle: Number,
    head_size: Vector,
    head: Number,
) -> None:
    depth, width, height = torso
    head_depth, head_width, head_height = head_size
    top = head + head_height / 2
    if draw.accessory == "hat":
        colour = draw.part("hat")
        toy.add(cylinder(sections=24), colour, (head_depth * 1.25, head_width * 1.25, 0.05), (0, 0, top))
        crown = draw.choice((cylinder(0.85), cylinder(0.0), dome()))
        toy.add(
            crown,
            colour,
            (head_depth * 0.75, head_width * 0.75, 0.3),
            (0, 0, top + (0.0 if crown is dome() else 0.15)),
        )
    elif draw.accessory == "antenna":
        colour = draw.part("antenna")
        toy.add(cylinder(), METAL, (0.05, 0.05, 0.3), (0, 0, top + 0.12))
        toy.add(sphere(), colour, 0.17, (0, 0, top + 0.3))
    elif draw.accessory == "headphones":
        colour = draw.part("headphones")
        toy.pair(cylinder(), colour, (0.22, 0.22, 0.12), (0, head_width / 2 + 0.03, head), turn=(90, 0, 0))
        band = max(head_width + 0.08, head_height)
        toy.add(
            ring(0.1), colour, (band, head_height * 1.0 + 0.25, 0.6), (0, 0, head + 0.04), turn=(90, 0, 90)
        )
    if draw.accessory == "backpack":
        colour = draw.part("backpack")
        toy.add(
            rounded_box(5.0), colour, (0.3, width * 0.75, height * 0.75), (-depth / 2 - 0.1, 0, middle + 0.05)
        )
        toy.add(box(), DARK, (0.06, width * 0.5, 0.05), (-depth / 2 - 0.24, 0, middle + 0.05))
    else:
        toy.add(box(), METAL, (0.05, width * 0.5, height * 0.45), (-depth / 2, 0, middle))
        for k in range(3):
            toy.add(
                box(), DARK, (0.07, width * 0.36, 0.04), (-depth / 2, 0, middle + (k - 1) * height * 0.12)
            )
