from functools import lru_cache

import numpy as np
import pytest
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from imagedream.toybox import FIRST_KINDS, KINDS, Toy, make_toy
from imagedream.toybox.builder import Builder
from imagedream.toybox.kinds import RECIPES
from imagedream.toybox.palette import DARK, GLASS, GLOW, PALETTE, TAIL_LIGHT
from imagedream.toybox.toys import is_held_out

SEEDS = range(3)


@lru_cache
def toy_of(kind: str, seed: int) -> Toy:
    return make_toy(seed, kind)


def built(kind: str, seed: int, body: str, accessory: str) -> Builder:
    builder = Builder(np.random.default_rng(seed), body, accessory)
    RECIPES[kind].build(builder)
    return builder


def seen_from(mesh: trimesh.Trimesh, side: int, cells: int = 40) -> np.ndarray:
    """Colours of an orthographic view along x from +x (side 1) or -x (side -1); zero where nothing is."""
    steps = (np.arange(cells) + 0.5) / cells - 0.5
    y, z = (grid.ravel() for grid in np.meshgrid(steps, steps))
    origins = np.column_stack([np.full(y.shape, 2.0 * side), y, z])
    hit = RayMeshIntersector(mesh).intersects_first(origins, np.tile([-1.0 * side, 0, 0], (len(y), 1)))
    return np.where(hit[:, None] >= 0, mesh.visual.face_colors[hit, :3].astype(float), 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_and_splits_are_different_streams(kind):
    toys = [make_toy(seed, kind, split) for split in ("train", "heldout") for seed in range(3)]
    shapes = {toy.mesh.vertices.tobytes() for toy in toys}
    assert len(shapes) == len(toys)


@pytest.mark.parametrize("kind", KINDS)
def test_training_never_sees_a_held_out_combination(kind):
    for seed in range(20):
        body, accessory = (make_toy(seed, kind).attributes[name] for name in ("body", "accessory"))
        assert not is_held_out(kind, body, accessory)
    for seed in range(3):
        toy = make_toy(seed, kind, "heldout", "heldout")
        assert is_held_out(kind, toy.attributes["body"], toy.attributes["accessory"])


def test_about_a_tenth_of_all_combinations_is_held_out():
    flags = [
        is_held_out(kind, body, accessory)
        for kind, recipe in RECIPES.items()
        for body in PALETTE
        for accessory in recipe.accessories
    ]
    assert 0.06 < np.mean(flags) < 0.14


@pytest.mark.parametrize("kind", KINDS)
def test_meshes_are_normalised_closed_light_and_coloured(kind):
    for seed in SEEDS:
        mesh = toy_of(kind, seed).mesh
        np.testing.assert_allclose(mesh.bounds.mean(axis=0), 0, atol=1e-9)
        assert mesh.extents.max() == pytest.approx(1.0)
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert len(mesh.faces) < 4000
        assert mesh.visual.face_colors.shape == (len(mesh.faces), 4)
        assert len(np.unique(mesh.visual.face_colors, axis=0)) >= 3
        assert (mesh.visual.face_colors[:, 3] == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_parts_face_outwards(kind):
    accessories = RECIPES[kind].accessories
    for seed in SEEDS:
        for part in built(kind, seed, "teal", accessories[seed % len(accessories)]).parts:
            assert trimesh.Trimesh(part.vertices, part.faces, process=False).volume > 0


# what of a toy is seen from the front (or from behind), by its name in the caption or its colour
IN_FRONT = {
    **{
        "robot": "badge",
        "chair": "badge",
        "bird": "belly",
        "bear": "belly",
        "monster": "belly",
        "fish": "lips",
    },
    **{"television": "screen", "table": "knobs", "rocket": "hatch", "snowman": "nose", "hammer": "face"},
    **{"sculpture": "plate", "dog": DARK, "house": (150, 146, 140), "lamp": GLOW, "boat": GLASS},
}
BEHIND = {
    **{"car": TAIL_LIGHT, "truck": TAIL_LIGHT, "plane": TAIL_LIGHT},
    **{"mug": "stripe", "plant": "stripe", "teapot": "stripe"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_front_lies_ahead(kind):
    sign, mark = (1, IN_FRONT[kind]) if kind in IN_FRONT else (-1, BEHIND[kind])
    for seed in SEEDS:
        toy = built(kind, seed, "teal", "none")
        colour = toy.paints[toy.attributes[mark]] if isinstance(mark, str) else mark
        ahead, behind = ((seen_from(toy.mesh(), side) == colour).all(axis=1).sum() for side in (1, -1))
        assert sign * (ahead - behind) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_front_and_back_look_different(kind):
    for seed in SEEDS:
        mesh = toy_of(kind, seed).mesh
        front, back = seen_from(mesh, 1), seen_from(mesh, -1)
        filled = front.any(axis=1)
        # the same silhouette (seen through a mirror), but at least 4 % of it in clearly other colours
        assert (filled == back.any(axis=1)).mean() > 0.97
        assert (np.abs(front - back).max(axis=1)[filled] > 40).mean() > 0.04


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_plain_sentences_that_name_kind_and_colours(kind):
    for seed in SEEDS:
        toy = toy_of(kind, seed)
        body = toy.attributes["body"]
        article = "an" if body[0] in "aeiou" else "a"
        assert toy.caption.startswith(f"{article} {body} ")
        assert f" {kind}" in toy.caption.split(" with ")[0]
        assert set(toy.caption) <= set("abcdefghijklmnopqrstuvwxyz ,-")
        assert "  " not in toy.caption
        assert " ," not in toy.caption


@pytest.mark.parametrize("kind", KINDS)
def test_accessories_change_the_toy(kind):
    def faces(accessory: str) -> int:
        return len(built(kind, 5, "red", accessory).mesh().faces)

    assert len(RECIPES[kind].accessories) >= 3
    assert all(
        faces(accessory) != faces("none") for accessory in RECIPES[kind].accessories if accessory != "none"
    )


def test_kinds_are_chosen_by_the_seed_when_none_is_given():
    kinds = {make_toy(seed).kind for seed in range(40)}
    assert len(kinds) > len(KINDS) // 2
    assert KINDS[: len(FIRST_KINDS)] == FIRST_KINDS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0, "kind": "unicorn"}, "the toybox knows robot, dog"),
        ({"seed": 0, "combinations": "heldout"}, 'needs split="heldout"'),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_toy(**arguments)
