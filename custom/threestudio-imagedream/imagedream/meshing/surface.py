"""A density field -> a clean surface at the level whose silhouettes agree best with the rendered field."""

import logging
from dataclasses import dataclass

import fast_simplification
import manifold3d
import numpy as np
import torch
import trimesh
from jaxtyping import Float
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional

from imagedream.meshing.field import (
    DensityFunction,
    DensityGrid,
    render_field,
    sample_box,
    sphere_views,
    visible_density,
)
from imagedream.rendering.raycast import render

logger = logging.getLogger(__name__)


class EmptyFieldError(ValueError):
    """The field holds nothing that could be seen, so there is no surface to export."""


@dataclass(frozen=True)
class LevelChoice:
    """The isosurface level that won, with what every level that was tried scored."""

    level: float
    iou: float
    tried: dict[float, float]
    """Silhouette IoU by level."""


@torch.no_grad()
def sample_density(
    density_fn: DensityFunction,
    resolution: int,
    radius: float,
    level: float | None = None,
    min_piece: float = 0.02,
    device: torch.device | str = "cpu",
) -> DensityGrid:
    """Sample a density field on a fine grid around the object in it.

    A coarse pass over the whole cube finds the box of the object, so that the resolution is not spent on air or haze.

    Args:
        density_fn: the field.
        resolution: samples along the longest side of that box.
        radius: half side of the cube around the origin, in world units.
        level: isosurface level of the object; None estimates it with `choose_level`.
        min_piece: as in `clean_surface`; pieces far below it do not widen the box.
        device: where the field wants its points; the grid itself stays on the CPU.

    Raises:
        EmptyFieldError: no density is large enough to be seen.
        ValueError: the density is not finite.
    """
    corner = torch.full((3,), float(radius))
    coarse = sample_box(density_fn, -corner, corner, min(64, resolution), device=device)
    highest, visible = float(coarse.density.max()), visible_density(radius)
    if highest <= visible:
        raise EmptyFieldError(
            f"the field is empty: its largest density is {highest:.3g} per unit length, but nothing is visible "
            f"below {visible:.3g} (half opacity through the whole cube of half side {radius})"
        )
    if level is None:
        camera_to_world, fov_y_deg = sphere_views(radius * 3**0.5, count=4)
        opacity = render_field(coarse, None, camera_to_world, fov_y_deg, 64)[:, 3]
        level = choose_level(coarse, opacity, camera_to_world, fov_y_deg, visible, candidates=6).level
    # thin parts are fainter and more broken on the coarse grid than they are: be generous
    surface, _ = clean_surface(extract_surface(coarse, min(level, highest) / 2), min_piece / 2)
    lower, upper = torch.tensor(surface.bounds, dtype=torch.float32)
    margin = 2 * coarse.spacing
    air = functional.max_pool3d(coarse.density[None, None], 3, stride=1, padding=1)[0, 0]
    return sample_box(
        density_fn,
        (lower - margin).clamp_min(-radius),
        (upper + margin).clamp_max(radius),
        resolution,
        DensityGrid(air, coarse.lower, coarse.spacing),
        device,
    )


def extract_surface(grid: DensityGrid, level: float) -> trimesh.Trimesh:
    """The isosurface of a density grid by marching cubes: closed, faces wound outwards.

    Raises:
        EmptyFieldError: the grid has no value on one side of `level`.
    """
    low, high = float(grid.density.min()), float(grid.density.max())
    if not 0 < level < high:
        raise EmptyFieldError(
            f"no surface at level {level:.3g}: densities lie between {low:.3g} and {high:.3g}"
        )
    # a shell of air closes surfaces that leave the grid
    padded = functional.pad(grid.density, (1,) * 6).numpy()
    vertices, faces, _, _ = marching_cubes(
        padded, level, spacing=(grid.spacing,) * 3, gradient_direction="ascent", allow_degenerate=False
    )
    return trimesh.Trimesh(vertices + grid.lower.numpy() - grid.spacing, faces)


def clean_surface(
    mesh: trimesh.Trimesh, min_piece: float = 0.02, smoothing: int = 0, target_faces: int = 0
) -> tuple[trimesh.Trimesh, int]:
    """Drop floating pieces and inner cavities, smooth, simplify, close small holes.

    Args:
        mesh: a surface wound outwards.
        min_piece: pieces with less than this fraction of the largest one's area are dropped.
        smoothing: Taubin passes (no shrinkage).
        target_faces: faces wanted at most; 0 keeps all.

    Returns:
        The clean mesh and how many pieces were dropped.
    """
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    triangles = mesh.triangles
    area = np.bincount(labels, mesh.area_faces)
    volume = np.bincount(
        labels, np.einsum("fi,fi->f", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2]))
    )
    # a cavity is a closed piece wound inwards: its signed volume is negative, and nobody can see it
    kept = (area >= min_piece * area.max()) & (volume > 0)
    if not kept.any():
        kept = area == area.max()
    mesh = mesh.submesh([np.flatnonzero(kept[labels])], append=True)
    if smoothing:
        # Taubin's pair of factors: the second undoes the shrinkage of the first
        mesh = trimesh.smoothing.filter_taubin(mesh, lamb=0.5, nu=0.53, iterations=2 * smoothing)
    if 0 < target_faces < len(mesh.faces):
        mesh = _simplify(mesh, target_faces)
    if not mesh.is_watertight:
        mesh.fill_holes()
    return mesh, int((~kept).sum())


def _simplify(mesh: trimesh.Trimesh, target_faces: int) -> trimesh.Trimesh:
    # manifold keeps a closed surface closed, but takes a tolerance and not a number: search for it, up to
    # 1/256 of the size, as large tolerances eat whole parts
    solid = manifold3d.Manifold(
        manifold3d.Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    )
    exponent, step, best = np.log2(mesh.scale) - 11, 2.0, None
    largest = exponent + 3
    while step > 0.1 and exponent <= largest and not solid.is_empty():
        simple = solid.simplify(2.0**exponent)
        if 0 < simple.num_tri() <= target_faces:
            best = simple
            if simple.num_tri() > 0.9 * target_faces:
                break
        exponent += step if simple.num_tri() > target_faces else -step
        step /= 2
    if best is not None:
        arrays = best.to_mesh()
        # not merged again: touching corners of a closed surface stay apart
        return trimesh.Trimesh(arrays.vert_properties[:, :3], arrays.tri_verts, process=False)
    # few faces asked for: collapse edges until their number is reached, though that may pinch some
    simple = trimesh.Trimesh(
        *fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=target_faces)
    )
    # two faces back to back on the same corners enclose nothing
    _, group, members = np.unique(np.sort(simple.faces), axis=0, return_inverse=True, return_counts=True)
    simple.update_faces((members[group.reshape(-1)] == 1) & simple.nondegenerate_faces())
    simple.remove_unreferenced_vertices()
    return simple


def silhouette_iou(
    alpha: Float[Tensor, "view height width"], opacity: Float[Tensor, "view height width"]
) -> float:
    """Intersection over union of a mesh's silhouettes and a field's: where its rendered opacity exceeds ½.

    That outline is the opaque shape with the least squared error. A field that is never half opaque is cut at half
    of its largest opacity.
    """
    field, mesh = opacity > min(0.5, float(opacity.max()) / 2), alpha > 0.5
    return float((field & mesh).sum() / (field | mesh).sum().clamp_min(1))


def choose_level(
    grid: DensityGrid,
    opacity: Float[Tensor, "view height height"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    lowest: float,
    min_piece: float = 0.02,
    candidates: int = 7,
) -> LevelChoice:
    """Find the isosurface level whose silhouettes agree best with the field's rendered opacity.

    Logarithmically spaced levels first, then the neighbourhood of the best one at a quarter of that spacing.

    Args:
        grid: the density.
        opacity: of the field, rendered from the cameras.
        camera_to_world: OpenGL cameras.
        fov_y_deg: vertical fields of view.
        lowest: lowest level worth trying, such as `visible_density`.
        min_piece: as in `clean_surface`, so that dropped pieces count as missing.
        candidates: levels in the first pass.

    Returns:
        The best level, its IoU, and the IoU of all levels tried.
    """
    while max(grid.density.shape) > 80:
        grid = grid.halved()  # silhouettes of a few dozen pixels need no more
    highest = 0.9 * float(grid.density.max())
    lowest = min(lowest, 0.5 * highest)
    tried: dict[float, float] = {}

    def score(level: float) -> None:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece)
        silhouette = render(
            surface, camera_to_world, fov_y_deg, opacity.shape[-1], light=None, supersample=1
        ).rgba[:, 3]
        tried[level] = silhouette_iou(silhouette, opacity)

    levels = np.geomspace(lowest, highest, candidates)
    for level in levels:
        score(float(level))
    ratio = float(levels[1] / levels[0])
    best = max(tried, key=tried.__getitem__)
    for exponent in (-0.5, -0.25, 0.25, 0.5):
        if best * ratio**exponent < highest:
            score(best * ratio**exponent)
    best = max(tried, key=tried.__getitem__)
    for level in sorted(tried):
        logger.info(
            "level %8.3f: silhouette IoU %.3f%s", level, tried[level], "  <- chosen" if level == best else ""
        )
    return LevelChoice(best, tried[best], dict(sorted(tried.items())))
