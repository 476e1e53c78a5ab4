"""The whole way from a field to a textured mesh."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import PIL.Image
import torch
import trimesh
from annotated_types import Interval
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from imagedream.mesh.agreement import FieldViews
from imagedream.mesh.bake import bake_colours, inpaint
from imagedream.mesh.field import (
    ColourFunction,
    DensityFunction,
    query,
    render_field,
    spread_views,
    visible_density,
)
from imagedream.mesh.isosurface import choose_level, level_thumbnails, sample_density
from imagedream.mesh.normal_map import normal_map
from imagedream.mesh.raycast import Raycaster
from imagedream.mesh.surface import clean_surface, close_gaps, extract_surface
from imagedream.mesh.texture import Texels, UnwrappedMesh, texels, unwrap
from imagedream.mesh.writing import TexturedMesh
from imagedream.pictures import premultiplied
from imagedream.runs.ranges import As, Fraction, OneOf, Positive, check_ranges


@dataclass
class MeshSettings:
    """How a field is meshed and textured: keys of `system.exporter` too, whose class extends this one (so not frozen)."""

    resolution: Annotated[int, Interval(ge=8, le=512)] = 128
    """Density samples along the longest side of the object's box."""
    isosurface_threshold: Annotated[Any, As(Positive | Annotated[str, OneOf("auto")])] = "auto"
    """Density of the surface; auto compares silhouettes with the field's rendered opacity and saves the runners-up as thumbnails."""
    target_faces: Annotated[int, Interval(ge=0, le=10**7)] = 10000
    """Faces at most after simplification, as the texture carries the detail; 0 keeps all of them."""
    min_piece: Fraction = 0.02
    """Separate pieces with less than this fraction of the largest one's area are dropped."""
    close_holes: Annotated[int, Interval(ge=0, le=8)] = 1
    """Pits and tunnels up to twice this many density samples wide are filled; 0 keeps them."""
    smoothing: Annotated[int, Interval(ge=0, le=1000)] = 5
    """Taubin smoothing passes before simplification."""
    texture_size: Annotated[int, Interval(ge=16, le=8192)] = 1024
    """Side of the square textures in texels."""
    bake_views: Annotated[int, Interval(ge=4, le=256)] = 24
    """Rendered views all around from which the texture of a density field is taken."""
    normal_map: bool = True
    """Keep the fine shape of the field in a normal map."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if 0 < self.target_faces < 4:
            raise ValueError(f"target_faces is {self.target_faces}, must be 0 (keep all) or at least 4")


@dataclass(frozen=True)
class MeshedField:
    """A textured mesh, with what is needed to judge it."""

    model: TexturedMesh
    views: FieldViews
    """Of the field."""
    settings: MeshSettings
    level: float | None
    """Density of the isosurface; None for a field that has a surface of its own."""
    pieces_removed: int
    """Floating pieces and cavities dropped inside the object's box."""
    seconds: float
    inpainted: float = 0.0
    """Fraction of the texels that no view sees."""
    tried: dict[float, float] = field(default_factory=dict)
    """Silhouette IoU by isosurface level, where one was looked for."""
    thumbnails: PIL.Image.Image | None = None
    """The chosen level and its runners-up."""
    painted: bool = False
    """The texture shows more than the field does: see `imagedream.image_prompt.picture_projection`."""


def mesh_field(
    density_fn: DensityFunction,
    colour_fn: ColourFunction,
    radius: float = 1.0,
    settings: MeshSettings | None = None,
    device: torch.device | str = "cpu",
) -> MeshedField:
    """Turn a density and colour field into a textured mesh.

    Args:
        density_fn: world points -> density per unit length.
        colour_fn: world points -> sRGB colour in [0, 1].
        radius: half side of the cube around the origin in which the field lives, in world units.
        settings: resolution, level, faces, texture; None for the defaults.
        device: where the two functions want their points.

    Raises:
        EmptyFieldError: there is nothing to see in the field.
    """
    settings = settings or MeshSettings()
    start = time.perf_counter()
    level = None if settings.isosurface_threshold == "auto" else float(settings.isosurface_threshold)
    grid = sample_density(density_fn, settings.resolution, radius, level, settings.min_piece, device)
    view_fn = partial(render_field, grid, colour_fn, device=device)
    views = FieldViews.of(view_fn, grid.half_extent)
    tried, thumbnails = {}, None
    if level is None:
        some = views.rgba[::2, 3], views.camera_to_world[::2], views.fov_y_deg[::2]
        level, tried = choose_level(grid, *some, visible_density(radius), settings.min_piece)
        thumbnails = level_thumbnails(grid, level, tried, settings.min_piece)
    surface, removed = clean_surface(
        extract_surface(close_gaps(grid, settings.close_holes), level),
        settings.min_piece,
        settings.smoothing,
        settings.target_faces,
    )
    mesh = unwrap(surface, settings.texture_size)
    places = texels(mesh, settings.texture_size)
    # pixels as large as the grid's cells: smaller ones would show nothing new
    size = int(np.clip(2 * grid.half_extent / np.cos(np.deg2rad(20)) / grid.spacing, 64, 512))
    cameras = spread_views(grid.half_extent, settings.bake_views, fov_y_deg=40.0)
    colours, seen = bake_colours(places, surface, view_fn, *cameras, size)
    model = _textured(mesh, places, inpaint(places, colours, seen), grid.normals, settings)
    seconds = time.perf_counter() - start
    unseen = 1 - float(seen.float().mean())
    return MeshedField(model, views, settings, level, removed, seconds, unseen, tried, thumbnails)


def mesh_surface(
    surface: trimesh.Trimesh,
    colour_fn: ColourFunction,
    settings: MeshSettings | None = None,
    device: torch.device | str = "cpu",
) -> MeshedField:
    """Turn the surface of a field that has one, such as a signed distance field, into a light textured mesh.

    What such a field shows is the colour at its surface, so the texture asks the field once a texel.

    Args:
        surface: in world axes, fine; wound outwards or inwards.
        colour_fn: world points -> sRGB colour in [0, 1].
        settings: faces, texture; what concerns density fields is not used. None for the defaults.
        device: where `colour_fn` wants its points.
    """
    settings = settings or MeshSettings()
    start = time.perf_counter()
    if surface.volume < 0:
        surface = trimesh.Trimesh(surface.vertices, surface.faces[:, ::-1])
    light, removed = clean_surface(surface, settings.min_piece, 0, settings.target_faces)
    view_fn = partial(render_surface, surface, colour_fn, device=device)
    views = FieldViews.of(view_fn, float(np.linalg.norm(np.abs(light.bounds).max(0))))
    mesh = unwrap(light, settings.texture_size)
    places = texels(mesh, settings.texture_size)
    colours = query(colour_fn, places.positions, device).clamp(0, 1)
    nearest = cKDTree(surface.vertices)

    def normals(points: Float[Tensor, "point 3"]) -> Float[Tensor, "point 3"]:
        return torch.from_numpy(surface.vertex_normals[nearest.query(points.numpy())[1]]).float()

    model = _textured(mesh, places, colours, normals, settings)
    return MeshedField(model, views, settings, None, removed, time.perf_counter() - start)


def render_surface(
    surface: trimesh.Trimesh,
    colour_fn: ColourFunction,
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    size: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "view 4 {size} {size}"]:
    """As `render_field`, of a field that shows its colour at a surface; four samples a pixel."""

    def colours(points: np.ndarray) -> np.ndarray:
        return query(colour_fn, torch.from_numpy(points), device).clamp(0, 1).numpy()

    rgba = Raycaster(surface, colours).render(camera_to_world, fov_y_deg, size, light=None).rgba
    return premultiplied(rgba)


def _textured(
    mesh: UnwrappedMesh,
    places: Texels,
    colours: Float[Tensor, "texel 3"],
    normals_fn: Callable[[Tensor], Tensor],
    settings: MeshSettings,
) -> TexturedMesh:
    bumps = None
    if settings.normal_map:
        bumps = places.picture(normal_map(mesh, places, normals_fn(places.positions)))
    return TexturedMesh(mesh, places.picture(colours), bumps)
