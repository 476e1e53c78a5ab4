"""A textured mesh -> files: GLB, OBJ, PLY, STL, USDZ. World axes come in; what goes out stands upright in each."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from PIL import Image
from trimesh.exchange.gltf import export_glb
from trimesh.visual.color import uv_to_interpolated_color

import imagedream
from imagedream.mesh.gltf_axes import to_gltf_axes
from imagedream.mesh.normal_map import tangents
from imagedream.mesh.texture import UnwrappedMesh
from imagedream.mesh.usdz import require_usd, to_usdz
from imagedream.runs.files import atomic_path

# WebGL's numbers, as glTF has them
_VERTICES, _INDICES = 34962, 34963
_LINEAR, _MIPMAPPED, _CLAMPED = 9729, 9987, 33071

FORMATS = ("glb", "obj", "ply", "stl", "usdz")
"""What `fmt` may hold, joined by + for several."""

Up = Literal["auto", "+y", "+z"]
"""Where up is in files that do not say it: OBJ, PLY, STL. +y has its front at +z, as glTF; +z at +x, as our world."""

_AUTO_UP = {"obj": "+y", "ply": "+z", "stl": "+z"}


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with the pictures of its one opaque, rough, non-metallic material."""

    mesh: UnwrappedMesh
    base_colour: UInt8[np.ndarray, "size size 3"]
    """sRGB; row 0 is v = 1."""
    normal_map: UInt8[np.ndarray, "size size 3"] | None = None
    """Tangent space, see `imagedream.mesh.normal_map`."""

    @property
    def pictures(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Base colour and normal map."""
        return self.base_colour, self.normal_map


def check_format(fmt: str) -> tuple[str, ...]:
    """The file kinds that `fmt` asks for, such as `glb` or `glb+obj`.

    Raises:
        ValueError: unknown format; the message lists `FORMATS`.
        ImportError: the library that writes USDZ is not installed.
    """
    kinds = tuple(fmt.split("+"))
    if not set(kinds) <= set(FORMATS):
        raise ValueError(
            f"unknown mesh format {fmt!r}; allowed: {', '.join(FORMATS)}, or several joined by +"
        )
    if "usdz" in kinds:
        require_usd()
    return tuple(dict.fromkeys(kinds))


def check_name(name: str) -> str:
    """The name, if it is one for a file in the folder of the export.

    Raises:
        ValueError: it names a folder too, or is hidden or empty.
    """
    if not name or name != Path(name.replace("\\", "/")).name or name.startswith("."):
        raise ValueError(
            f"save_name is {name!r}, must be a plain file name without folders, its ending left off"
        )
    return name


def upward(kind: str, up: str = "auto") -> str:
    """Which way is up in a file of some kind: +y or +z.

    Raises:
        ValueError: `up` is not one of `Up`.
    """
    if up not in ("auto", "+y", "+z"):
        raise ValueError(f"up is {up!r}, must be auto, +y or +z")
    if kind not in _AUTO_UP:
        return "+y"  # GLB says so, USDZ can
    return _AUTO_UP[kind] if up == "auto" else up


def png(pixels: UInt8[np.ndarray, "height width 3"] | None) -> bytes | None:
    """A PNG file, whose colours stay exact; None of None."""
    if pixels is None:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def to_glb(model: TexturedMesh) -> bytes:
    """Binary glTF 2.0: y up, front +z, normals, one opaque rough material with its pictures inside.

    A normal map has the tangent of each vertex with it, as every viewer would otherwise make up its own.
    """
    mesh = model.mesh
    pictures = [None if pixels is None else Image.fromarray(pixels) for pixels in model.pictures]
    material = trimesh.visual.material.PBRMaterial(
        name="model",
        baseColorTexture=pictures[0],
        normalTexture=pictures[1],
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    surface = trimesh.Trimesh(
        to_gltf_axes(mesh.vertices),
        mesh.faces,
        vertex_normals=to_gltf_axes(mesh.normals),
        visual=trimesh.visual.TextureVisuals(mesh.uv, material),
        process=False,
    )
    if model.normal_map is not None:
        frame = tangents(mesh)
        turned = np.concatenate([to_gltf_axes(frame[:, :3]), frame[:, 3:]], axis=1)
        surface.vertex_attributes["_TANGENT"] = turned.astype(np.float32)
    scene = trimesh.Scene({"model": surface})
    return export_glb(scene, include_normals=True, tree_postprocessor=_complete)


def _complete(tree: dict) -> None:
    """Add to a glTF tree what trimesh leaves out: tangents, what each buffer is for, how textures are filtered."""
    (primitive,) = tree["meshes"][0]["primitives"]
    attributes = primitive["attributes"]
    if "_TANGENT" in attributes:
        attributes["TANGENT"] = attributes.pop("_TANGENT")
    targets = dict.fromkeys(attributes.values(), _VERTICES) | {primitive["indices"]: _INDICES}
    for accessor, target in targets.items():
        tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = target
    sampler = {"magFilter": _LINEAR, "minFilter": _MIPMAPPED, "wrapS": _CLAMPED, "wrapT": _CLAMPED}
    tree["samplers"] = [sampler]
    for texture in tree["textures"]:
        texture["sampler"] = 0
    tree["asset"]["generator"] = f"imagedream {imagedream.__version__}"


def to_obj_files(model: TexturedMesh, name: str = "model", up: Up = "auto") -> dict[str, bytes]:
    """Wavefront OBJ, MTL and PNGs by file name; seams are in the texture coordinates only, so it stays closed."""
    points, normals, faces = _turned(model.mesh, upward("obj", up))
    lines = [f"# {'y' if upward('obj', up) == '+y' else 'z'} up", f"mtllib {name}.mtl", "o model"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in model.mesh.uv]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in normals]
    lines += ["usemtl model"]
    corners = np.stack([faces, model.mesh.faces, faces], axis=-1).reshape(-1, 9) + 1
    lines += ["f {}/{}/{} {}/{}/{} {}/{}/{}".format(*corner) for corner in corners.tolist()]
    material = f"newmtl model\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {name}.png\n"
    files = {f"{name}.png": png(model.base_colour)}
    if model.normal_map is not None:
        material += f"norm {name}_normal.png\n"
        files[f"{name}_normal.png"] = png(model.normal_map)
    return {
        f"{name}.obj": ("\n".join(lines) + "\n").encode(),
        f"{name}.mtl": material.encode(),
        **files,
    }


def to_ply(model: TexturedMesh, up: Up = "auto") -> bytes:
    """Binary PLY with sRGB vertex colours, without seams: each vertex has the mean colour of its copies."""
    points, normals, faces = _turned(model.mesh, upward("ply", up))
    copies = uv_to_interpolated_color(model.mesh.uv, Image.fromarray(model.base_colour))[:, :3]
    _, point = np.unique(model.mesh.source, return_inverse=True)
    total = np.stack([np.bincount(point.reshape(-1), copies[:, channel]) for channel in range(3)], axis=1)
    colours = (total / np.bincount(point.reshape(-1))[:, None]).round().astype(np.uint8)
    mesh = trimesh.Trimesh(
        points, faces, vertex_normals=normals, vertex_colors=colours, process=False, validate=False
    )
    return mesh.export(file_type="ply", vertex_normal=True)


def to_stl(model: TexturedMesh, up: Up = "auto") -> bytes:
    """Binary STL: the shape alone."""
    points, _, faces = _turned(model.mesh, upward("stl", up))
    return trimesh.Trimesh(points, faces, process=False).export(file_type="stl")


def _turned(
    mesh: UnwrappedMesh, up: str
) -> tuple[Float[np.ndarray, "point 3"], Float[np.ndarray, "point 3"], Int[np.ndarray, "face 3"]]:
    points, normals, faces = mesh.uncut()
    if up == "+y":
        points, normals = to_gltf_axes(points), to_gltf_axes(normals)
    return points, normals, faces


def to_files(model: TexturedMesh, fmt: str = "glb", name: str = "model", up: Up = "auto") -> dict[str, bytes]:
    """All files that `fmt` asks for, by file name; of each kind the one to open comes first."""
    check_name(name)
    files: dict[str, bytes] = {}
    for kind in check_format(fmt):
        if kind == "obj":
            files |= to_obj_files(model, name, up)
        elif kind == "glb":
            files[f"{name}.glb"] = to_glb(model)
        elif kind == "usdz":
            files[f"{name}.usdz"] = to_usdz(model.mesh, *(png(pixels) for pixels in model.pictures))
        else:
            files[f"{name}.{kind}"] = to_ply(model, up) if kind == "ply" else to_stl(model, up)
    return files


def save(files: Mapping[str, bytes], folder: str | Path) -> list[Path]:
    """Write files into a folder, each atomically: a file is there whole or not at all.

    Raises:
        ValueError: a name would leave the folder.
    """
    folder = Path(folder)
    for name, data in files.items():
        with atomic_path(folder / check_name(name)) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in files]
