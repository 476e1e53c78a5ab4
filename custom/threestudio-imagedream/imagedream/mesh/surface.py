"""A density grid -> a clean, light, closed surface; and manifold3d's verdict on it."""

from dataclasses import dataclass

import fast_simplification
import manifold3d
import numpy as np
import trimesh
from skimage.measure import marching_cubes
from torch.nn import functional

from imagedream.mesh.field import DensityGrid


class EmptyFieldError(ValueError):
    """The field holds nothing that could be seen, so there is no surface to export."""


@dataclass(frozen=True)
class Solidity:
    """What manifold3d says of a mesh: whether it is the boundary of a solid, as printers and physics engines need."""

    watertight: bool
    verdict: str
    """manifold3d's status: NoError, NotManifold, …"""
    pieces: int
    tunnels: int
    """Holes one can look through (the genus of all pieces together); 0 where not watertight."""
    volume: float
    """In cubic world units; 0 where not watertight."""


def close_gaps(grid: DensityGrid, cells: int = 1) -> DensityGrid:
    """Fill pits, cracks and tunnels that are at most 2 · `cells` cells wide; everything else stays as it is.

    A grey-scale closing: the largest density within `cells` of each sample, then the smallest of those.
    """
    if cells == 0:
        return grid
    side = 2 * cells + 1
    # air all around, so that the closing does not see the end of the grid
    density = functional.pad(grid.density, (cells,) * 6)[None, None]
    widened = functional.max_pool3d(density, side, stride=1, padding=cells)
    closed = -functional.max_pool3d(-widened, side, stride=1, padding=cells)[0, 0]
    inner = slice(cells, -cells)
    return DensityGrid(closed[inner, inner, inner].contiguous(), grid.lower, grid.spacing)


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


def _solid(mesh: trimesh.Trimesh) -> manifold3d.Manifold:
    arrays = manifold3d.Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    # corners that a texture seam has split are one point of the solid
    arrays.merge()
    return manifold3d.Manifold(arrays)


def check_solid(mesh: trimesh.Trimesh) -> Solidity:
    """Let manifold3d judge whether a mesh is watertight; corners at the same place count as one."""
    solid = _solid(mesh)
    verdict = str(solid.status()).rpartition(".")[2]
    if verdict != "NoError" or solid.is_empty():
        labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
        return Solidity(False, verdict, int(labels.max()) + 1, 0, 0.0)
    pieces = solid.decompose()
    return Solidity(True, verdict, len(pieces), sum(piece.genus() for piece in pieces), solid.volume())


def _simplify(mesh: trimesh.Trimesh, target_faces: int) -> trimesh.Trimesh:
    # manifold keeps a closed surface closed, but takes a tolerance and not a number: search for it, up to
    # 1/256 of the size, as large tolerances eat whole parts
    solid = _solid(mesh)
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
