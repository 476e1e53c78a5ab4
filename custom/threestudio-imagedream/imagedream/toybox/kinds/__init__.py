"""Recipes of the toybox: one function a kind builds it from a `Draw`, front towards +x, left +y, up +z."""

from collections.abc import Callable
from typing import NamedTuple

from imagedream.toybox.draw import Draw
from imagedream.toybox.kinds import animals, buildings, figures, household, vehicles
from imagedream.toybox.shapes import Builder


class Recipe(NamedTuple):
    """How to build a kind and which accessories it may carry."""

    build: Callable[[Draw], Builder]
    accessories: tuple[str, ...]


RECIPES: dict[str, Recipe] = {
    "robot": Recipe(figures.robot, figures.ROBOT_ACCESSORIES),
    "dog": Recipe(animals.dog, animals.DOG_ACCESSORIES),
    "car": Recipe(vehicles.car, vehicles.CAR_ACCESSORIES),
    "house": Recipe(buildings.house, buildings.HOUSE_ACCESSORIES),
    "chair": Recipe(household.chair, household.CHAIR_ACCESSORIES),
    "lamp": Recipe(household.lamp, household.LAMP_ACCESSORIES),
    "mug": Recipe(household.mug, household.MUG_ACCESSORIES),
    "bird": Recipe(animals.bird, animals.BIRD_ACCESSORIES),
}
