"""An upright bear: muzzle and belly in front, a round tail behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.palette import DARK
from imagedream.toybox.shapes import Builder, box, cylinder, lathe, limb, rounded_box, sphere

ACCESSORIES = ("none", "bow tie", "hat", "backpack", "honey pot")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """An upright bear: muzzle and belly in front, a round tail behind."""
    toy = Builder()
    width, depth, height = draw.between(0.55, 0.75), draw.between(0.45, 0.6), draw.between(0.55, 0.75)
    sitting = draw.chance(0.5)
    base = 0.05 if sitting else draw.between(0.2, 0.32)
    middle = base + height * 0.48
    toy.add(rounded_box(2.5), draw.paint, (depth, width, height), (0, 0, middle))
    belly = draw.part("belly")
    toy.add(
        sphere(),
        belly,
        (depth * 0.5, width * 0.68, height * 0.68),
        (depth * 0.3, 0, middle - height * 0.02),
        front=True,
    )
    paws = draw.part("paws") if draw.chance() else draw.paint
    thick = draw.between(0.1, 0.13)
    for side in (1, -1):
        hip = (0.05, side * width * 0.32, base + 0.1)
        foot = (depth * 0.5 + 0.2, side * width * 0.42, 0.11) if sitting else (0.06, side * width * 0.32, 0.1)
        toy.add(limb(hip, foot, thick * 1.1), draw.paint)
        toy.add(
            sphere(1),
            paws,
            (0.18, 0.27, 0.27) if sitting else (0.36, 0.26, 0.18),
            (foot[0] + 0.08, foot[1], foot[2]),
            front=True,
        )
        shoulder = (0.0, side * width * 0.4, middle + height * 0.3)
        hand = (
            draw.between(0.05, 0.3),
            side * (width * 0.5 + 0.16),
            middle + draw.between(-0.2, 0.1) + (0.4 if draw.chance(0.25) else 0.0),
        )
        toy.add(limb(shoulder, hand, thick * 0.9), draw.paint)
        toy.add(sphere(1), paws, thick * 2.2, hand)

    size = draw.between(0.52, 0.66)
    head = (0.04, 0, middle + height * 0.45 + size * 0.36)
    toy.add(sphere(), draw.paint, (size * 0.92, size, size * 0.92), head)
    for side in (1, -1):
        ear = (head[0] - 0.02, side * size * 0.4, head[2] + size * 0.36)
        toy.add(sphere(1), draw.paint, (size * 0.2, size * 0.36, size * 0.36), ear)
        toy.add(
            sphere(1),
            belly,
            (size * 0.12, size * 0.22, size * 0.22),
            (ear[0] + size * 0.07, ear[1], ear[2]),
            front=True,
        )
    face = head[0] + size * 0.42
    toy.add(
        sphere(), belly, (size * 0.42, size * 0.48, size * 0.36), (face, 0, head[2] - size * 0.12), front=True
    )
    toy.add(
        sphere(1),
        DARK,
        (size * 0.14, size * 0.2, size * 0.14),
        (face + size * 0.19, 0, head[2] - size * 0.04),
        front=True,
    )
    eyes(toy, (face - size * 0.04, size * 0.2, head[2] + size * 0.13), size * 0.2, white=draw.chance())
    toy.add(sphere(1), belly, 0.2, (-depth * 0.52, 0, base + height * 0.2))

    if draw.accessory == "bow tie":
        colour, at = draw.part("bow tie"), head[2] - size * 0.5
        toy.pair(
            cylinder(0.15, 8),
            colour,
            (0.22, 0.12, 0.24),
            (depth * 0.44, 0.12, at),
            turn=(90, 0, 0),
            front=True,
        )
        toy.add(sphere(1), colour, 0.13, (depth * 0.46, 0, at), front=True)
    elif draw.accessory == "hat":
        colour, top = draw.part("hat"), head[2] + size * 0.4
        toy.add(cylinder(sections=24), colour, (size * 0.75, size * 0.75, 0.05), (head[0], 0, top))
        toy.add(
            cylinder(draw.choice((0.85, 0.0))),
            colour,
            (size * 0.5, size * 0.5, 0.26),
            (head[0], 0, top + 0.13),
        )
    elif draw.accessory == "backpack":
        colour = draw.part("backpack")
        toy.add(
            rounded_box(4.5),
            colour,
            (0.3, width * 0.72, height * 0.62),
            (-depth * 0.55, 0, middle + height * 0.12),
        )
        toy.add(box(), DARK, (0.06, width * 0.5, 0.05), (-depth * 0.55 - 0.14, 0, middle + height * 0.14))
    elif draw.accessory == "honey pot":
        colour = draw.part("honey pot")
        x, z = depth * 0.5 + 0.12, middle - 0.06
        toy.add(
            lathe(((0.11, 0), (0.17, 0.12), (0.12, 0.26), (0.15, 0.3)), 16),
            colour,
            at=(x, 0, z - 0.12),
            front=True,
        )
        toy.add(cylinder(sections=16), (250, 190, 50), (0.24, 0.24, 0.05), (x, 0, z + 0.18), front=True)
    return toy
