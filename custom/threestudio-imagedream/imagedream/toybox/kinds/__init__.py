"""Recipes of the toybox: one file a kind builds it from a `Draw`, front towards +x, left +y, up +z.

A new kind is a file with `ACCESSORIES` and `build`, and a line in `RECIPES`; the other kinds' toys stay as they are.
"""

from collections.abc import Callable
from typing import NamedTuple

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds import (
    bear,
    bird,
    boat,
    car,
    chair,
    dog,
    fish,
    hammer,
    house,
    lamp,
    monster,
    mug,
    plane,
    plant,
    robot,
    rocket,
    sculpture,
    snowman,
    table,
    teapot,
    television,
    truck,
)
from imagedream.toybox.shapes import Builder


class Recipe(NamedTuple):
    """How to build a kind and which accessories it may carry."""

    build: Callable[[Draw], Builder]
    accessories: tuple[str, ...]
    noun: str | None = None
    """What captions call it, where that is more than the kind's own name."""


RECIPES: dict[str, Recipe] = {
    "robot": Recipe(robot.build, robot.ACCESSORIES),
    "dog": Recipe(dog.build, dog.ACCESSORIES),
    "car": Recipe(car.build, car.ACCESSORIES),
    "house": Recipe(house.build, house.ACCESSORIES),
    "chair": Recipe(chair.build, chair.ACCESSORIES),
    "lamp": Recipe(lamp.build, lamp.ACCESSORIES),
    "mug": Recipe(mug.build, mug.ACCESSORIES),
    "bird": Recipe(bird.build, bird.ACCESSORIES),
    "truck": Recipe(truck.build, truck.ACCESSORIES),
    "plant": Recipe(plant.build, plant.ACCESSORIES, noun="potted plant"),
    "television": Recipe(television.build, television.ACCESSORIES),
    "teapot": Recipe(teapot.build, teapot.ACCESSORIES),
    "table": Recipe(table.build, table.ACCESSORIES),
    "fish": Recipe(fish.build, fish.ACCESSORIES),
    "rocket": Recipe(rocket.build, rocket.ACCESSORIES),
    "boat": Recipe(boat.build, boat.ACCESSORIES),
    "bear": Recipe(bear.build, bear.ACCESSORIES),
    "snowman": Recipe(snowman.build, snowman.ACCESSORIES),
    "plane": Recipe(plane.build, plane.ACCESSORIES),
    "hammer": Recipe(hammer.build, hammer.ACCESSORIES),
    "sculpture": Recipe(sculpture.build, sculpture.ACCESSORIES),
    "monster": Recipe(monster.build, monster.ACCESSORIES),
}
"""Kinds in the order they joined; those that the small model was trained on are noted in its config (`trained_on`)."""
