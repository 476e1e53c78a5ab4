"""Held-out toys as test cases: a prompt picture, the true views, and what answers without any model would score."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from imagedream import cameras
from imagedream.image_prompt import OBJECT_FRACTION, composite, place
from imagedream.rendering.raycast import Light, Raycaster
from imagedream.toybox import FIRST_KINDS, KINDS, Toy, make_toy

RELATIVE_DISTANCE = 0.65
FOV_Y_DEG = 47.5
LARGEST_ELEVATION_DEG = 20.0
LARGEST_PROMPT_AZIMUTH_DEG = 30.0

_WHITE = torch.ones(3)
_PROMPT_PX = 256


@dataclass(frozen=True)
class HeldOutCase:
    """A toy that training never saw, and how it is asked for."""

    toy: Toy
    prompt: Float[Tensor, "4 size size"]
    """The toy from its front side, straight alpha, placed as any picture would be."""
    prompt_azimuth_deg: float
    prompt_elevation_deg: float
    elevation_deg: float
    """The elevation that the views are asked for."""

    @property
    def label(self) -> str:
        """Kind and seed, for tables and file names."""
        return f"{self.toy.kind}-{self.toy.seed}"

    def true_views(
        self,
        size: int,
        azimuths_deg: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
        elevation_deg: float | None = None,
    ) -> Float[Tensor, "view 3 size size"]:
        """The toy itself on white, at the elevation asked for unless another is given."""
        return views_of(
            self.toy.mesh, size, azimuths_deg, self.elevation_deg if elevation_deg is None else elevation_deg
        )


def views_of(
    mesh: trimesh.Trimesh,
    size: int,
    azimuths_deg: Sequence[float],
    elevation_deg: float,
    light: Light | None = Light(),  # noqa: B008 - frozen
) -> Float[Tensor, "view 3 size size"]:
    """A mesh on white from the evaluation's cameras."""
    rgba = _render(Raycaster(mesh), size, azimuths_deg, elevation_deg, light)
    return composite(rgba, _WHITE.expand(len(rgba), 3))


def _render(
    caster: Raycaster, size: int, azimuths_deg: Sequence[float], elevation_deg: float, light: Light | None
):
    azimuths = torch.tensor(list(azimuths_deg))
    fov = torch.full_like(azimuths, FOV_Y_DEG)
    distance = cameras.framing_distance(RELATIVE_DISTANCE, fov)
    poses = cameras.look_at_origin(torch.full_like(azimuths, elevation_deg), azimuths, distance)
    return caster.render(poses, fov, size, light).rgba


def held_out_cases(
    count: int, seed: int = 0, kinds: Sequence[str] | None = None, prompt_size: int = _PROMPT_PX
) -> list[HeldOutCase]:
    """Test cases that follow from the seed, the kinds taking turns.

    Args:
        count: how many.
        seed: case i is toy number `seed + i` of the held-out split, so overlapping seeds share cases.
        kinds: names of the toybox; None for those the shipped model is trained on.
        prompt_size: side of the prompt in pixels.

    Raises:
        ValueError: a count below 1 or an unknown kind.
    """
    if count < 1:
        raise ValueError(f"count is {count}, must be at least 1")
    kinds = FIRST_KINDS if kinds is None else tuple(kinds)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(
            f"unknown kinds {', '.join(unknown) or '(none given)'}; the toybox knows {', '.join(KINDS)}"
        )
    return [
        held_out_case(number, kinds[number % len(kinds)], prompt_size) for number in range(seed, seed + count)
    ]


def held_out_case(seed: int, kind: str, prompt_size: int = _PROMPT_PX) -> HeldOutCase:
    """One test case; prompt and views have different elevations, as for a picture of which nobody knows the elevation."""
    toy = make_toy(seed, kind, split="heldout")
    draws = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    prompt_azimuth_deg = (2 * draws[0] - 1) * LARGEST_PROMPT_AZIMUTH_DEG
    prompt_elevation_deg, elevation_deg = (draw * LARGEST_ELEVATION_DEG for draw in draws[1:])
    rgba = _render(Raycaster(toy.mesh), _PROMPT_PX, [prompt_azimuth_deg], prompt_elevation_deg, Light())[0]
    prompt = place(rgba, prompt_size, OBJECT_FRACTION)
    return HeldOutCase(toy, prompt, prompt_azimuth_deg, prompt_elevation_deg, elevation_deg)


def prompt_copied(case: HeldOutCase, size: int, views: int = 4) -> Float[Tensor, "view 3 size size"]:
    """The answer that needs no model: the prompt on white, whatever the side asked for."""
    picture = composite(case.prompt, _WHITE)[None]
    resized = torch.nn.functional.interpolate(picture, (size, size), mode="bicubic", antialias=True).clamp(
        0, 1
    )
    return resized.expand(views, -1, -1, -1)


def ellipsoid(toy: Toy) -> trimesh.Trimesh:
    """A lump of the toy's true extents in its mean visible colour: what knowing only size and colour would score."""
    ring = [45.0 * step for step in range(8)]
    rgba = _render(Raycaster(toy.mesh), 32, ring, LARGEST_ELEVATION_DEG / 2, None)
    colour = (rgba[:, :3] * rgba[:, 3:]).sum(dim=(0, 2, 3)) / rgba[:, 3].sum()
    mesh = trimesh.creation.icosphere(subdivisions=3)
    mesh.apply_scale(toy.mesh.extents / mesh.extents)
    colour_8bit = [*(colour * 255).round().int().tolist(), 255]
    mesh.visual = trimesh.visual.ColorVisuals(
        mesh, face_colors=torch.tensor(colour_8bit).byte().numpy()[None].repeat(len(mesh.faces), 0)
    )
    return mesh


def trivial_answers(
    case: HeldOutCase,
    size: int,
    azimuths_deg: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
    elevation_deg: float | None = None,
) -> dict[str, Float[Tensor, "view 3 size size"]]:
    """Views by answers that use no model: blank white, the prompt copied, and the ellipsoid."""
    elevation_deg = case.elevation_deg if elevation_deg is None else elevation_deg
    return {
        "blank white": torch.ones(len(azimuths_deg), 3, size, size),
        "prompt copied": prompt_copied(case, size, len(azimuths_deg)),
        "ellipsoid": views_of(ellipsoid(case.toy), size, azimuths_deg, elevation_deg),
    }
