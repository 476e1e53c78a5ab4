"""glTF files of a square with four colours, and the colours that are seen of it."""

import base64
import io
import json
import math
import struct
from copy import deepcopy

import numpy as np
import torch
from PIL import Image

from imagedream import cameras
from imagedream.mesh.raycast import Raycaster
from imagedream.workshop.mesh_files.reading import FileAxes, load_parts

RED, GREEN, BLUE, YELLOW = (230, 30, 30), (30, 200, 30), (30, 60, 230), (230, 210, 30)
FOUR = [RED, GREEN, BLUE, YELLOW]
SQUARE = np.float32([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])  # faces +z, the front
UV = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])  # v points down
FACES = np.uint16([[0, 1, 2], [0, 2, 3]])
TYPES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TEXTURED = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}


def picture(kind="PNG", colours=((RED, GREEN), (BLUE, YELLOW)), **options):
    """Four texels: red and green above blue and yellow."""
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(colours)).save(buffer, kind, **options)
    return buffer.getvalue()


class Scene:
    """A glTF tree and its buffer, a square unless other numbers are given."""

    def __init__(self, material=None, indices=FACES, image=None, **attributes):
        self.data, self.tree = b"", {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}
        attributes = {"POSITION": SQUARE, "TEXCOORD_0": UV} | attributes
        primitive = {"attributes": {name: self.add(values) for name, values in attributes.items()}}
        if indices is not None:
            primitive["indices"] = self.add(indices.reshape(-1, 1))
        if material is not None:
            primitive["material"], self.tree["materials"] = 0, [deepcopy(material)]
            view = self.view(picture() if image is None else image)
            self.tree |= {"images": [{"bufferView": view}], "textures": [{"source": 0, "sampler": 0}]}
            self.tree["samplers"] = [{"magFilter": 9728}]
        self.primitive = primitive
        self.tree |= {"meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}]}
        self.tree |= {"scenes": [{"nodes": [0]}], "scene": 0}

    def view(self, content, **more):
        self.data += bytes(-len(self.data) % 4)
        self.tree["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more}
        )
        self.data += content
        return len(self.tree["bufferViews"]) - 1

    def add(self, values, **more):
        """An accessor; `(values, True)` is one of normalised numbers."""
        values, normalised = values if isinstance(values, tuple) else (values, False)
        kind = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}[values.shape[1]]
        entry = {"bufferView": self.view(values.tobytes()), "count": len(values), "type": kind, **more}
        entry |= {"componentType": TYPES[values.dtype.str[1:]], "normalized": normalised}
        self.tree["accessors"].append(entry)
        return len(self.tree["accessors"]) - 1

    def write(self, path):
        if path.suffix == ".gltf":
            uri = "data:application/octet-stream;base64," + base64.b64encode(self.data).decode()
            path.write_text(
                json.dumps({**self.tree, "buffers": [{"byteLength": len(self.data), "uri": uri}]})
            )
            return path
        text = json.dumps({**self.tree, "buffers": [{"byteLength": len(self.data)}]}).encode()
        text, data = text + b" " * (-len(text) % 4), self.data + bytes(-len(self.data) % 4)
        chunks = (
            struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
        )
        path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
        return path


def corners(path, light=None, distance=3.0, warn=None):
    """sRGB in 8 bits in the middle of the square's quarters, seen from the front: above from left to right, below."""
    said = []
    parts = load_parts(path, FileAxes("y", "+z"), warn or said.append)
    assert warn is not None or not said, said
    pose = cameras.look_at_origin(torch.zeros(1), torch.zeros(1), torch.tensor([distance]))
    fov = torch.tensor([2 * math.degrees(math.atan(1 / 3))])  # the square fills the frame from distance 3
    rgb = Raycaster(parts).render(pose, fov, 4, light, supersample=1).rgba[0, :3, [0, 0, 3, 3], [0, 3, 0, 3]]
    return [tuple(colour) for colour in (rgb.T * 255).round().int().tolist()]
