"""What is rendered of one object: rings of views and prompt views, drawn from ranges and a seed."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Interval, MultipleOf
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from imagedream import cameras
from imagedream.mesh.raycast import Light, Raycaster
from imagedream.runs.files import atomic_folder
from imagedream.runs.ranges import (
    AscendingPair,
    Count,
    CountOrZero,
    ElevationDeg,
    FieldOfViewDeg,
    Length,
    OneOf,
    check_ranges,
)
from imagedream.toybox import make_toy
from imagedream.workshop.mesh_files.reading import FileAxes, Front, Up, load_parts, normalise_parts
from imagedream.workshop.rendering.captioned_files import TOYBOX, Item
from imagedream.workshop.rendering.samples import (
    CAMERAS,
    CAPTION,
    Files,
    Picture,
    Sample,
    encode_png,
    write_folder,
)

logger = logging.getLogger(__name__)

PROMPT_SCALE = 2
"""Side of a prompt view over that of a view: preparing a prompt cuts the object out and enlarges it."""


Views = Annotated[int, Ge(4), MultipleOf(4)]
Elevations = Annotated[AscendingPair, Interval(gt=-90, lt=90)]
FieldsOfView = Annotated[AscendingPair, Interval(gt=0, lt=180)]
Lengths = Annotated[AscendingPair, Interval(gt=0, le=10**4)]


@dataclass(frozen=True)
class Ring:
    """Cameras evenly spread on a circle around the object, the first in front of it."""

    views: Views = 32
    """So that front, left, back and right are among them."""
    elevation_deg: ElevationDeg = 10.0
    fov_y_deg: FieldOfViewDeg = 47.5
    relative_distance: Length = 0.73
    """Half the frame's height at the origin, in world units; the object's longest side is 1."""

    def __post_init__(self):
        check_ranges(self)

    @property
    def azimuths_deg(self) -> Float[Tensor, " view"]:
        """Angles of the cameras in degrees, from 0."""
        return cameras.orthogonal_azimuths(0.0, self.views)

    @property
    def fovs_y_deg(self) -> Float[Tensor, " view"]:
        """The field of view, once for each camera."""
        return torch.full((self.views,), self.fov_y_deg)

    @property
    def camera_to_world(self) -> Float[Tensor, "view 4 4"]:
        """The cameras' matrices."""
        distance = cameras.framing_distance(self.relative_distance, self.fovs_y_deg)
        return cameras.look_at_origin(
            torch.full((self.views,), self.elevation_deg), self.azimuths_deg, distance
        )


SINGLE_MESH: dict[str, Any] = {
    "rings": 1,
    "elevation_deg": (10.0, 10.0),
    "fov_y_deg": (47.5, 47.5),
    "relative_distance": (0.73, 0.73),
    "prompts": 0,
    "lighting": "fixed",
}
"""How a single mesh is rendered into a folder: for looking at, the whole object in the frame."""


@dataclass(frozen=True)
class RenderConfig:
    """How every object of a data set is rendered; the defaults are MVDream's, which ImageDream takes over (paper §4).

    Ranges are uniform. MVDream's distance of 0.5 · focal length · U[0.9, 1.1] is a relative distance of 0.45 to 0.55:
    the frame is about as wide as the unit cube, so that the frame's edge cuts through many objects.
    """

    size: Annotated[int, Interval(ge=8, le=2**14)] = 256
    """Side of the views in pixels; prompt views are twice as large."""
    views: Views = 32
    """Views in a ring."""
    rings: Count = 2
    """Rings of an object, each with its own elevation, field of view, distance and light."""
    elevation_deg: Elevations = (0.0, 30.0)
    """Of a ring."""
    fov_y_deg: FieldsOfView = (15.0, 60.0)
    """Of a ring."""
    relative_distance: Lengths = (0.45, 0.55)
    """Of a ring: half the frame's height at the origin, in world units; the object's longest side is 1."""
    prompts: CountOrZero = 4
    """Prompt views of a ring."""
    prompt_azimuth_deg: AscendingPair = (-90.0, 90.0)
    """Of a prompt view: the front half circle (paper §4)."""
    prompt_elevation_deg: Elevations = (-5.0, 40.0)
    """Of a prompt view."""
    prompt_fov_y_deg: FieldsOfView = (15.0, 60.0)
    """Of a prompt view."""
    prompt_relative_distance: Lengths = (0.7, 0.9)
    """Of a prompt view: far enough that the frame cuts nothing off."""
    lighting: Annotated[str, OneOf("random", "prompts", "fixed", "none")] = "random"
    """One random light a ring and one a prompt view; a random one for each prompt view alone, as of the toys; the same for
    all; or plain colours."""
    supersample: Count = 2
    """Samples along each side of a pixel."""
    up: Up = "auto"
    """Which of a file's axes is up; `auto` goes by its type: y for glTF and OBJ, z for PLY and STL."""
    front: Front = "auto"
    """Which direction of a file's axes the front faces; `auto`: +z for y up, +x for z up."""
    seed: int = 0
    """Of all draws; an object's depend on this and its key alone."""

    def __post_init__(self):
        check_ranges(self)
        if self.up != "auto" and self.front != "auto":
            FileAxes(self.up, self.front)

    def draw_ring(self, generator: torch.Generator) -> Ring:
        """A ring within the ranges."""
        return Ring(
            self.views,
            _uniform(self.elevation_deg, generator),
            _uniform(self.fov_y_deg, generator),
            _uniform(self.relative_distance, generator),
        )

    def draw_light(self, generator: torch.Generator, prompt: bool = False) -> Light | None:
        """A light, or None for plain colours."""
        if self.lighting == "random" or (prompt and self.lighting == "prompts"):
            return Light.random(generator)
        return None if self.lighting == "none" else Light()


def _uniform(low_high: tuple[float, float], generator: torch.Generator) -> float:
    low, high = low_high
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _photographed(
    raycaster: Raycaster,
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    size: int,
    light: Light | None,
    supersample: int,
) -> UInt8[np.ndarray, "view {size} {size} 4"]:
    """RGBA pictures with straight alpha."""
    rgba = raycaster.render(camera_to_world, fov_y_deg, size, light, supersample).rgba
    return (rgba.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()


def open_object(item: Item, config: RenderConfig) -> tuple[Raycaster, dict[str, Any]]:
    """Load an object and decide which way it faces.

    Returns:
        The object in the unit cube and world axes, and what a `Sample` says about it: `caption`, `up`, `front`, `front_from`, ….
    """
    facts: dict[str, Any] = {"object": item.key, "source": item.source, "renderer": "raycast"}
    facts |= {"caption": item.caption or "", "caption_from": item.caption_from}
    if item.source.startswith(TOYBOX):
        toy = make_toy(int(item.source.removeprefix(TOYBOX)))
        axes, front_from, parts = FileAxes("z", "+x"), "toybox", [toy.mesh]
        if item.caption is None:
            facts |= {"caption": toy.caption, "caption_from": "toybox"}
    else:
        axes = FileAxes.of(item.source, config.up, config.front)
        front_from = "file type" if config.front == "auto" else "option"
        facts["warnings"] = []
        parts = normalise_parts(load_parts(item.source, axes, facts["warnings"].append))
    facts |= {"up": axes.up, "front": axes.front, "front_from": front_from}
    return Raycaster(parts), facts


def object_samples(item: Item, config: RenderConfig) -> Iterator[tuple[Sample, Files]]:
    """Render an object: one sample a ring.

    Raises:
        FileNotFoundError: there is no such mesh file.
        imagedream.mesh.raycast.MeshError: nothing in the file can be rendered.
    """
    digest = hashlib.sha256(f"{config.seed}/{item.key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    raycaster, facts = open_object(item, config)
    for index in range(config.rings):
        ring, light = config.draw_ring(generator), config.draw_light(generator)
        cameras_of_ring = ring.camera_to_world, ring.fovs_y_deg
        pixels = _photographed(raycaster, *cameras_of_ring, config.size, light, config.supersample)
        files: Files = {}
        cut = int(_touches_edge(pixels[..., 3]).sum())
        views = []
        for view, azimuth_deg in enumerate(ring.azimuths_deg.tolist()):
            name = f"view_{view:03d}.png"
            files[name] = encode_png(pixels[view])
            pose = ring.camera_to_world[view]
            views.append(_picture(name, azimuth_deg, ring.elevation_deg, ring.fov_y_deg, pose, light))
        prompts = []
        for prompt in range(config.prompts):
            name = f"prompt_{prompt:03d}.png"
            pixels, picture = _photograph_prompt(raycaster, name, config, generator)
            files[name] = encode_png(pixels)
            prompts.append(picture)
        sample = Sample(size=config.size, views=views, prompts=prompts, ring=index, cut_views=cut, **facts)
        caption = (sample.caption + "\n").encode()
        yield sample, {CAMERAS: sample.to_json(), CAPTION: caption, **files}


def _touches_edge(alpha: UInt8[np.ndarray, "view height width"]) -> Bool[np.ndarray, " view"]:
    edges = (alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1])
    return np.any([edge.any(axis=1) for edge in edges], axis=0)


def _photograph_prompt(
    raycaster: Raycaster, name: str, config: RenderConfig, generator: torch.Generator
) -> tuple[UInt8[np.ndarray, "height width 4"], Picture]:
    azimuth_deg = _uniform(config.prompt_azimuth_deg, generator)
    elevation_deg = _uniform(config.prompt_elevation_deg, generator)
    fov_y_deg = _uniform(config.prompt_fov_y_deg, generator)
    relative_distance = _uniform(config.prompt_relative_distance, generator)
    light = config.draw_light(generator, prompt=True)
    fov = torch.tensor([fov_y_deg])
    pose = cameras.look_at_origin(
        torch.tensor([elevation_deg]),
        torch.tensor([azimuth_deg]),
        cameras.framing_distance(relative_distance, fov),
    )
    # twice as large and without supersampling: preparing a prompt filters it anyway
    pixels = _photographed(raycaster, pose, fov, config.size * PROMPT_SCALE, light, supersample=1)[0]
    return pixels, _picture(name, azimuth_deg, elevation_deg, fov_y_deg, pose[0], light)


def _picture(
    file: str,
    azimuth_deg: float,
    elevation_deg: float,
    fov_y_deg: float,
    pose: Float[Tensor, "4 4"],
    light: Light | None,
) -> Picture:
    rows = [[round(number, 7) + 0.0 for number in row] for row in pose.tolist()]
    lamp = None if light is None else asdict(light)
    return Picture(file, azimuth_deg, elevation_deg, fov_y_deg, rows, lamp)


def render_mesh_file(item: Item, out: str | Path, config: RenderConfig) -> Path:
    """Render a mesh file into a folder with one sample; the folder appears complete or not at all.

    Args:
        item: what to render.
        out: folder to make; it must not exist or be empty.
        config: with a single ring.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such mesh file.
        FileExistsError: the folder holds something already.
        imagedream.mesh.raycast.MeshError: nothing in the file can be rendered.
    """
    if config.rings != 1:
        raise ValueError(f"rings is {config.rings}: a folder of views holds 1, shards hold any number")
    out = Path(out)
    with atomic_folder(out) as folder:
        for sample, files in object_samples(item, config):
            write_folder(files, folder)
            for warning in sample.warnings:
                logger.warning("%s", warning)
    logger.info("rendered %s as %d views into %s", item.source, config.views, out)
    return out
