"""The whole way from a field to a textured mesh."""

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import PIL.Image
import torch
import trimesh
from scipy.spatial import cKDTree

from imagedream.mesh.bake import bake_colours, inpaint, query_colours
from imagedream.mesh.check import FieldViews
from imagedream.mesh.field import (
    ColourFunction,
    DensityFunction,
    render_field,
    render_surface,
    spread_views,
    visible_density,
)
from imagedream.mesh.isosurface import LevelChoice, choose_level, level_thumbnails, sample_density
from imagedream.mesh.normals import normal_map
from imagedream.mesh.surface import clean_surface, close_gaps, extract_surface
from imagedream.mesh.texture import Texels, UnwrappedMesh, texels, unwrap
from imagedream.mesh.writing import TexturedMesh


@dataclass(frozen=True)
class MeshSettings:
    """How a field is meshed and textured."""

    resolution: int = 128
    """Density samples along the longest side of the object's box."""
    radius: float = 1.0
    """Half side of the cube around the origin in which the field lives, in world units."""
    level: float | None = None
    """Isosurface density; None lets `choose_level` find it."""
    target_faces: int = 10000
    """Faces at most after simplification, as the texture carries the detail; 0 keeps all of them."""
    min_piece: float = 0.02
    """Separate pieces with less than this fraction of the largest one's area are dropped."""
    close_holes: int = 1
    """Pits and tunnels up to twice this many density samples wide are filled; 0 keeps them."""
    smoothing: int = 5
    """Taubin smoothing passes before simplification."""
    texture_size: int = 1024
    """Side of the square textures in texels."""
    bake_views: int = 24
    """Views all around from which the texture is taken."""
    normal_map: bool = True
    """Keep the fine shape of the field in a normal map."""

    def __post_init__(self) -> None:
        limits = {"resolution": (8, 512), "texture_size": (16, 8192), "bake_views": (4, 256)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, must lie between {low} and {high}")
        if self.radius <= 0 or (self.level is not None and self.level <= 0):
            raise ValueError(f"radius ({self.radius}) and level ({self.level}) must be positive")
        if self.target_faces and self.target_faces < 4:
            raise ValueError(f"target_faces is {self.target_faces}, must be 0 (keep all) or at least 4")
        if not 0 <= self.min_piece <= 1 or self.smoothing < 0:
            raise ValueError(
                f"min_piece is {self.min_piece}, must lie in [0, 1]; smoothing is {self.smoothing}, must be 0 or more"
            )
        if not 0 <= self.close_holes <= 8:
            raise ValueError(f"close_holes is {self.close_holes}, must lie between 0 and 8 density samples")


@dataclass(frozen=True)
class MeshStatistics:
    """What came out, in numbers."""

    level: float | None
    """Density of the isosurface; None for a field that has a surface of its own."""
    target_faces: int
    faces: int
    vertices: int
    pieces_removed: int
    """Floating pieces and cavities dropped inside the object's box."""
    texture_size: int
    inpainted: float
    """Fraction of the texels that no view sees."""
    seconds: float


@dataclass(frozen=True)
class MeshedField:
    """A textured mesh, with what is needed to judge it."""

    model: TexturedMesh
    statistics: MeshStatistics
    views: FieldViews
    choice: LevelChoice | None
    """How the isosurface level was found, where one was looked for."""
    thumbnails: PIL.Image.Image | None
    """The chosen level and its runners-up."""


def mesh_field(
    density_fn: DensityFunction,
    colour_fn: ColourFunction,
    settings: MeshSettings | None = None,
    device: torch.device | str = "cpu",
) -> MeshedField:
    """Turn a density and colour field into a textured mesh.

    Args:
        density_fn: world points -> density per unit length.
        colour_fn: world points -> sRGB colour in [0, 1].
        settings: resolution, level, faces, texture; None for the defaults.
        device: where the two functions want their points.

    Raises:
        EmptyFieldError: there is nothing to see in the field.
    """
    settings = settings or MeshSettings()
    start = time.perf_counter()
    grid = sample_density(
        density_fn, settings.resolution, settings.radius, settings.level, settings.min_piece, device
    )
    half_extent = float(torch.stack([grid.lower, grid.upper]).abs().amax(0).norm())
    view_fn = partial(render_field, grid, colour_fn, device=device)
    views = FieldViews.of(view_fn, half_extent)
    choice = thumbnails = None
    if settings.level is None:
        poses, fovs, opacity = (
            values[::2] for values in (views.camera_to_world, views.fov_y_deg, views.rgba)
        )
        choice = choose_level(
            grid, opacity[:, 3], poses, fovs, visible_density(settings.radius), settings.min_piece
        )
        thumbnails = level_thumbnails(grid, choice, settings.min_piece)
    level = settings.level if choice is None else choice.level
    surface, removed = clean_surface(
        extract_surface(close_gaps(grid, settings.close_holes), level),
        settings.min_piece,
        settings.smoothing,
        settings.target_faces,
    )
    mesh = unwrap(surface, settings.texture_size)
    places = texels(mesh, settings.texture_size)
    # pixels as large as the grid's cells: smaller ones would show nothing new
    frame = 2 * half_extent / np.cos(np.deg2rad(20))
    size = int(np.clip(frame / grid.spacing, 64, 512))
    poses, fovs = spread_views(half_extent, settings.bake_views, fov_y_deg=40.0)
    colours, seen = bake_colours(places, surface, view_fn, poses, fovs, size)
    model = _textured(
        mesh, places, inpaint(places, colours, seen), grid.normals if settings.normal_map else None
    )
    unseen = 1 - float(seen.float().mean())
    statistics = _statistics(model, settings, level, removed, unseen, time.perf_counter() - start)
    return MeshedField(model, statistics, views, choice, thumbnails)


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
    half_extent = float(np.linalg.norm(np.abs(light.bounds).max(0)))
    views = FieldViews.of(partial(render_surface, surface, colour_fn, device=device), half_extent)
    mesh = unwrap(light, settings.texture_size)
    places = texels(mesh, settings.texture_size)
    nearest = cKDTree(surface.vertices)

    def normals(points: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(surface.vertex_normals[nearest.query(points.numpy())[1]]).float()

    model = _textured(
        mesh, places, query_colours(places, colour_fn, device), normals if settings.normal_map else None
    )
    statistics = _statistics(model, settings, None, removed, 0.0, time.perf_counter() - start)
    return MeshedField(model, statistics, views, None, None)


def _textured(mesh: UnwrappedMesh, places: Texels, colours: torch.Tensor, normals_fn) -> TexturedMesh:
    bumps = None
    if normals_fn is not None:
        bumps = places.picture(normal_map(mesh, places, normals_fn(places.positions)))
    return TexturedMesh(mesh, places.picture(colours), bumps)


def _statistics(
    model: TexturedMesh,
    settings: MeshSettings,
    level: float | None,
    removed: int,
    inpainted: float,
    seconds: float,
) -> MeshStatistics:
    return MeshStatistics(
        level=level,
        target_faces=settings.target_faces,
        faces=len(model.mesh.faces),
        vertices=len(model.mesh.uncut()[0]),
        pieces_removed=removed,
        texture_size=settings.texture_size,
        inpainted=inpainted,
        seconds=seconds,
    )
