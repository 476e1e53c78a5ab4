"""The whole way from a density and colour field to a textured mesh."""

import logging
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float, UInt8
from torch import Tensor

from imagedream.meshing.field import (
    ColourFunction,
    DensityFunction,
    render_field,
    sphere_views,
    visible_density,
)
from imagedream.meshing.formats import textured_trimesh
from imagedream.meshing.surface import (
    LevelChoice,
    choose_level,
    clean_surface,
    extract_surface,
    sample_density,
    silhouette_iou,
)
from imagedream.meshing.texture import UnwrappedMesh, bake_texture, unwrap
from imagedream.rendering.raycast import render

logger = logging.getLogger(__name__)
_POOR_IOU = 0.7


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
    """Faces after simplification; 0 keeps all of them."""
    min_piece: float = 0.02
    """Separate pieces with less than this fraction of the largest one's area are dropped."""
    smoothing: int = 5
    """Taubin smoothing passes before simplification."""
    texture_size: int = 1024
    """Side of the square texture in texels."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("texture_size", 16, 8192)):
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


@dataclass(frozen=True)
class MeshStatistics:
    """What came out of `mesh_field`, in numbers."""

    level: float
    iou: float
    """Silhouette IoU of the final mesh with the field's rendered opacity, see `silhouette_iou`."""
    psnr_db: float
    """Renders of the textured mesh against renders of the field, both over white."""
    vertices: int
    faces: int
    pieces_removed: int
    """Floating pieces and cavities dropped inside the object's box."""
    watertight: bool
    texture_size: int
    seconds: float


@dataclass(frozen=True)
class MeshedField:
    """A textured mesh with its statistics."""

    mesh: UnwrappedMesh
    texture: UInt8[np.ndarray, "size size 3"]
    statistics: MeshStatistics
    choice: LevelChoice


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
    camera_to_world, fov_y_deg = sphere_views(half_extent)
    field_views = render_field(grid, colour_fn, camera_to_world, fov_y_deg, 64, device=device)
    if settings.level is None:
        choice = choose_level(
            grid,
            field_views[:, 3],
            camera_to_world,
            fov_y_deg,
            visible_density(settings.radius),
            settings.min_piece,
        )
    else:
        choice = LevelChoice(settings.level, float("nan"), {})
    surface, removed = clean_surface(
        extract_surface(grid, choice.level), settings.min_piece, settings.smoothing, settings.target_faces
    )
    mesh = unwrap(surface, settings.texture_size)
    texture = bake_texture(mesh, grid, colour_fn, choice.level, settings.texture_size, device)
    iou, psnr_db = compare(textured_trimesh(mesh, texture), field_views, camera_to_world, fov_y_deg)
    statistics = MeshStatistics(
        level=choice.level,
        iou=iou,
        psnr_db=psnr_db,
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        pieces_removed=removed,
        watertight=bool(surface.is_watertight),
        texture_size=settings.texture_size,
        seconds=time.perf_counter() - start,
    )
    logger.info(
        "meshed: %s",
        ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in asdict(statistics).items()
        ),
    )
    if iou < _POOR_IOU:
        logger.warning(
            "the mesh is a poor picture of the field: silhouette IoU %.2f (good is above %.2f), PSNR %.1f dB; "
            "the field is too soft to have one surface, longer optimisation makes it firmer",
            iou,
            _POOR_IOU,
            psnr_db,
        )
    return MeshedField(mesh, texture, statistics, choice)


def compare(
    mesh: trimesh.Trimesh,
    field_views: Float[Tensor, "view 4 size size"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
) -> tuple[float, float]:
    """Silhouette IoU, and PSNR in dB over white, of an unlit mesh against premultiplied views of the field."""
    rgba = render(mesh, camera_to_world, fov_y_deg, field_views.shape[-1], light=None, supersample=2).rgba
    mesh_white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    field_white = field_views[:, :3] + 1 - field_views[:, 3:]
    error = float((mesh_white - field_white).square().mean())
    return silhouette_iou(rgba[:, 3], field_views[:, 3]), -10 * float(np.log10(max(error, 1e-10)))
