"""Toys that stand upright and have arms: robot, bear, snowman."""

import math

from imagedream.toybox.builder import Builder, Frame, frame, moved, recipe
from imagedream.toybox.kinds.features import eyes, hat
from imagedream.toybox.palette import DARK, METAL, WHITE
from imagedream.toybox.shapes import (
    box,
    cone,
    cylinder,
    disc,
    dome,
    lathe,
    limb,
    ring,
    rounded_box,
    sphere,
    star,
    tube,
)


@recipe("hat", "antenna", "backpack", "headphones")
def robot(toy: Builder) -> None:
    """Eyes, mouth and a chest badge in front, a hatch or a backpack behind."""
    width, depth, height = toy.between(0.55, 0.9), toy.between(0.4, 0.6), toy.between(0.6, 0.95)
    shape = toy.choice((rounded_box(5.0), box(), cylinder()))
    leg, thick = toy.between(0.3, 0.6), toy.between(0.08, 0.13)
    torso = toy.add(shape, toy.paint, (depth, width, height), (0, 0, leg + height / 2))

    limbs = toy.colour("arms")
    legs = limbs if toy.chance(0.4) else toy.colour("legs")
    apart, foot = width * 0.27, toy.between(0.32, 0.45)
    toy.pair(cylinder(), legs, (thick * 2, thick * 2, leg + 0.1), (0, apart, leg / 2 + 0.05))
    toy.pair(rounded_box(6.0), DARK, (foot, thick * 2.8, 0.13), (0.08, apart, 0.05))

    # one arm may be raised, so left and right differ
    shoulder, reach, arm = leg + height * 0.85, toy.between(0.4, 0.6), toy.between(0.065, 0.1)
    raised = toy.choice((None, 1, -1))
    for side in (1, -1):
        out = side * (width / 2 + arm * 0.6)
        if side == raised:
            hand = (0.12, out + side * 0.25, shoulder + reach * 0.8)
        else:
            hand = (toy.between(0, 0.2), out + side * 0.1, shoulder - reach)
        toy.add(limb((0, out, shoulder), hand, arm), limbs)
        toy.add(sphere(1), METAL, arm * 2.7, hand)

    size, neck = (toy.between(0.42, 0.62), toy.between(0.34, 0.48)), leg + height
    paint = toy.colour("head", chance=0.45)
    toy.add(cylinder(), METAL, (0.2, 0.2, 0.2), (0, 0, neck + 0.02))
    shape, face = (sphere(), 0.44) if toy.chance(0.35) else (rounded_box(6.0), 0.5)
    head = toy.add(shape, paint, (size[0] * 0.9, *size), (0, 0, neck + 0.06 + size[1] / 2))
    eye, at = toy.between(0.12, 0.18), head.at(face, 0.22, 0.1)
    toy.pair(sphere(1), WHITE, (0.1, eye, eye), at)
    toy.pair(sphere(1), DARK, (0.07, eye * 0.5, eye * 0.5), moved(at, 0.04))
    toy.add(box(), DARK, (0.05, size[0] * 0.45, 0.045), head.at(face, 0, -0.27))

    badge, shape = toy.colour("badge"), toy.choice((disc(), star(), box()))
    toy.add(shape, badge, (0.1, width * 0.42, width * 0.42), moved(torso.at(0.5, 0, 0.1), 0.015))
    _carry(toy, torso, head)


def _carry(toy: Builder, torso: Frame, head: Frame) -> None:
    """What a robot carries, and the hatch where it has no backpack."""
    _, width, height = torso.size
    _, head_width, head_height = head.size
    back, top = torso.at(-0.5), head.at(0, 0, 0.5)
    colour = toy.accessory_colour()
    if toy.accessory == "hat":
        toy.add(cylinder(24), colour, (*head.size[:2] * 1.25, 0.05), top)
        crown = toy.choice((cylinder(top=0.85), cone(), dome()))
        up = 0.0 if crown is dome() else 0.15
        toy.add(crown, colour, (*head.size[:2] * 0.75, 0.3), moved(top, up=up))
    elif toy.accessory == "antenna":
        toy.add(cylinder(), METAL, (0.05, 0.05, 0.3), moved(top, up=0.12))
        toy.add(sphere(), colour, 0.17, moved(top, up=0.3))
    elif toy.accessory == "headphones":
        toy.pair(cylinder(), colour, (0.22, 0.22, 0.12), moved(head.at(0, 0.5), left=0.03), turn=(90, 0, 0))
        band = (max(head_width + 0.08, head_height), head_height + 0.25, 0.6)
        toy.add(ring(0.1), colour, band, moved(head.centre, up=0.04), turn=(90, 0, 90))
    if toy.accessory == "backpack":
        toy.add(rounded_box(5.0), colour, (0.3, width * 0.75, height * 0.75), moved(back, -0.1, 0, 0.05))
        toy.add(box(), DARK, (0.06, width * 0.5, 0.05), moved(back, -0.24, 0, 0.05))
    else:
        toy.add(box(), METAL, (0.05, width * 0.5, height * 0.45), back)
        for k in range(3):
            toy.add(box(), DARK, (0.07, width * 0.36, 0.04), moved(back, up=(k - 1) * height * 0.12))


@recipe("bow tie", "hat", "backpack", "honey pot")
def bear(toy: Builder) -> None:
    """Muzzle and belly in front, a round tail behind."""
    width, depth, height = toy.between(0.55, 0.75), toy.between(0.45, 0.6), toy.between(0.55, 0.75)
    sitting = toy.chance(0.5)
    base = 0.05 if sitting else toy.between(0.2, 0.32)
    torso = toy.add(rounded_box(2.5), toy.paint, (depth, width, height), (0, 0, base + height * 0.48))
    belly = toy.colour("belly")
    toy.add(sphere(), belly, torso.size * (0.5, 0.68, 0.68), torso.at(0.3, 0, -0.02))
    paws = toy.colour("paws", chance=0.5)
    thick = toy.between(0.1, 0.13)
    for side in (1, -1):
        hip = (0.05, side * width * 0.32, base + 0.1)
        foot = (depth * 0.5 + 0.2, side * width * 0.42, 0.11) if sitting else (0.06, side * width * 0.32, 0.1)
        sole = (0.18, 0.27, 0.27) if sitting else (0.36, 0.26, 0.18)
        toy.add(limb(hip, foot, thick * 1.1), toy.paint)
        toy.add(sphere(1), paws, sole, (foot[0] + 0.08, *foot[1:]))
        ahead, up = toy.between(0.05, 0.3), torso.centre[2] + toy.between(-0.2, 0.1)
        hand = (ahead, side * (width * 0.5 + 0.16), up + (0.4 if toy.chance(0.25) else 0.0))
        toy.add(limb(torso.at(0, side * 0.4, 0.3), hand, thick * 0.9), toy.paint)
        toy.add(sphere(1), paws, thick * 2.2, hand)

    size = toy.between(0.52, 0.66)
    head = frame(size, moved(torso.at(0, 0, 0.45), 0.04, 0, size * 0.36))
    toy.add(sphere(), toy.paint, head.size * (0.92, 1, 0.92), head.centre)
    for side in (1, -1):
        ear = moved(head.at(0, side * 0.4, 0.36), -0.02)
        toy.add(sphere(1), toy.paint, head.size * (0.2, 0.36, 0.36), ear)
        toy.add(sphere(1), belly, head.size * (0.12, 0.22, 0.22), moved(ear, size * 0.07))
    face = head.at(0.42)
    toy.add(sphere(), belly, head.size * (0.42, 0.48, 0.36), moved(face, up=-size * 0.12))
    toy.add(sphere(1), DARK, head.size * (0.14, 0.2, 0.14), moved(face, size * 0.19, 0, size * -0.04))
    eyes(toy, moved(face, size * -0.04, size * 0.2, size * 0.13), size * 0.2, white=toy.chance())
    toy.add(sphere(1), belly, 0.2, (-depth * 0.52, 0, base + height * 0.2))

    colour = toy.accessory_colour()
    if toy.accessory == "bow tie":
        up = head.at(0, 0, -0.5)[2]
        toy.pair(cylinder(8, 0.15), colour, (0.22, 0.12, 0.24), (depth * 0.44, 0.12, up), turn=(90, 0, 0))
        toy.add(sphere(1), colour, 0.13, (depth * 0.46, 0, up))
    elif toy.accessory == "hat":
        hat(toy, colour, head.at(0, 0, 0.4), size * 0.75, size * 0.5, 0.26)
    elif toy.accessory == "backpack":
        toy.add(rounded_box(4.5), colour, (0.3, width * 0.72, height * 0.62), torso.at(-0.55, 0, 0.12))
        toy.add(box(), DARK, (0.06, width * 0.5, 0.05), moved(torso.at(-0.55, 0, 0.14), -0.14))
    elif toy.accessory == "honey pot":
        at = moved(torso.at(0.5), 0.12, 0, -0.06)
        pot = lathe(((0.11, 0), (0.17, 0.12), (0.12, 0.26), (0.15, 0.3)), 16)
        toy.add(pot, colour, at=moved(at, up=-0.12))
        toy.add(cylinder(16), (250, 190, 50), (0.24, 0.24, 0.05), moved(at, up=0.18))


@recipe("hat", "broom", "backpack", "earmuffs")
def snowman(toy: Builder) -> None:
    """A snowman of any colour: face, buttons and scarf ends in front."""
    low, chest, head = toy.between(0.75, 0.95), toy.between(0.55, 0.7), toy.between(0.42, 0.54)
    flat, wood = toy.between(0.85, 1.0), (112, 74, 44)
    middle = low * flat * 0.88 + chest * flat * 0.38
    top = middle + chest * flat * 0.45 + head * 0.38
    toy.add(sphere(), toy.paint, (low, low, low * flat), (0, 0, low * flat / 2))
    toy.add(sphere(), toy.paint, (chest, chest, chest * flat), (0, 0, middle))
    face = toy.add(sphere(), toy.paint, head, (0, 0, top))
    toy.pair(sphere(1), DARK, 0.09, face.at(0.44, 0.2, 0.14))
    nose, length = toy.colour("nose", ("orange", "red", "yellow")), toy.between(0.2, 0.4)
    toy.add(cone(10), nose, (0.12, 0.12, length), moved(face.at(0.46), length / 2), turn=(0, 90, 0))
    for k in range(5):
        angle = math.radians(30 * (k - 2))
        left, up = head * 0.26 * math.sin(angle * 1.2), -head * (0.1 + 0.14 * math.cos(angle))
        toy.add(sphere(1), DARK, 0.05, moved(face.at(0.44), 0, left, up))
    buttons = toy.colour("buttons")
    for share in (0.28, 0.0, -0.26):
        ahead = math.sqrt(max(0.25 - share * share, 0)) * chest
        toy.add(sphere(1), buttons, 0.1, (ahead, 0, middle + chest * flat * share))
    scarf, neck = toy.colour("scarf"), top - head * 0.42
    toy.add(ring(0.26), scarf, (head * 1.02, head * 1.02, 0.5), (0, 0, neck))
    side = toy.choice((1, -1))
    end = (chest * 0.47, side * chest * 0.22, neck - 0.16)
    toy.add(box(), scarf, (0.06, 0.13, 0.34), end, turn=(0, -8, 0))
    for hand in (1, -1):
        tip = (toy.between(0.0, 0.15), hand * (chest * 0.5 + 0.34), middle + toy.between(-0.05, 0.35))
        elbow = (0.02, hand * (chest * 0.5 + 0.14), middle + 0.1)
        toy.add(tube(((0, hand * chest * 0.3, middle + 0.06), elbow, tip), 0.035, 0.025, corners=7), wood)

    colour = toy.accessory_colour()
    if toy.accessory == "hat":
        brim = face.at(0, 0, 0.4)
        hat(toy, colour, brim, head * 1.1, head * 0.7, 0.34, tops=(0.9, 0.0, 1.1))
        toy.add(cylinder(), scarf, (head * 0.73, head * 0.73, 0.06), moved(brim, up=0.05))
    elif toy.accessory == "broom":
        y = side * (chest * 0.5 + 0.3)
        toy.add(limb((0.12, y, 0.1), (0.12, y, top + 0.1), 0.028), wood)
        toy.add(cylinder(12, 0.3), colour, (0.3, 0.3, 0.3), (0.12, y, top + 0.2), turn=(180, 0, 0))
    elif toy.accessory == "backpack":
        toy.add(rounded_box(5.0), colour, (0.3, chest * 0.75, chest * 0.8), (-chest * 0.55, 0, middle))
        toy.add(box(), DARK, (0.06, chest * 0.5, 0.05), (-chest * 0.55 - 0.14, 0, middle))
    elif toy.accessory == "earmuffs":
        toy.pair(sphere(1), colour, (0.22, 0.14, 0.22), face.at(0, 0.5))
        toy.add(ring(0.08), colour, (head * 1.12, head * 1.12, 0.5), (0, 0, top + 0.02), turn=(90, 0, 90))
