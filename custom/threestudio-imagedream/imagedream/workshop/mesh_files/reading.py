"""Mesh files from anywhere into this project's world: +z up, front +x, in the unit cube."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import trimesh
from jaxtyping import Float

from imagedream.mesh.materials import Surface, Texture, guessed_range, surface_of
from imagedream.mesh.raycast import MeshError, bounds, check_parts
from imagedream.runs.user_errors import one_line
from imagedream.workshop.mesh_files.gltf import load_gltf
from imagedream.workshop.mesh_files.obj import load_obj
from imagedream.workshop.mesh_files.source import MeshSource, Warn, logger

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""File types that `load_parts` reads."""

Y_UP_SUFFIXES = (".glb", ".gltf", ".obj")
"""File types whose axes are y up, front +z: glTF by its specification, OBJ by what its readers agree on."""

Up = Literal["auto", "x", "y", "z"]
"""Which of a file's own axes points up; `auto` goes by the file's type."""

Front = Literal["auto", "+x", "-x", "+y", "-y", "+z", "-z"]
"""The direction, in a file's own axes, that the object's front faces; `auto` is `DEFAULT_FRONT`."""

DEFAULT_FRONT = {"x": "+y", "y": "+z", "z": "+x"}
"""The front that goes with each up axis: glTF's +z for y up, this project's +x for z up."""


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


def load_parts(
    path: str | Path, axes: FileAxes | None = None, warn: Warn = logger.warning
) -> list[trimesh.Trimesh]:
    """Read a mesh file into world axes, each part with its own material; size and place are kept.

    A scene's transforms are applied. What the renderer shows best is these parts: nothing is packed or resampled.

    Args:
        path: GLB, glTF, OBJ, PLY or STL file.
        axes: how the object lies in the file; None goes by the file's type.
        warn: told, a sentence each, what is not shown as the file means it: a texture that is not there, no colours at all.

    Raises:
        FileNotFoundError: there is no such file.
        MeshError: not a mesh file, compressed in a way that is not read, larger than the limits, nothing in it, or coordinates that are not finite numbers.
    """
    source = MeshSource(path, warn)
    suffix = source.path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise MeshError(
            f"{path} ends with {suffix!r}, a mesh file ends with one of {', '.join(MESH_SUFFIXES)}"
        )
    try:
        parts = [part for part in _READERS[suffix](source) if len(part.faces)]
    except MeshError as error:
        raise MeshError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    except Exception as error:  # of a damaged file, whatever readers stumble over
        raise MeshError(
            f"{path} ({source.path.stat().st_size:,} bytes) cannot be read as {suffix[1:].upper()}: "
            f"{type(error).__name__} {one_line(error)}"
        ) from error
    if not parts:
        raise MeshError(f"{path} holds no triangles, at least one is needed")
    if all(surface_of(part).plain for part in parts):
        source.warn(
            f"nothing in it says a colour, shown in {'white' if suffix.startswith('.gl') else 'grey'}"
        )
    matrix = np.eye(4)
    matrix[:3, :3] = (axes or FileAxes.of(path)).rotation()
    for part in parts:
        part.apply_transform(matrix)
    check_parts(parts, str(path))
    return parts


def _load_ply(source: MeshSource) -> list[trimesh.Trimesh]:
    with source.path.open("rb") as file:
        head = file.read(1 << 16)
        file.seek(0)
        for kind, count in re.findall(
            rb"^element (vertex|face) (\d+)", head.split(b"end_header")[0], re.MULTILINE
        ):
            source.claim(int(count) * (3 if kind == b"face" else 1))
        shape = trimesh.exchange.ply.load_ply(file, skip_materials=True)  # it would open any kind of picture
    named = re.search(rb"^comment TextureFile (.+?)\s*$", head, re.MULTILINE | re.IGNORECASE)
    part = trimesh.Trimesh(**{**shape, "process": False})
    raw, colours, texture = shape["metadata"]["_ply_raw"]["vertex"]["data"], None, None
    if shape.get("vertex_colors") is not None and len(shape["vertex_colors"]) == len(part.vertices):
        colours = guessed_range(np.column_stack([raw[name] for name in ("red", "green", "blue")]))
    if named is not None and (picture := source.picture(named[1].decode("utf-8", errors="replace"))):
        if isinstance(part.visual, trimesh.visual.TextureVisuals):
            texture = Texture(picture, np.asarray(part.visual.uv))
        else:
            source.warn("its texture has no coordinates to lie by, shown without")
    if texture is not None or colours is not None:
        part.visual = Surface(colours=colours, texture=texture, linear=False)
    return [part]


def _load_stl(source: MeshSource) -> list[trimesh.Trimesh]:
    with source.path.open("rb") as file:
        triangles = int.from_bytes(file.read(84)[80:], "little")
    if source.path.stat().st_size == 84 + 50 * triangles:  # binary
        source.claim(6 * triangles)
    return [trimesh.load_mesh(source.path, process=False)]


_READERS = {".glb": load_gltf, ".gltf": load_gltf, ".obj": load_obj, ".ply": _load_ply, ".stl": _load_stl}


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
