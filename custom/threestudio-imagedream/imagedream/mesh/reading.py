"""Mesh files in and out of this project's world: +z up, front +x, in the unit cube.

glTF is +y up with the front at +z, ours is +z up with the front at +x (`imagedream.cameras`), so a world point
(x, y, z) is written as (y, z, x). The change of axes lives in this file only.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import trimesh
from jaxtyping import Float
from torch import Tensor
from trimesh.resolvers import FilePathResolver

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""File types that `load_mesh` reads."""

MAX_BYTES = 2 * 2**30
"""Largest mesh file that is read."""

MAX_ELEMENTS = 100_000_000
"""Most vertices or indices that one part of a mesh file may have."""

Y_UP_SUFFIXES = (".glb", ".gltf", ".obj")
"""File types whose axes are y up, front +z: glTF by its specification, OBJ by what its readers agree on."""

Up = Literal["auto", "x", "y", "z"]
"""Which of a file's own axes points up; `auto` goes by the file's type."""

Front = Literal["auto", "+x", "-x", "+y", "-y", "+z", "-z"]
"""The direction, in a file's own axes, that the object's front faces; `auto` is `DEFAULT_FRONT`."""

DEFAULT_FRONT = {"x": "+y", "y": "+z", "z": "+x"}
"""The front that goes with each up axis: glTF's +z for y up, this project's +x for z up."""

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


@dataclass(frozen=True)
class FileAxes:
    """How an object lies in the axes of its file."""

    up: str
    """x, y or z."""
    front: str
    """+x, -x, …: a horizontal direction."""

    def __post_init__(self):
        if self.up not in DEFAULT_FRONT:
            raise ValueError(f"up is {self.up!r}, must be one of {', '.join(DEFAULT_FRONT)}")
        horizontal = [name for name in get_args(Front)[1:] if name[1] != self.up]
        if self.front not in horizontal:
            raise ValueError(
                f"front is {self.front!r} with up {self.up}, must be one of {', '.join(horizontal)}"
            )

    @staticmethod
    def of(path: str | Path, up: Up = "auto", front: Front = "auto") -> "FileAxes":
        """The given axes; where they are `auto`, those that the file's type stands for."""
        if up == "auto":
            up = "y" if Path(path).suffix.lower() in Y_UP_SUFFIXES else "z"
        return FileAxes(up, DEFAULT_FRONT.get(up, "") if front == "auto" else front)

    def rotation(self) -> Float[np.ndarray, "3 3"]:
        """Matrix from file axes to world axes: its rows are the file's directions of front, left and up."""
        front, up = np.zeros(3), np.zeros(3)
        front["xyz".index(self.front[1])] = 1 if self.front[0] == "+" else -1
        up["xyz".index(self.up)] = 1
        return np.stack([front, np.cross(up, front), up])


def load_parts(path: str | Path, axes: FileAxes | None = None) -> list[trimesh.Trimesh]:
    """Read a mesh file into world axes, each part with its own material; size and place are kept.

    A scene's transforms are applied. What the renderer shows best is these parts: nothing is packed or resampled.

    Args:
        path: GLB, glTF, OBJ, PLY or STL file.
        axes: how the object lies in the file; None goes by the file's type.

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
    check_file_size(path)
    try:
        # merging vertices would mix their colours; files that it names are looked for in its own folder only
        scene = trimesh.load_scene(path, process=False, resolver=FilePathResolver(path))
        dumped = scene.dump()
    except Exception as error:  # trimesh's readers raise whatever they stumble over
        raise MeshError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as {suffix[1:].upper()}: {error}"
        ) from error
    parts = [part for part in dumped if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise MeshError(
            f"{path} holds no triangles ({len(scene.geometry)} geometries), at least one is needed"
        )
    matrix = np.eye(4)
    matrix[:3, :3] = (axes or FileAxes.of(path)).rotation()
    for part in parts:
        part.apply_transform(matrix)
    check_parts(parts, str(path))
    return parts


def check_file_size(path: Path) -> None:
    """Raise MeshError for a file that is larger than anybody would render, or whose numbers say that it will be.

    A few bytes of glTF can claim accessors of any length, which would be filled with zeros.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise MeshError(f"{path} has {size:,} bytes, the limit is {MAX_BYTES:,}")
    if path.suffix.lower() in (".glb", ".gltf"):
        try:
            claimed = max((int(one["count"]) for one in gltf_json(path).get("accessors", ())), default=0)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
            claimed = 0  # the loader will say what is wrong
        if claimed > MAX_ELEMENTS:
            raise MeshError(f"{path} claims {claimed:,} vertices and indices, the limit is {MAX_ELEMENTS:,}")


def gltf_json(path: str | Path) -> dict[str, Any]:
    """The tree of a glTF or GLB file: scenes, meshes, materials, without the numbers and pictures.

    Raises:
        OSError: there is no such file.
        MeshError: it is no glTF.
    """
    with open(path, "rb") as file:
        head = file.read(20)  # of a GLB: magic, version, length, length of the tree, "JSON"
        if head[:4] == b"glTF" and head[16:] == b"JSON":
            text = file.read(int.from_bytes(head[12:16], "little"))
        else:
            text = head + file.read()
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MeshError(f"{path} is no glTF file: {error}") from error
    if not isinstance(tree, dict):
        raise MeshError(f"{path} is no glTF file: it holds a {type(tree).__name__}, must be an object")
    return tree


def load_mesh(path: str | Path, axes: FileAxes | None = None) -> trimesh.Trimesh:
    """`load_parts` as one mesh, for what needs one; its size and place are kept.

    A single material keeps its texture; several materials become one packed texture or, where a part has none,
    vertex colours.
    """
    parts = load_parts(path, axes)
    textured = [isinstance(part.visual, trimesh.visual.TextureVisuals) for part in parts]
    if any(textured) and not all(textured):
        for part in parts:
            if isinstance(part.visual, trimesh.visual.TextureVisuals):
                part.visual = part.visual.to_color()
    return parts[0] if len(parts) == 1 else trimesh.util.concatenate(parts)


def check_parts(parts: Sequence[trimesh.Trimesh], name: str = "mesh") -> None:
    """Raise MeshError unless the parts have faces, finite coordinates and, together, some extent."""
    vertices = sum(len(part.vertices) for part in parts)
    if not sum(len(part.faces) for part in parts):
        raise MeshError(f"{name} has no faces ({vertices} vertices), at least one is needed")
    broken = sum(int((~np.isfinite(part.vertices)).any(axis=1).sum()) for part in parts)
    if broken:
        raise MeshError(f"{name} has {broken} of {vertices} vertices with NaN or infinite coordinates")
    for part in parts:
        if len(part.faces) and not 0 <= part.faces.min() <= part.faces.max() < len(part.vertices):
            raise MeshError(
                f"{name} has a face with vertex {part.faces.max()}, there are only {len(part.vertices)} vertices"
            )
    low, high = bounds(parts)
    if not (high - low).max() > 0:
        raise MeshError(f"all of {name} lies in one point, its longest side must be larger than 0")


def bounds(parts: Sequence[trimesh.Trimesh]) -> Float[np.ndarray, "2 3"]:
    """Lowest and highest corner of the box around the faces of all parts."""
    corners = np.concatenate([part.bounds for part in parts if len(part.faces)])
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def normalise_parts(parts: Sequence[trimesh.Trimesh]) -> list[trimesh.Trimesh]:
    """Copies with their common bounding box centred at the origin and its longest side 1.

    Raises:
        MeshError: the parts are empty, broken, or a single point.
    """
    check_parts(parts)
    low, high = bounds(parts)
    copies = [part.copy() for part in parts if len(part.faces)]
    for copy in copies:
        copy.apply_translation(-(low + high) / 2)
        copy.apply_scale(1.0 / float((high - low).max()))
    return copies
