"""Objects that a network was not trained on, as test cases: a prompt picture, the true views, answers without any model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import trimesh
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from imagedream import cameras, checkpoints
from imagedream.image_prompt.prompt import OBJECT_FRACTION, place
from imagedream.mesh.raycast import Light, Meshes, Raycaster, Views, bounds
from imagedream.pictures import over_white, premultiplied
from imagedream.runs.ranges import Count, check_value
from imagedream.toybox import FIRST_KINDS, KINDS, Toy, make_toy
from imagedream.workshop.mesh_files.reading import load_parts, normalise_parts
from imagedream.workshop.rendering.captioned_files import Item

TrainedOn = Sequence[Mapping[str, Any]]
"""A network's record of its trainings (`MultiViewUNet`); those on toys have `kinds`, `split`, `first_seed` and `objects`."""

LARGEST_ELEVATION_DEG = 20.0
LARGEST_PROMPT_AZIMUTH_DEG = 30.0

_PROMPT_PX = 256


@dataclass(frozen=True)
class Orbit:
    """Cameras around the object at one elevation."""

    azimuths_deg: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0)
    elevation_deg: float = 10.0
    fov_y_deg: float = 47.5
    relative_distance: float = 0.73
    """Half the frame's height at the origin in world units: the middle of what the small model is trained on."""

    def views(self, mesh: Meshes, size: int, lit: bool = True) -> Views:
        """Pictures of a mesh from these cameras, shaded or in its plain colours."""
        azimuths = torch.tensor(self.azimuths_deg)
        fov = torch.full_like(azimuths, self.fov_y_deg)
        distance = cameras.framing_distance(self.relative_distance, fov)
        poses = cameras.look_at_origin(torch.full_like(azimuths, self.elevation_deg), azimuths, distance)
        return Raycaster(mesh).render(poses, fov, size, Light() if lit else None)

    def on_white(self, mesh: Meshes, size: int, lit: bool = True) -> Float[Tensor, "view 3 {size} {size}"]:
        """The same in front of white."""
        return self.views(mesh, size, lit).over_white


@dataclass(frozen=True)
class HeldOutMesh:
    """An object from a file."""

    mesh: tuple[trimesh.Trimesh, ...]
    """Its parts in world axes; bounding box centred at 0 with longest side 1."""
    caption: str
    kind: str
    """What tables group it by."""


@dataclass(frozen=True)
class HeldOutCase:
    """An object that training never saw, and how it is asked for."""

    label: str
    """For tables and file names."""
    object: Toy | HeldOutMesh
    prompt: Float[Tensor, "4 size size"]
    """The object from its front side, straight alpha, placed as any picture would be."""
    prompt_azimuth_deg: float
    prompt_elevation_deg: float
    orbit: Orbit
    """The four views that are asked for."""


def held_out_cases(
    count: int, seed: int = 0, kinds: Sequence[str] | None = None, **how: Any
) -> list[HeldOutCase]:
    """Test cases that follow from the seed, the kinds taking turns.

    Args:
        count: how many.
        seed: case i is toy number `seed + i` of the split, so overlapping seeds share cases.
        kinds: names of the toybox; None for `FIRST_KINDS`.
        how: see `held_out_case`.

    Raises:
        ValueError: a count below 1, an unknown kind, or an azimuth outside (0, 180].
    """
    kinds = check_cases(count, kinds, how.get("largest_prompt_azimuth_deg", LARGEST_PROMPT_AZIMUTH_DEG))
    return [held_out_case(number, kinds[number % len(kinds)], **how) for number in range(seed, seed + count)]


def check_cases(
    count: int,
    kinds: Sequence[str] | None = None,
    largest_prompt_azimuth_deg: float = LARGEST_PROMPT_AZIMUTH_DEG,
) -> tuple[str, ...]:
    """The kinds that are meant; raises what `held_out_cases` raises."""
    check_value("count", count, Count)
    half_turn = Annotated[float, Interval(gt=0, le=180)]
    check_value("largest_prompt_azimuth_deg", largest_prompt_azimuth_deg, half_turn)
    kinds = FIRST_KINDS if kinds is None else tuple(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(
            f"unknown kinds {', '.join(unknown) or '(none given)'}; the toybox knows {', '.join(KINDS)}"
        )
    return kinds


def held_out_case(
    seed: int,
    kind: str,
    prompt_size: int = _PROMPT_PX,
    combinations: Literal["any", "heldout"] = "any",
    largest_prompt_azimuth_deg: float = LARGEST_PROMPT_AZIMUTH_DEG,
    split: Literal["train", "heldout"] = "heldout",
) -> HeldOutCase:
    """One test case; prompt and views have different elevations, as for a picture of which nobody knows the elevation.

    Args:
        seed: number of the toy in the split; decides the cameras too.
        kind: name of the toybox.
        prompt_size: side of the prompt in pixels.
        combinations: "heldout" for toys whose kind, body colour and accessory training never saw together.
        largest_prompt_azimuth_deg: prompts are taken from up to this far on either side of the front.
        split: "train" for toys as training makes them; that it did not get to them is the caller's business
            (`unseen_toys`).
    """
    toy = make_toy(seed, kind, split=split, combinations=combinations)
    return ask_for(toy, f"{kind}-{seed}", seed, prompt_size, largest_prompt_azimuth_deg)


def ask_for(
    thing: Toy | HeldOutMesh, label: str, seed: int, prompt_size: int, largest_prompt_azimuth_deg: float
) -> HeldOutCase:
    """The case of an object, with cameras that follow from the seed."""
    draws = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    prompt_azimuth_deg = (2 * draws[0] - 1) * largest_prompt_azimuth_deg
    prompt_elevation_deg, elevation_deg = (draw * LARGEST_ELEVATION_DEG for draw in draws[1:])
    prompt = prompt_picture(thing, prompt_azimuth_deg, prompt_elevation_deg, prompt_size)
    orbit = Orbit(elevation_deg=elevation_deg)
    return HeldOutCase(label, thing, prompt, prompt_azimuth_deg, prompt_elevation_deg, orbit)


def held_out_meshes(
    items: Sequence[Item],
    count: int,
    seed: int = 0,
    prompt_size: int = _PROMPT_PX,
    largest_prompt_azimuth_deg: float = LARGEST_PROMPT_AZIMUTH_DEG,
) -> list[HeldOutCase]:
    """Cases from mesh files, asked for as toys are.

    Args:
        items: `imagedream.workshop.rendering.captioned_files.find_items`.
        count: how many of them; which ones follows from the seed.
        seed: case i has the cameras of toy `seed + i`.
        prompt_size: side of the prompt in pixels.
        largest_prompt_azimuth_deg: see `held_out_case`.

    Raises:
        ValueError: there are fewer.
        imagedream.mesh.raycast.MeshError: one cannot be read.
    """
    if not 1 <= count <= len(items):
        raise ValueError(f"{count} objects are asked for, there are {len(items)}")
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    cases = []
    for number, index in enumerate(chosen, seed):
        item = items[index]
        parts = tuple(normalise_parts(load_parts(item.source)))
        shown = HeldOutMesh(parts, item.caption or "", Path(item.source).parent.name)
        cases.append(ask_for(shown, item.key, number, prompt_size, largest_prompt_azimuth_deg))
    return cases


def prompt_picture(
    thing: Toy | HeldOutMesh, azimuth_deg: float, elevation_deg: float, size: int = _PROMPT_PX
) -> Float[Tensor, "4 {size} {size}"]:
    """An object seen from somewhere, straight alpha, placed as any picture would be."""
    rgba = Orbit((azimuth_deg,), elevation_deg).views(thing.mesh, _PROMPT_PX).rgba[0]
    return place(rgba, size, OBJECT_FRACTION)


def prompt_copied(case: HeldOutCase, size: int, views: int = 4) -> Float[Tensor, "{views} 3 {size} {size}"]:
    """The answer that needs no model: the prompt on white, whatever the side asked for."""
    picture = over_white(case.prompt)[None]
    resized = torch.nn.functional.interpolate(picture, (size, size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1).expand(views, -1, -1, -1)


def ellipsoid(thing: Toy | HeldOutMesh) -> trimesh.Trimesh:
    """A lump of the object's true extents in its mean visible colour: what knowing only size and colour would score."""
    around = Orbit(tuple(45.0 * step for step in range(8)), LARGEST_ELEVATION_DEG / 2)
    rgba = around.views(thing.mesh, 32, lit=False).rgba
    seen = premultiplied(rgba).sum(dim=(0, 2, 3))
    colour = seen[:3] / seen[3]
    low, high = bounds([thing.mesh] if isinstance(thing.mesh, trimesh.Trimesh) else thing.mesh)
    mesh = trimesh.creation.icosphere(subdivisions=3)
    mesh.apply_scale((high - low) / mesh.extents)
    colour_8bit = np.uint8([*(colour * 255).round().tolist(), 255])
    mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=np.tile(colour_8bit, (len(mesh.faces), 1)))
    return mesh


def trivial_answers(
    case: HeldOutCase, size: int, orbit: Orbit
) -> dict[str, Float[Tensor, "view 3 size size"]]:
    """Views by answers that use no model: blank white, the prompt copied, and the ellipsoid."""
    views = len(orbit.azimuths_deg)
    return {
        "blank white": torch.ones(views, 3, size, size),
        "prompt copied": prompt_copied(case, size, views),
        "ellipsoid": orbit.on_white(ellipsoid(case.object), size),
    }


def unseen_toys(
    weights: str, split: str, first_seed: int, count: int, kinds: Sequence[str] = ()
) -> dict[str, Any]:
    """How `held_out_cases` is asked for toys that a model was not trained on.

    Args:
        weights: the model; only one in a folder here has a record.
        split: "heldout": toys that training never made; "combinations": those of them whose kind, body colour and
            accessory it never saw together; "unseen-kinds": kinds that the model was never trained on; "train": toys as
            training makes them, of seeds that it did not get to.
        first_seed: number of the first toy.
        count: of toys.
        kinds: the wanted ones; none for what `held_out_cases` takes by itself, or for all unseen ones.

    Raises:
        ValueError: toys of these seeds or kinds were trained on, or what was is not known.
    """
    here = checkpoints.local_path(weights) is not None
    trained_on = checkpoints.part_config(weights, "unet").get("trained_on", ()) if here else ()
    stream = "train" if split == "train" else "heldout"
    check_unseen(trained_on, stream, first_seed, count)
    return {
        "split": stream,
        "combinations": "heldout" if split == "combinations" else "any",
        "kinds": unseen_kinds(trained_on, kinds) if split == "unseen-kinds" else tuple(kinds) or None,
    }


def unseen_kinds(trained_on: TrainedOn, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Kinds of toys that are new to a network: the wanted ones, or all.

    Raises:
        ValueError: a wanted kind was trained on, no kind is left, or nothing is known of what was trained on.
    """
    toys = [entry for entry in trained_on if entry["data"] == "toybox"]
    if not toys:
        raise ValueError(
            "these weights do not say which toys they were trained on (trained_on in unet/config.json), so which kinds are new "
            "to them is not known; name kinds with --kinds and leave --split at heldout"
        )
    seen = {kind for entry in toys for kind in entry["kinds"]}
    new = tuple(kind for kind in KINDS if kind not in seen)
    known = [kind for kind in wanted if kind in seen]
    if known or not new:
        raise ValueError(
            f"{', '.join(known) or 'every kind of toy'} was trained on; new to these weights: {', '.join(new) or 'none'}"
        )
    return tuple(wanted) or new


def check_unseen(trained_on: TrainedOn, split: str, first_seed: int, count: int) -> None:
    """Raise ValueError if toys of a split with these seeds, of whichever kind, were trained on."""
    ranges = [
        (entry["first_seed"], entry["first_seed"] + entry["objects"])
        for entry in trained_on
        if entry["data"] == "toybox" and entry["split"] == split
    ]
    for first, end in ranges:
        if first_seed < end and first < first_seed + count:
            raise ValueError(
                f"seeds {first_seed} to {first_seed + count - 1} of the {split} split are asked for, but these weights were "
                f"trained on {first} to {end - 1}; choose --seed {max(end for _, end in ranges)} or above, or --split heldout"
            )
