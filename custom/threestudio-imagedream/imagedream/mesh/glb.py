"""A mesh and its pictures -> one binary glTF 2.0 file."""

import json
import struct

import numpy as np

import imagedream
from imagedream.mesh.normals import tangents
from imagedream.mesh.reading import to_gltf_axes
from imagedream.mesh.texture import UnwrappedMesh

_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _MIPMAPPED, _CLAMPED = 9729, 9987, 33071


class _Buffer:
    """The binary part of the file, with the views and accessors into it."""

    def __init__(self) -> None:
        self.data = b""
        self.views: list[dict] = []
        self.accessors: list[dict] = []

    def add(self, data: bytes, target: int | None = None) -> int:
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.data += data + b"\0" * (-len(data) % 4)
        return len(self.views) - 1

    def add_array(self, array: np.ndarray, kind: str, target: int, bounds: bool = False) -> int:
        component = {"f": _FLOAT, "H": _UINT16, "I": _UINT32}[array.dtype.char]
        accessor = {"bufferView": self.add(array.tobytes(), target), "componentType": component}
        accessor |= {"count": len(array), "type": kind}
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def to_glb(mesh: UnwrappedMesh, base_colour: bytes, normal_map: bytes | None = None) -> bytes:
    """One file: y up, front +z, normals, one opaque rough material with its pictures inside.

    Args:
        mesh: in world axes.
        base_colour: PNG file, sRGB, row 0 at v = 1.
        normal_map: PNG file in the frames of `imagedream.mesh.normals.tangents`; the tangents then go along.
    """
    buffer = _Buffer()
    unit = mesh.normals / np.linalg.norm(mesh.normals, axis=1, keepdims=True).clip(1e-12)
    attributes = {
        "POSITION": buffer.add_array(_packed(to_gltf_axes(mesh.vertices)), "VEC3", _VERTICES, bounds=True),
        "NORMAL": buffer.add_array(_packed(to_gltf_axes(unit)), "VEC3", _VERTICES),
        # glTF counts v from the top of the picture
        "TEXCOORD_0": buffer.add_array(_packed(mesh.uv * [1, -1] + [0, 1]), "VEC2", _VERTICES),
    }
    if normal_map is not None:
        frame = tangents(mesh)
        turned = np.concatenate([to_gltf_axes(frame[:, :3]), frame[:, 3:]], axis=1)
        attributes["TANGENT"] = buffer.add_array(_packed(turned), "VEC4", _VERTICES)
    index_type = np.uint16 if len(mesh.vertices) < 2**16 else np.uint32
    indices = buffer.add_array(mesh.faces.reshape(-1).astype(index_type), "SCALAR", _INDICES)
    pictures = [base_colour] if normal_map is None else [base_colour, normal_map]
    material = {
        "name": "model",
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1},
    }
    if normal_map is not None:
        material["normalTexture"] = {"index": 1}
    scene = {
        "asset": {"version": "2.0", "generator": f"imagedream {imagedream.__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "model", "mesh": 0}],
        "meshes": [
            {
                "name": "model",
                "primitives": [{"attributes": attributes, "indices": indices, "material": 0}],
            }
        ],
        "materials": [material],
        "textures": [{"sampler": 0, "source": index} for index in range(len(pictures))],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _MIPMAPPED, "wrapS": _CLAMPED, "wrapT": _CLAMPED}],
        "images": [{"mimeType": "image/png", "bufferView": buffer.add(picture)} for picture in pictures],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(buffer.data), b"BIN\0") + buffer.data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _packed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)
