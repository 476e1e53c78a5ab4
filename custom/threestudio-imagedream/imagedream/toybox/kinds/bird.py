"""A standing bird: beak and belly in front, tail behind, wings at the sides."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds.common import eyes
from imagedream.toybox.shapes import Builder, box, cylinder, dome, limb, prism, ring, rounded_box, sphere

ACCESSORIES = ("none", "crest", "hat", "scarf", "backpack")
"""Parts that a toy of this kind may carry."""


def build(draw: Draw) -> Builder:
    """A standing bird: beak and belly in front, tail behind, wings at the sides."""
    toy = Builder()
    width, height, depth = draw.between(0.55, 0.75), draw.between(0.7, 0.95), draw.between(0.6, 0.85)
    leg = draw.between(0.15, 0.4)
    middle = leg + height * 0.46
    lean = draw.between(-5, 25)
    toy.add(sphere(), draw.paint, (depth, width, height), (0, 0, middle), turn=(0, -lean, 0))
    belly = draw.part("belly")
    toy.add(
        sphere(),
        belly,
        (depth * 0.85, width * 0.78, height * 0.78),
        (depth * 0.13, 0, middle - height * 0.05),
        turn=(0, -lean, 0),
        front=True,
    )

    head_size = draw.between(0.4, 0.55)
    head = (depth * 0.22, 0, middle + height * 0.4 + draw.between(0.02, 0.2))
    toy.add(limb((0.02, 0, middle), head, head_size * 0.34), draw.paint)
    toy.add(sphere(), draw.paint, head_size, head)
    eyes(
        toy,
        (head[0] + head_size * 0.36, head_size * 0.26, head[2] + head_size * 0.12),
        head_size * 0.27,
        white=True,
    )
    bill = draw.part("beak", ("yellow", "orange", "red", "pink", "gray"))
    beak_length, flat = draw.between(0.22, 0.5), draw.chance(0.35)
    base = (head[0] + head_size * 0.42 + beak_length / 2, 0, head[2] - head_size * 0.06)
    if flat:
        toy.add(
            rounded_box(3.0), bill, (beak_length * 1.25, head_size * 0.5, head_size * 0.17), base, front=True
        )
    else:
        toy.add(
            cylinder(0.0, 12),
            bill,
            (head_size * 0.36, head_size * 0.36, beak_length),
            base,
            turn=(0, 95, 0),
            front=True,
        )

    wings = draw.part("wings")
    spread = draw.chance(0.4)
    if spread:
        reach = draw.between(0.5, 0.8)
        outline = ((0.22, 0.0), (0.1, reach * 0.7), (-0.12, reach), (-0.28, reach * 0.75), (-0.3, 0.0))
        toy.pair(
            prism(outline),
            wings,
            (1, 1, 0.07),
            (0, width * 0.36, middle + height * 0.12),
            turn=(draw.between(-15, 35), 8, 0),
        )
    else:
        toy.pair(
            sphere(),
            wings,
            (depth * 0.85, width * 0.18, height * 0.55),
            (-depth * 0.1, width * 0.46, middle),
            turn=(8, 20 + lean, 0),
        )
    tail = draw.between(0.35, 0.65)
    fan = ((0.15, -0.1), (0.15, 0.1), (-tail, 0.26), (-tail * 0.9, 0.0), (-tail, -0.26))
    toy.add(
        prism(fan),
        wings,
        (1, 1, 0.09),
        (-depth * 0.36, 0, middle - height * 0.15),
        turn=(0, draw.between(-25, 30), 0),
    )

    for side in (1, -1):
        hip = (0.0, side * width * 0.2, leg + 0.08)
        toy.add(limb(hip, (0.02, side * width * 0.2, 0.05), 0.045), bill)
        toy.add(rounded_box(3.0), bill, (0.3, 0.2, 0.08), (0.09, side * width * 0.2, 0.04))

    if draw.accessory == "crest":
        colour = draw.part("crest")
        for k in range(3):
            toy.add(
                sphere(1),
                colour,
                (0.12, 0.07, 0.26),
                (head[0] + 0.08 - 0.12 * k, 0, head[2] + head_size * (0.56 - 0.06 * k)),
                turn=(0, 10 - 35 * k, 0),
            )
    elif draw.accessory == "hat":
        colour = draw.part("hat")
        top = head[2] + head_size * 0.42
        toy.add(cylinder(sections=24), colour, (head_size * 0.95, head_size * 0.95, 0.05), (head[0], 0, top))
        toy.add(
            cylinder(draw.choice((0.85, 0.0))),
            colour,
            (head_size * 0.62, head_size * 0.62, 0.28),
            (head[0], 0, top + 0.14),
        )
    elif draw.accessory == "scarf":
        colour = draw.part("scarf")
        toy.add(ring(0.28), colour, head_size * 1.12, (head[0] - 0.04, 0, head[2] - head_size * 0.4))
        toy.add(
            box(),
            colour,
            (0.06, 0.15, 0.32),
            (depth * 0.46, width * 0.25, middle + height * 0.1),
            turn=(0, 0, 25),
        )
    elif draw.accessory == "backpack":
        colour = draw.part("backpack")
        toy.add(
            rounded_box(4.0),
            colour,
            (0.3, width * 0.6, height * 0.5),
            (-depth * 0.52, 0, middle + height * 0.08),
        )
        toy.add(dome(), colour, (0.32, width * 0.6, 0.16), (-depth * 0.52, 0, middle + height * 0.3))
    return toy
