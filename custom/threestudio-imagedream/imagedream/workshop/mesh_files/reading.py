"""Mesh files from anywhere into this project's world: +z up, front +x, in the unit cube."""

import io
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import trimesh
from jaxtyping import Float

from imagedream.mesh.materials import PLAIN_GREY, Surface, Texture, guessed_range, surface_of
from imagedream.mesh.raycast import MeshError, bounds, check_parts
from imagedream.runs.user_errors import one_line
from imagedream.workshop.mesh_files.gltf import load_gltf
from imagedream.workshop.mesh_files.obj import load_obj
from imagedream.workshop.mesh_files.source import MeshSource, Warn, decoded, logger

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
        if not parts:
            raise MeshError(f"{path} holds no triangles, at least one is needed")
    except MeshError as error:
        said = f"{path}: {error}" if str(path) not in str(error) else str(error)
        raise MeshError(said + _really(source.path)) from error
    except Exception as error:  # of a damaged file, whatever readers stumble over
        raise MeshError(
            f"{path} ({source.path.stat().st_size:,} bytes) cannot be read as {suffix[1:].upper()}: "
            f"{type(error).__name__} {one_line(error)}{_really(source.path)}"
        ) from error
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


_BEGINNINGS = {
    b"glTF": "GLB",
    b"ply": "PLY",
    b"PK\3\4": "ZIP",
    b"\x1f\x8b": "gzip",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
    b"Kaydara FBX": "FBX",
    b"BLENDER": "Blender",
    b"PXR-USDC": "USD",
    b"#usda": "USD",
    b"<": "XML or HTML",
    b"version https://git-lfs": "a pointer of Git LFS to a file that was not fetched",
}


def _really(path: Path) -> str:
    """What a file with a wrong ending is, to be added to an error; empty if the ending may be right."""
    with path.open("rb") as file:
        head = file.read(32).lstrip()
    kind = next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), None)
    return "" if kind in (None, path.suffix[1:].upper()) else f" (by its first bytes it is {kind})"


def _load_ply(source: MeshSource) -> list[trimesh.Trimesh]:
    content = source.path.read_bytes()
    head = content[: 1 << 16].partition(b"end_header")[0]
    counts = {kind: int(count) for kind, count in re.findall(rb"^element (\w+) (\d+)", head, re.MULTILINE)}
    for kind, elements in ((b"vertex", 1), (b"face", 3)):
        source.claim(elements * counts.get(kind, 0))
    form = re.search(rb"^format (ascii|binary_(?:big|little)_endian) .*\n", head, re.MULTILINE)
    if form is None:
        raise MeshError("its header names no format: ascii, binary_little_endian or binary_big_endian")
    if b"tristrips" in counts:
        raise MeshError("its triangles are in strips (tristrips), which are not read; export it with faces")
    if form[1] == b"ascii" and content.rstrip().count(b"\n") - head.count(b"\n") < sum(counts.values()):
        raise MeshError(f"it has fewer lines than the {sum(counts.values()):,} that its header names")
    # trimesh wants the format in the second line
    content = b"ply\n" + form[0] + content[content.index(b"\n") + 1 :].replace(form[0], b"", 1)
    try:
        shape = _read_ply(content)
    except ValueError as error:
        if "unexpected length" not in str(error):
            raise
        shape = _read_ply(_as_text(source, content))
    named = re.findall(rb"^comment TextureFile (.+?)\s*$", head, re.MULTILINE | re.IGNORECASE)
    part = trimesh.Trimesh(**{**shape, "process": False})
    raw, colours, texture = shape["metadata"]["_ply_raw"]["vertex"]["data"], None, None
    for names in (
        ("red", "green", "blue"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("r", "g", "b"),
    ):
        if set(names) <= set(raw.dtype.names if isinstance(raw, np.ndarray) else raw) and len(
            raw[names[0]]
        ) == len(part.vertices):
            colours = guessed_range(np.column_stack([raw[name] for name in names]))
            break
    if colours is None and shape.get("vertex_colors") is not None:
        source.warn("its vertices are split by texture coordinates of faces, shown without their colours")
    if named[1:]:
        source.warn(f"it has {len(named)} textures, only the first is shown")
    if named and (picture := source.picture(decoded(named[0]))):
        if isinstance(part.visual, trimesh.visual.TextureVisuals):
            texture = Texture(picture, np.asarray(part.visual.uv))
        else:
            source.warn("its texture has no coordinates to lie by, shown without")
    if texture is not None or colours is not None:
        part.visual = Surface(colours=colours, texture=texture, linear=False)
    elif isinstance(part.visual, trimesh.visual.TextureVisuals):
        part.visual = trimesh.visual.ColorVisuals()
    return [part]


def _read_ply(content: bytes) -> dict:
    return trimesh.exchange.ply.load_ply(
        io.BytesIO(content), skip_materials=True
    )  # it would open any kind of picture


_PLY_NUMBERS = {
    **dict(char="b", int8="b", uchar="B", uint8="B", short="h", int16="h", ushort="H", uint16="H"),
    **dict(int="i", int32="i", uint="I", uint32="I", float="f", float32="f", double="d", float64="d"),
}


def _as_text(source: MeshSource, content: bytes) -> bytes:
    """A binary PLY file as one of text, where trimesh reads lists of differing lengths: faces of three and four corners."""
    head, end, body = content.partition(b"end_header")
    order, body, at = "<" if b"binary_little" in head else ">", body[body.index(b"\n") + 1 :], 0
    rows = [
        re.sub(rb"^format .*$", b"format ascii 1.0", head, flags=re.MULTILINE).decode("latin-1")
        + end.decode()
    ]

    def read(kind: str, count: int = 1) -> tuple:
        nonlocal at
        packed = struct.Struct(f"{order}{count}{_PLY_NUMBERS[kind]}")
        at += packed.size
        if at > len(body):
            raise MeshError(f"it ends before its numbers do, after {len(body):,} bytes of them")
        return packed.unpack_from(body, at - packed.size)

    for element in re.split(rb"^element ", head, flags=re.MULTILINE)[1:]:
        first, *lines = (line.split() for line in element.decode("latin-1").splitlines())
        kinds = [line[1:-1] for line in lines if line[:1] == ["property"]]
        for _ in range(int(first[1])):
            row: list = []
            for kind in kinds:
                values = read(kind[-1] if kind[0] != "list" else kind[1])
                row.extend(values)
                if kind[0] == "list":
                    source.claim(values[0])
                    row.extend(read(kind[2], values[0]))
            rows.append(" ".join(map(repr, row)))
    return "\n".join([*rows, ""]).encode()


def _load_stl(source: MeshSource) -> list[trimesh.Trimesh]:
    with source.path.open("rb") as file:
        head = file.read(1 << 16)
    count, size = int.from_bytes(head[80:84], "little"), source.path.stat().st_size
    if size != 84 + 50 * count and b"solid" in head[:80].lower() and b"facet" in head.lower():  # text
        content = source.path.read_bytes()
        if b"endsolid" not in content.lower():
            raise MeshError("it has no endsolid, its end is missing")
        return [trimesh.load_mesh(io.BytesIO(content), file_type="stl", process=False)]
    if size < 84 + 50 * count or size < 84:
        raise MeshError(
            f"it claims {count:,} triangles, which are {84 + 50 * count:,} bytes, and has {size:,}"
        )
    source.claim(6 * count)
    row = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("word", "<u2")])
    triangles = np.fromfile(source.path, row, count, offset=84)
    part = trimesh.Trimesh(
        triangles["corners"].reshape(-1, 3).astype(np.float64),
        np.arange(3 * count).reshape(-1, 3),
        process=False,
    )
    # five bits a channel: VisCAM and SolidView blue first, where the highest bit is set; Magics, which gives the colour of
    # the whole in the header, red first, where it is not
    word, magics = triangles["word"], re.search(rb"COLOR=(...)", head[:80], re.DOTALL)
    own = word.any() & (word < 0x8000) if magics else word >= 0x8000
    if magics or own.any():
        whole = np.frombuffer(magics[1], np.uint8) / 255 if magics else np.full(3, PLAIN_GREY)
        channels = (
            np.stack([word >> shift & 31 for shift in ((0, 5, 10) if magics else (10, 5, 0))], axis=1) / 31
        )
        colours = np.where(own[:, None], channels, whole).astype(np.float32)
        part.visual = Surface(colours=colours[:, None].repeat(3, axis=1), linear=False)
    return [part]


_READERS = {".glb": load_gltf, ".gltf": load_gltf, ".obj": load_obj, ".ply": _load_ply, ".stl": _load_stl}


def normalise_parts(parts: Sequence[trimesh.Trimesh]) -> list[trimesh.Trimesh]:
    """Copies with their common bounding box centred at the origin and its longest side 1.

    Raises:
        MeshError: the parts are empty, broken, or a single point.
    """
    check_parts(parts)
    low, high = bounds(parts)
    copies = [part.copy() for part in parts if len(part.faces)]
    into_cube = np.diag([*(1 / (high - low).max(),) * 3, 1])  # in one step: trimesh leaves out small ones
    into_cube[:3, 3] = -(low + high) / 2 / (high - low).max()
    for copy in copies:
        copy.apply_transform(into_cube)
    return copies
