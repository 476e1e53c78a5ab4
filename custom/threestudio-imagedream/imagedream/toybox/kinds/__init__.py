"""Recipes of the toybox: a function a kind, which adds its parts to a `Builder`.

A new kind is a function with `@recipe` and a line at the end of `RECIPES`; the other kinds' toys stay as they are.
"""

from imagedream.toybox.builder import Recipe
from imagedream.toybox.kinds.animals import bird, dog, fish
from imagedream.toybox.kinds.figures import bear, robot, snowman
from imagedream.toybox.kinds.furniture import chair, lamp, table, television
from imagedream.toybox.kinds.house import house
from imagedream.toybox.kinds.household import hammer, mug, plant, teapot
from imagedream.toybox.kinds.invented import monster, sculpture
from imagedream.toybox.kinds.vehicles import boat, car, plane, rocket, truck

RECIPES: dict[str, Recipe] = {
    recipe.kind: recipe
    for recipe in (
        *(robot, dog, car, house, chair, lamp, mug, bird),
        *(truck, plant, television, teapot, table, fish, rocket, boat),
        *(bear, snowman, plane, hammer, sculpture, monster),
    )
}
"""Kinds in the order they joined; those that the small model was trained on are noted in its config (`trained_on`)."""
