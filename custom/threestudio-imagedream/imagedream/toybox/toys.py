"""Toys by number: everything about a toy follows from its seed, kind and split."""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import trimesh

from imagedream.toybox.builder import Builder
from imagedream.toybox.kinds import RECIPES
from imagedream.toybox.palette import PALETTE

KINDS: tuple[str, ...] = tuple(RECIPES)
"""Every kind of toy."""

FIRST_KINDS: tuple[str, ...] = KINDS[:8]
"""The kinds that tables are about unless they name others; every training of the small model had them."""

SPLITS = ("train", "heldout")
"""Disjoint random streams; a split's place here is a word of its seeds."""

HELD_OUT_SHARE = 10
"""One in this many combinations of kind, body colour and accessory never appears in the train split."""


@dataclass(frozen=True)
class Toy:
    """A procedural object with a canonical front."""

    mesh: trimesh.Trimesh
    """Face colours without shading; front +x, up +z, bounding box centred at 0 with longest side 1."""
    caption: str
    """A plain sentence: body colour, kind, some parts."""
    kind: str
    """One of `KINDS`."""
    seed: int
    """What it was made from."""
    attributes: dict[str, str]
    """Palette names of the named parts, "body" and "accessory" among them."""


def is_held_out(kind: str, body: str, accessory: str) -> bool:
    """Whether a combination is kept from training: a fixed hash of its three words, the same on every machine."""
    return zlib.crc32(f"{kind}|{body}|{accessory}".encode()) % HELD_OUT_SHARE == 0


def make_toy(
    seed: int,
    kind: str | None = None,
    split: Literal["train", "heldout"] = "train",
    combinations: Literal["any", "heldout"] = "any",
) -> Toy:
    """Makes the toy that the arguments name; the same arguments always make the same toy.

    Args:
        seed: any non-negative integer.
        kind: one of `KINDS`; chosen by the seed when None.
        split: "train" and "heldout" draw from disjoint random streams; train never makes a held-out combination of
            kind, body colour and accessory.
        combinations: "any", or "heldout" for those combinations alone (only in the held-out split).

    Returns:
        The toy.

    Raises:
        ValueError: for a negative seed, an unknown name, or held-out combinations asked of the train split.
    """
    _check(seed, kind, split, combinations)
    if kind is None:
        kind = KINDS[int(np.random.default_rng((seed, SPLITS.index(split))).integers(len(KINDS)))]
    # the kind's words seed its own stream, so that adding a kind leaves the others' toys as they were
    generator = np.random.default_rng((seed, SPLITS.index(split), *kind.encode()))
    recipe, colours = RECIPES[kind], tuple(PALETTE)
    wanted = {"train": (False,), "heldout": (True,) if combinations == "heldout" else (False, True)}[split]
    while True:
        body = colours[int(generator.integers(len(colours)))]
        accessory = recipe.accessories[int(generator.integers(len(recipe.accessories)))]
        if is_held_out(kind, body, accessory) in wanted:
            break
    builder = Builder(generator, body, accessory)
    recipe.build(builder)
    return Toy(builder.mesh(), builder.caption(recipe.noun), kind, seed, builder.attributes)


def _check(seed: int, kind: str | None, split: str, combinations: str) -> None:
    if seed < 0:
        raise ValueError(f"seed is {seed}, must be 0 or larger")
    if kind is not None and kind not in RECIPES:
        raise ValueError(f"unknown kind {kind!r}; the toybox knows {', '.join(KINDS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    if combinations not in ("any", "heldout"):
        raise ValueError(f"unknown combinations {combinations!r}; there are any, heldout")
    if combinations == "heldout" and split == "train":
        raise ValueError('combinations="heldout" needs split="heldout": the train split never makes them')
