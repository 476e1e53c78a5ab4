"""glTF 2.0 files as parts with surfaces: what the specification says of triangles, transforms, skins, colours and textures.

trimesh's reader passes over what it does not know in silence (vertex colours beside a material, transforms and sets of
texture coordinates, quantised numbers, wrapping, emission, skins). Here each number is held against the buffers of the file
before anything is allocated, and what is not shown as the file means it is said.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import trimesh
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from imagedream.mesh.materials import Surface, Texture, unit_range
from imagedream.mesh.raycast import MeshError
from imagedream.runs.arguments import parse_object
from imagedream.workshop.mesh_files.source import MeshSource

_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_MAX_TREE_BYTES = 2**27  # which may become 3 GB of objects
_TRIANGLES, _STRIP, _FAN = 4, 5, 6
_WRAPS = {10497: "repeat", 33648: "mirror", 33071: "clamp"}
_NEAREST = 9728
_COMPRESSED = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_KNOWN = {  # extensions that a file may require; materials' others change the look only
    *(
        "KHR_mesh_quantization",
        "KHR_texture_transform",
        "KHR_draco_mesh_compression",
        "EXT_mesh_gpu_instancing",
    ),
    *(
        "KHR_texture_basisu",
        "EXT_texture_webp",
        "EXT_texture_avif",
        "MSFT_texture_dds",
        "KHR_lights_punctual",
    ),
    *_COMPRESSED,
}


def gltf_json(path: str | Path) -> dict[str, Any]:
    """The tree of a glTF or GLB file: scenes, meshes, materials, without the numbers and pictures.

    Raises:
        OSError: there is no such file.
        MeshError: it is no glTF.
    """
    return _container(path)[0]


def _container(path: str | Path, binary: bool = False) -> tuple[dict[str, Any], bytes | None]:
    """The tree and, if asked for, the binary chunk of a GLB file."""
    chunk = None
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        head = file.read(20)  # of a GLB: magic, version, length, length of the tree, "JSON"
        if head[:4] == b"glTF" and head[16:] == b"JSON":
            text = file.read(min(int.from_bytes(head[12:16], "little"), _MAX_TREE_BYTES + 1))
            length = int.from_bytes(file.read(8)[:4], "little") if binary else 0
            chunk = file.read(min(length, size)) if length else None
        else:
            text = head + file.read(_MAX_TREE_BYTES + 1)
    if len(text) > _MAX_TREE_BYTES:
        raise MeshError(
            f"{path} has more than {_MAX_TREE_BYTES:,} bytes of JSON, the limit; GLB keeps numbers outside it"
        )
    try:
        return parse_object(text, "it"), chunk
    except ValueError as error:
        raise MeshError(f"{path} is no glTF file: {error}") from error


def load_gltf(source: MeshSource) -> list[trimesh.Trimesh]:
    """The triangles of a glTF or GLB file's scene, in its own axes, a part a primitive, each with a `Surface`.

    Figures stand as their skins' joints do; morph targets have their default weights; animations are passed over.

    Raises:
        MeshError: what the file says does not hold together, is compressed in a way that is not read, or is too large.
    """
    return list(_Gltf(source).parts())


class _Gltf:
    def __init__(self, source: MeshSource):
        self._source = source
        self._tree, self._chunk = _container(source.path, binary=True)
        asset = self._tree.get("asset", {})
        version = str(asset.get("minVersion", asset.get("version", "2.0")))
        if not (version == "2.0" if "minVersion" in asset else version.startswith("2")):
            raise MeshError(f"glTF {version} is not read, only 2.0 is")
        required = set(self._tree.get("extensionsRequired", ()))
        unknown = sorted(name for name in required - _KNOWN if not name.startswith("KHR_materials_"))
        if unknown:
            raise MeshError(f"it needs the extension {', '.join(unknown)}, which is not known here")
        self._buffers: dict[int, bytes] = {}
        self._pictures: dict[int, PIL.Image.Image | None] = {}

    def parts(self) -> Iterator[trimesh.Trimesh]:
        """A part for each primitive of each node of the scene."""
        scenes, roots = self._tree.get("scenes"), self._roots
        if scenes:
            roots = self._entry("scenes", self._tree.get("scene", 0), "the file").get("nodes", [])
        for index in self._walk(roots):
            node = self._entry("nodes", index, "the scene")
            if index not in self._transforms:
                raise MeshError(f"node {index} hangs in a circle, nodes must form trees")
            if "mesh" not in node:
                continue
            mesh = self._entry("meshes", node["mesh"], f"node {index}")
            for number, primitive in enumerate(mesh["primitives"]):
                where = f"mesh {node['mesh']}, primitive {number}"
                try:
                    yield from self._part(primitive, node, mesh, self._transforms[index])
                except (LookupError, TypeError, AttributeError) as error:
                    raise MeshError(f"{where}: {type(error).__name__} {error}") from error

    # ---------------------------------------------------------------------------------------------- nodes

    @cached_property
    def _roots(self) -> list[int]:
        nodes = self._tree.get("nodes", [])
        children = {child for node in nodes for child in node.get("children", ())}
        return [index for index in range(len(nodes)) if index not in children]

    @cached_property
    def _transforms(self) -> dict[int, np.ndarray]:
        """Of each node into the scene."""
        transforms: dict[int, np.ndarray] = {}
        for index in self._walk(self._roots, parents := {}):
            node = self._entry("nodes", index, "the scene")
            if "matrix" in node:
                own = np.array(node["matrix"], np.float64).reshape(4, 4).T
            else:
                own = _transform(*(node.get(name) for name in ("translation", "rotation", "scale")))
            if not np.isfinite(own).all():
                raise MeshError(f"the transform of node {index} has NaN or infinite numbers")
            transforms[index] = transforms[parents[index]] @ own if index in parents else own
        return transforms

    def _walk(self, roots: list[int], parents: dict[int, int] | None = None) -> Iterator[int]:
        """Nodes from the roots on, parents first."""
        seen, todo = set(), list(reversed(roots))
        while todo:
            index = todo.pop()
            if index in seen:
                raise MeshError(f"node {index} hangs in two places, nodes must form trees")
            seen.add(index)
            yield index
            children = self._entry("nodes", index, "the scene").get("children", [])
            if parents is not None:
                parents.update(dict.fromkeys(children, index))
            todo.extend(reversed(children))

    # ------------------------------------------------------------------------------------------- geometry

    def _part(self, primitive: Any, node: Any, mesh: Any, transform: np.ndarray) -> Iterator[trimesh.Trimesh]:
        mode, attributes = primitive.get("mode", _TRIANGLES), primitive["attributes"]
        if mode not in (_TRIANGLES, _STRIP, _FAN):
            return self._source.warn("points and lines are not shown")
        if "POSITION" not in attributes:  # allowed, for extensions
            return self._source.warn("a part without POSITION is not shown")
        vertices = self._entry("accessors", attributes["POSITION"], "POSITION")
        instances = list(self._instances(node))
        indices = (
            self._entry("accessors", primitive["indices"], "indices") if "indices" in primitive else vertices
        )
        elements = _whole(vertices, "count") + _whole(indices, "count")
        self._source.claim(elements * len(instances), len(instances))
        packed = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
        values, index = ({}, None) if packed is None else self._draco(packed, attributes)
        for name in attributes:
            if name.split("_")[0] in _ATTRIBUTES and name not in values:
                values[name] = self._accessor(attributes[name], name)
        if index is None and "indices" in primitive:
            index = self._accessor(primitive["indices"], "indices").reshape(-1).astype(np.int64)
        if index is None:
            index = np.arange(len(values["POSITION"]))
        for target, weight in zip(
            primitive.get("targets", ()), node.get("weights", mesh.get("weights", ())), strict=False
        ):
            for name in values.keys() & target.keys() if weight else ():
                values[name] = values[name] + weight * self._accessor(target[name], "a morph target")
        points = values["POSITION"].astype(np.float64)
        for name, attribute in values.items():
            if len(attribute) != len(points):
                raise MeshError(f"{name} has {len(attribute)} values for {len(points)} vertices")
        for vertex in (index.min(), index.max()) if len(index) else ():
            if not 0 <= vertex < len(points):
                raise MeshError(f"a face has vertex {vertex}, there are only {len(points)} vertices")
        if "skin" in node and "JOINTS_0" in values:
            points, transform = self._skinned(points, node["skin"], values), np.eye(4)
        surface, seen = self._surface(primitive, values)
        faces = _faces(index, mode)
        faces = faces[np.broadcast_to(seen, len(points))[faces].any(axis=1)]
        for instance in instances:
            part = trimesh.Trimesh(points, faces, visual=surface.copy(), process=False, validate=False)
            part.apply_transform(transform @ instance)
            yield part

    def _skinned(self, points: np.ndarray, skin: Any, values: dict[str, np.ndarray]) -> np.ndarray:
        """Points where the joints hold them; the node's own transform does not count (glTF 2.0, 3.7.3.3)."""
        skin = self._entry("skins", skin, "a node")
        joints = skin["joints"]
        matrices = np.stack([self._transforms[joint] for joint in joints])
        if "inverseBindMatrices" in skin:
            bind = self._accessor(skin["inverseBindMatrices"], "inverseBindMatrices").astype(np.float64)
            if len(bind) < len(joints):
                raise MeshError(f"a skin has {len(joints)} joints and {len(bind)} inverseBindMatrices")
            matrices = matrices @ bind[: len(joints)].reshape(-1, 4, 4).transpose(0, 2, 1)
        moved, total = np.zeros_like(points), np.zeros((len(points), 1))
        for number in range(sum(name.startswith("JOINTS_") for name in values)):
            of_vertex, weights = values[f"JOINTS_{number}"].astype(np.int64), values[f"WEIGHTS_{number}"]
            for corner in range(4):
                for joint in np.unique(of_vertex[:, corner]):
                    which = np.flatnonzero((of_vertex[:, corner] == joint) & (weights[:, corner] > 0))
                    weight, matrix = weights[which, corner, None], matrices[joint]
                    moved[which] += weight * (points[which] @ matrix[:3, :3].T + matrix[:3, 3])
                    total[which] += weight
        return np.where(total > 0, moved / total.clip(1e-12), points)

    def _instances(self, node: dict) -> Iterator[np.ndarray]:
        """Where a node's mesh stands: once, or as often as EXT_mesh_gpu_instancing says."""
        attributes = node.get("extensions", {}).get("EXT_mesh_gpu_instancing", {}).get("attributes")
        if not attributes:
            yield np.eye(4)
            return
        parts = [
            self._accessor(attributes[name], name) if name in attributes else None
            for name in ("TRANSLATION", "ROTATION", "SCALE")
        ]
        count = max(len(part) for part in parts if part is not None)
        self._source.claim(count)
        for number in range(count):
            yield _transform(*(None if part is None else part[number] for part in parts))

    def _draco(self, packed: dict, attributes: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
        try:
            import DracoPy
        except ImportError as error:
            raise MeshError(
                "it is compressed with Draco: pip install 'imagedream[draco]', or export it without compression"
            ) from error
        try:
            decoded = DracoPy.decode(bytes(self._view(packed["bufferView"], "Draco")[0]))
        except Exception as error:  # DracoPy's own kinds, without a common base
            raise MeshError(f"its Draco data cannot be read: {error}") from error
        names = {ident: name for name, ident in packed["attributes"].items()}
        values = {
            name: _normalised(np.asarray(one["data"]), self._entry("accessors", attributes[name], name), name)
            for one in decoded.attributes
            if (name := names.get(one["unique_id"], "")).split("_")[0] in _ATTRIBUTES
        }
        return values, np.asarray(decoded.faces).reshape(-1).astype(np.int64)

    # -------------------------------------------------------------------------------------------- surface

    def _surface(self, primitive: dict, values: dict[str, np.ndarray]) -> tuple[Surface, np.ndarray]:
        """How a part looks, and which of its vertices, or whether all, are not wholly transparent."""
        material: dict = {}
        if "material" in primitive:
            material = self._entry("materials", primitive["material"], "a primitive")
        extensions, base = material.get("extensions", {}), material.get("pbrMetallicRoughness", {})
        factor, info = base.get("baseColorFactor"), base.get("baseColorTexture")
        glossy = extensions.get("KHR_materials_pbrSpecularGlossiness")
        if glossy is not None:
            factor, info = glossy.get("diffuseFactor"), glossy.get("diffuseTexture")
            if (
                info is None and factor is not None and not any(factor[:3])
            ):  # a metal, which has no other colour
                factor = glossy.get("specularFactor", factor)
        texture = self._texture(info, values)
        colours = values["COLOR_0"][:, :3] if "COLOR_0" in values else None
        cutoff = {"MASK": float(material.get("alphaCutoff", 0.5)), "BLEND": 0.5}.get(
            material.get("alphaMode", "OPAQUE")
        )
        opacity, seen = np.ones(1), np.ones(1, bool)
        if factor is not None and len(factor) > 3:
            opacity *= factor[3]
        if cutoff is not None:  # alpha of the whole x of the vertices x of the texture
            if "COLOR_0" in values and values["COLOR_0"].shape[1] == 4:
                opacity = opacity * values["COLOR_0"][:, 3]
            clearest = (
                texture.picture.getextrema()[-1][1] / 255 if texture and texture.picture.mode == "RGBA" else 1
            )
            blends = material["alphaMode"] == "BLEND"
            seen = opacity * clearest > 0 if blends else opacity * clearest >= cutoff
            if not seen.any():
                self._source.warn("a wholly transparent part is not shown")
            elif blends and opacity.max() * clearest < 1:
                self._source.warn("a see-through part is shown opaque")
            cutoff /= max(opacity.max(initial=0), 1e-9)
        if extensions.get("KHR_materials_transmission", {}).get("transmissionFactor"):
            self._source.warn("a part of glass is shown opaque")
        emission = np.array(material.get("emissiveFactor", (0, 0, 0)), np.float64)
        emission *= extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1)
        shining = self._texture(material.get("emissiveTexture"), values) if emission.any() else None
        if "emissiveTexture" in material and shining is None:
            emission *= 0
        surface = Surface(
            (1.0, 1.0, 1.0) if factor is None else [float(value) for value in factor[:3]],
            colours,
            texture,
            emission.tolist(),
            shining,
            cutoff,
            unlit="KHR_materials_unlit" in extensions,
            plain=colours is None and texture is None and factor is None and not emission.any(),
        )
        return surface, seen

    def _texture(self, info: dict | None, values: dict[str, np.ndarray]) -> Texture | None:
        if info is None:
            return None
        texture = self._entry("textures", info["index"], "a material")
        extensions = texture.get("extensions", {})
        readable = [extensions.get(name, {}) for name in ("EXT_texture_webp", "EXT_texture_avif")]
        sources = [entry["source"] for entry in (*readable, texture) if "source" in entry]
        if not sources:
            kind = "KTX2" if "KHR_texture_basisu" in extensions else ", ".join(extensions) or "no source"
            self._source.warn(f"texture {info['index']} cannot be read ({kind}), shown without")
        picture = next((one for source in sources if (one := self._picture(source)) is not None), None)
        if picture is None:
            return None
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}"
        if name not in values:
            self._source.warn(f"texture {info['index']} lies by {name}, which is not there, shown without")
            return None
        uv = _transformed(values[name].astype(np.float64), moved)
        sampler: dict = {}
        if "sampler" in texture:
            sampler = self._entry("samplers", texture["sampler"], "a texture")
        return Texture(
            picture,
            np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1).astype(np.float32),
            tuple(_WRAPS.get(sampler.get(way), "repeat") for way in ("wrapS", "wrapT")),
            sampler.get("magFilter") == _NEAREST,
        )

    def _picture(self, index: Any) -> PIL.Image.Image | None:
        image = self._entry("images", index, "a texture")
        if index not in self._pictures:
            if "bufferView" in image:
                content = bytes(self._view(image["bufferView"], f"image {index}")[0])
                self._pictures[index] = self._source.picture(image.get("name") or f"image {index}", content)
            else:
                self._pictures[index] = self._source.picture(image.get("uri", f"image {index}"))
        return self._pictures[index]

    # -------------------------------------------------------------------------------------------- numbers

    def _entry(self, kind: str, index: Any, where: str) -> dict:
        entries = self._tree.get(kind, [])
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(entries):
            raise MeshError(f"{where} names {kind}[{index!r}], there are {len(entries)}")
        return entries[index]

    def _accessor(self, index: Any, where: str) -> np.ndarray:
        """Values (count, width); whole numbers that stand for fractions as those."""
        entry = self._entry("accessors", index, where)
        count = _whole(entry, "count")
        dtype, width = np.dtype(_COMPONENTS[entry["componentType"]]), _WIDTHS[entry["type"]]
        widths = _TYPES.get(where.split("_")[0], (width,))
        if width not in widths or (where == "indices" and dtype.kind != "u"):
            raise MeshError(
                f"{where} holds {entry['type']} of {dtype.name}, must hold {' or '.join(map(str, widths))} "
                + ("unsigned" if where == "indices" else "numbers each")
            )
        if "bufferView" in entry:
            values = self._strided(entry, count, dtype, width, where)
        elif "sparse" in entry:
            self._source.claim(count * width)
            values = np.zeros((count, width), dtype)
        else:
            raise MeshError(f"{where} has no data (accessor {index} has neither bufferView nor sparse)")
        if "sparse" in entry:
            sparse, values = entry["sparse"], values.copy()
            few = _whole(sparse, "count")
            which = np.dtype(_COMPONENTS[sparse["indices"]["componentType"]])
            rows = self._strided(sparse["indices"], few, which, 1, where).reshape(-1)
            values[rows] = self._strided(sparse["values"], few, dtype, width, where)
        return _normalised(values, entry, where)

    def _strided(self, entry: dict, count: int, dtype: np.dtype, width: int, where: str) -> np.ndarray:
        """Rows of numbers, as a view into a buffer."""
        data, stride = self._view(entry["bufferView"], where)
        offset, row = _whole(entry, "byteOffset", 0), width * dtype.itemsize
        stride = stride or row
        end = offset + (count - 1) * stride + row if count else offset
        if end > len(data) or stride < row:
            raise MeshError(
                f"{where} claims {count:,} values of {row} bytes every {stride}, to byte {end:,} of {len(data):,}"
            )
        return np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize))

    def _view(self, index: Any, where: str) -> tuple[memoryview, int]:
        """A piece of a buffer, and the bytes from value to value (0: they lie close)."""
        entry = self._entry("bufferViews", index, where)
        buffer = self._buffer(entry["buffer"], where)
        if buffer is None:
            packed = [name for name in _COMPRESSED if name in entry.get("extensions", {})]
            if packed:
                raise MeshError(
                    f"it is compressed with meshopt ({packed[0]}), which is not read; export it without compression"
                )
            raise MeshError(f"{where}: buffer {entry['buffer']} has no data")
        start, length = _whole(entry, "byteOffset", 0), _whole(entry, "byteLength")
        if start + length > len(buffer):
            raise MeshError(f"{where}: bytes {start:,} to {start + length:,} of a buffer of {len(buffer):,}")
        return memoryview(buffer)[start : start + length], _whole(entry, "byteStride", 0)

    def _buffer(self, index: Any, where: str) -> bytes | None:
        entry = self._entry("buffers", index, where)
        if "uri" not in entry:
            return self._chunk if index == 0 else None
        if index not in self._buffers:
            try:
                self._buffers[index] = self._source.read(entry["uri"])
            except FileNotFoundError as error:
                raise MeshError(f"its buffer {error}") from error
        return self._buffers[index]


_ATTRIBUTES = {"POSITION": (3,), "TEXCOORD": (2,), "COLOR": (3, 4), "JOINTS": (4,), "WEIGHTS": (4,)}
_TYPES = _ATTRIBUTES | dict(
    indices=(1,), inverseBindMatrices=(16,), TRANSLATION=(3,), ROTATION=(4,), SCALE=(3,)
)
"""How many numbers their values have."""


def _whole(entry: dict, name: str, default: int | None = None) -> int:
    value = entry.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MeshError(f"{name} is {value!r}, must be a whole number from 0")
    return value


def _normalised(values: np.ndarray, entry: dict, where: str) -> np.ndarray:
    if where.startswith("COLOR_"):
        return unit_range(values)
    if entry.get("normalized") and values.dtype.kind in "iu":
        return (values / np.float32(np.iinfo(values.dtype).max)).clip(-1, 1)
    return values


def _transform(translation: Any, rotation: Any, scale: Any) -> Float[np.ndarray, "4 4"]:
    matrix = np.eye(4)
    if rotation is not None:
        matrix[:3, :3] = Rotation.from_quat(np.array(rotation, np.float64)).as_matrix()
    if scale is not None:
        matrix[:3, :3] *= np.array(scale, np.float64)
    if translation is not None:
        matrix[:3, 3] = translation
    return matrix


def _transformed(uv: np.ndarray, moved: dict) -> np.ndarray:
    """KHR_texture_transform: scale, turn, offset. It turns so that the picture seems to turn clockwise: v points down."""
    angle = moved.get("rotation", 0)
    cos, sin = np.cos(angle), np.sin(angle)
    u, v = (uv * np.array(moved.get("scale", (1, 1)))).T
    return np.stack([cos * u + sin * v, cos * v - sin * u], axis=1) + moved.get("offset", (0, 0))


def _faces(index: np.ndarray, mode: int) -> np.ndarray:
    if mode == _TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(len(index) - 2, 0))
    if mode == _FAN:
        return np.stack(
            [index[first + 1], index[first + 2], np.full_like(first, index[0] if len(index) else 0)], axis=1
        )
    odd = first % 2  # every other triangle of a strip runs the other way
    return np.stack([index[first], index[first + 1 + odd], index[first + 2 - odd]], axis=1)
