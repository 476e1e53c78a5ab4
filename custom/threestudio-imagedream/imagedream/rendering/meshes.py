"""Mesh files in and out of this project's world: one mesh, +z up, front +x, in the unit cube.

glTF is +y up with the front at +z, ours is +z up with the front at +x (`imagedream.cameras`), so a world point
(x, y, z) is written as (y, z, x). The change of axes lives in this file only.
"""

from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float
from torch import Tensor

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""File types that `load_mesh` reads."""

Y_UP_SUFFIXES = (".glb", ".gltf", ".obj")
"""File types whose axes are y up, front +z: glTF by its specification, OBJ by what its readers agree on."""

Points = Float[np.ndarray, "*batch 3"] | Float[Tensor, "*batch 3"]


class MeshError(ValueError):
    """A file or mesh from which nothing can be rendered."""


def to_gltf_axes(vertices: Points) -> Points:
    """World axes (+z up, front +x) to glTF axes (+y up, front +z), a rotation.

    >>> to_gltf_axes(np.array([1.0, 2.0, 3.0])).tolist()
    [2.0, 3.0, 1.0]
    """
    return vertices[..., [1, 2, 0]]


def from_gltf_axes(vertices: Points) -> Points:
    """From glTF axes (+y up, front +z) to world axes (+z up, front +x), the inverse of `to_gltf_axes`."""
    return vertices[..., [2, 0, 1]]


def load_mesh(path: str | Path) -> trimesh.Trimesh:
    """Read a mesh file into one mesh in world axes; its size and place are kept (see `normalise`).

    A scene's transforms are applied. A single material keeps its texture; several materials become one packed
    texture or, where a part has none, vertex colours.

    Args:
        path: GLB, glTF, OBJ (y up, front +z), PLY or STL (z up, front +x) file.

    Raises:
        FileNotFoundError: there is no such file.
        MeshError: not a mesh file, nothing in it, or coordinates that are not finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"mesh file {path} does not exist")
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise MeshError(
            f"{path} ends with {suffix!r}, a mesh file ends with one of {', '.join(MESH_SUFFIXES)}"
        )
    try:
        scene = trimesh.load_scene(path)
    except Exception as error:  # trimesh's readers raise whatever they stumble over
        raise MeshError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as {suffix[1:].upper()}: {error}"
        ) from error
    mesh = _flatten(scene, path)
    if suffix in Y_UP_SUFFIXES:
        matrix = np.eye(4)
        matrix[:3, :3] = from_gltf_axes(np.eye(3)).T
        mesh.apply_transform(matrix)
    check_mesh(mesh, str(path))
    return mesh


def _flatten(scene: trimesh.Scene, path: Path) -> trimesh.Trimesh:
    parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise MeshError(
            f"{path} holds no triangles ({len(scene.geometry)} geometries), at least one is needed"
        )
    textured = [isinstance(part.visual, trimesh.visual.TextureVisuals) for part in parts]
    if any(textured) and not all(textured):
        for part in parts:
            if isinstance(part.visual, trimesh.visual.TextureVisuals):
                part.visual = part.visual.to_color()
    return parts[0] if len(parts) == 1 else trimesh.util.concatenate(parts)


def check_mesh(mesh: trimesh.Trimesh, name: str = "mesh") -> None:
    """Raise MeshError unless the mesh has faces, finite coordinates and some extent; `name` opens the message."""
    if len(mesh.faces) == 0:
        raise MeshError(f"{name} has no faces ({len(mesh.vertices)} vertices), at least one is needed")
    broken = int((~np.isfinite(mesh.vertices)).any(axis=1).sum())
    if broken:
        raise MeshError(
            f"{name} has {broken} of {len(mesh.vertices)} vertices with NaN or infinite coordinates"
        )
    if not mesh.extents.max() > 0:
        raise MeshError(f"all of {name} lies in one point, its longest side must be larger than 0")


def normalise(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy with its bounding box centred at the origin and the longest side 1.

    Raises:
        MeshError: the mesh is empty, broken, or a single point.
    """
    check_mesh(mesh)
    mesh = mesh.copy()
    low, high = mesh.bounds
    mesh.apply_translation(-(low + high) / 2)
    mesh.apply_scale(1.0 / float((high - low).max()))
    return mesh
