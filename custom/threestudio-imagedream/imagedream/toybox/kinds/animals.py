"""Animals: snouts and beaks in front, tails behind."""

from imagedream.toybox.draw import Draw
from imagedream.toybox.palette import DARK, WHITE
from imagedream.toybox.shapes import (
    Builder,
    Number,
    Vector,
    box,
    cylinder,
    dome,
    limb,
    prism,
    ring,
    rounded_box,
    sphere,
    tube,
)

DOG_ACCESSORIES = ("none", "collar", "hat", "saddle", "scarf")
BIRD_ACCESSORIES = ("none", "crest", "hat", "scarf", "backpack")


def eyes(toy: Builder, at: Vector, size: Number, white: bool = True) -> None:
    """A pair of eyes at +y and −y that look ahead."""
    x, y, z = at
    if white:
        toy.pair(sphere(1), WHITE, (size * 0.7, size, size * 1.15), at, front=True)
        x += size * 0.25
        size *= 0.6
    toy.pair(sphere(1), DARK, (size * 0.7, size, size), (x, y, z), front=True)


def dog(draw: Draw) -> Builder:
    """A four-legged animal: head with snout at the front, tail at the back."""
    toy = Builder()
    length, girth, leg = draw.between(0.75, 1.25), draw.between(0.38, 0.55), draw.between(0.25, 0.55)
    spine = leg + girth * 0.4
    toy.add(rounded_box(2.7), draw.paint, (length, girth, girth), (0, 0, spine))

    marks = draw.part(draw.choice(("ears", "patches")))
    leg_radius = draw.between(0.07, 0.1)
    socks = draw.chance(0.4)
    socks_paint = draw.part("paws") if socks else draw.paint
    for x in (length * 0.36, -length * 0.36):
        hip = (x, girth * 0.32, leg)
        toy.pair(limb(hip, (x + 0.02, girth * 0.34, leg_radius), leg_radius), draw.paint)
        toy.pair(
            sphere(1),
            socks_paint,
            (leg_radius * 3.2, leg_radius * 2.5, leg_radius * 2),
            (x + 0.05, girth * 0.34, leg_radius),
        )

    head_size = draw.between(0.42, 0.58)
    neck = (length * 0.42, 0, spine + girth * 0.2)
    head = (length * 0.5 + draw.between(0.02, 0.14), 0, spine + girth * 0.2 + draw.between(0.2, 0.42))
    toy.add(limb(neck, head, head_size * 0.28), draw.paint)
    toy.add(sphere(), draw.paint, (head_size, head_size, head_size * 0.92), head)
    snout = draw.between(0.22, 0.42)
    front = head[0] + head_size * 0.38
    low = head[2] - head_size * 0.14
    toy.add(
        rounded_box(2.6),
        marks if draw.chance() else draw.paint,
        (snout * 1.5, head_size * 0.5, head_size * 0.42),
        (front, 0, low),
    )
    toy.add(sphere(1), DARK, head_size * 0.24, (front + snout * 0.72, 0, low + head_size * 0.1), front=True)
    eyes(toy, (head[0] + head_size * 0.38, head_size * 0.22, head[2] + head_size * 0.16), head_size * 0.24)
    if draw.chance(0.3):
        toy.add(
            box(),
            draw.part("tongue", ("red", "pink")),
            (0.05, 0.11, 0.16),
            (front + snout * 0.6, 0, low - head_size * 0.22),
            front=True,
        )

    _dog_ears(draw, toy, head, head_size, marks)
    if "patches" in draw.attributes:
        for _ in range(3):
            x, side = draw.between(-0.34, 0.3) * length, draw.choice((1, -1))
            toy.add(
                sphere(1),
                marks,
                (girth * 0.55, girth * 0.2, girth * 0.5),
                (x, side * girth * 0.4, spine + draw.between(-0.05, 0.12)),
            )

    tail_length, tail = draw.between(0.25, 0.5), (-length * 0.46, 0, spine + girth * 0.2)
    tip = (
        tail[0] - tail_length * 0.7,
        draw.between(-0.1, 0.1),
        tail[2] + tail_length * draw.between(-0.3, 0.9),
    )
    bend = (tail[0] - tail_length * 0.5, 0, tail[2] + 0.05)
    toy.add(tube((tail, bend, tip), 0.075, 0.04), draw.paint)
    toy.add(sphere(1), marks, 0.13, tip)

    if draw.accessory == "collar":
        toy.add(ring(0.22), draw.part("collar"), head_size * 0.95, _between(neck, head, 0.4), turn=(0, 25, 0))
    elif draw.accessory == "hat":
        colour = draw.part("hat")
        top = (head[0] - 0.02, 0, head[2] + head_size * 0.42)
        toy.add(cylinder(sections=24), colour, (head_size * 0.95, head_size * 0.95, 0.05), top)
        toy.add(
            cylinder(draw.choice((0.85, 0.0))),
            colour,
            (head_size * 0.6, head_size * 0.6, 0.26),
            (top[0], 0, top[2] + 0.13),
        )
    elif draw.accessory == "saddle":
        colour = draw.part("saddle")
        toy.add(
            rounded_box(4.0),
            colour,
            (length * 0.36, girth * 1.08, girth * 0.55),
            (-length * 0.02, 0, spine + girth * 0.27),
        )
    elif draw.accessory == "scarf":
        colour = draw.part("scarf")
        toy.add(ring(0.3), colour, head_size * 1.05, _between(neck, head, 0.35), turn=(0, 20, 0))
        toy.add(
            box(),
            colour,
            (0.06, 0.14, 0.34),
            (length * 0.5 + 0.04, head_size * 0.36, spine),
            turn=(10, -8, 0),
        )
    return toy


def _between(a: Vector, b: Vector, share: Number) -> Vector:
    return (a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share, a[2] + (b[2] - a[2]) * share)


def _dog_ears(
    draw: Draw, toy: Builder, head: Vector, head_size: Number, colour: tuple[int, int, int]
) -> None:
    x, _, z = head
    style = draw.choice(("floppy", "pointed", "round"))
    if style == "floppy":
        toy.pair(
            sphere(),
            colour,
            (head_size * 0.32, head_size * 0.16, head_size * 0.75),
            (x - 0.03, head_size * 0.5, z),
            turn=(14, 0, 0),
        )
    elif style == "pointed":
        toy.pair(
            cylinder(0.0, 8),
            colour,
            (head_size * 0.2, head_size * 0.34, head_size * 0.55),
            (x - 0.04, head_size * 0.3, z + head_size * 0.52),
            turn=(-12, 0, 0),
        )
    else:
        toy.pair(
            sphere(),
            colour,
            (head_size * 0.16, head_size * 0.4, head_size * 0.4),
            (x - 0.02, head_size * 0.4, z + head_size * 0.36),
        )


def bird(draw: Draw) -> Builder:
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
