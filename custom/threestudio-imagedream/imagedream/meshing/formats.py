"""A textured mesh -> GLB and OBJ files. World axes come in, y up and front +z go out."""

import io
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import UInt8
from PIL import Image

from imagedream.files import atomic_path
from imagedream.meshing.texture import UnwrappedMesh
from imagedream.rendering.meshes import to_gltf_axes

FORMATS = ("glb", "obj", "glb+obj")
"""What `fmt` may be."""


def check_format(fmt: str) -> tuple[str, ...]:
    """The file kinds that `fmt` asks for.

    Raises:
        ValueError: unknown format; the message lists `FORMATS`.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown mesh format {fmt!r}; allowed: {', '.join(FORMATS)}")
    return tuple(fmt.split("+"))


def textured_trimesh(mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"]) -> trimesh.Trimesh:
    """The mesh as trimesh with one opaque, white-factor, rough, non-metallic material; world axes."""
    material = trimesh.visual.material.PBRMaterial(
        name="model",
        baseColorTexture=Image.fromarray(texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=1.0,
        alphaMode="OPAQUE",
        doubleSided=False,
    )
    return trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=mesh.normals,
        visual=trimesh.visual.TextureVisuals(uv=mesh.uv, material=material),
        process=False,
    )


def _upright(mesh: UnwrappedMesh, texture: np.ndarray) -> trimesh.Trimesh:
    turned = UnwrappedMesh(
        np.asarray(to_gltf_axes(mesh.vertices)), np.asarray(to_gltf_axes(mesh.normals)), mesh.faces, mesh.uv
    )
    return textured_trimesh(turned, texture)


def to_glb_bytes(mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """One binary glTF: y up, front +z, normals, PNG texture inside."""
    return trimesh.Scene({"model": _upright(mesh, texture)}).export(file_type="glb", include_normals=True)


def to_obj_files(
    mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"], name: str = "model"
) -> dict[str, bytes]:
    """Wavefront OBJ, MTL and PNG by file name, in the same axes as the GLB (y up, front +z)."""
    upright = _upright(mesh, texture)
    lines = [f"mtllib {name}.mtl", "o model", "usemtl model"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in upright.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uv]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in upright.vertex_normals]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in mesh.faces + 1]
    material = f"newmtl model\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {name}.png\n"
    png = io.BytesIO()
    Image.fromarray(texture).save(png, format="PNG")
    return {
        f"{name}.obj": ("\n".join(lines) + "\n").encode(),
        f"{name}.mtl": material.encode(),
        f"{name}.png": png.getvalue(),
    }


def to_files(
    mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"], fmt: str = "glb", name: str = "model"
) -> dict[str, bytes]:
    """All files that `fmt` (one of `FORMATS`) asks for, by file name."""
    files: dict[str, bytes] = {}
    for kind in check_format(fmt):
        files |= (
            {f"{name}.glb": to_glb_bytes(mesh, texture)}
            if kind == "glb"
            else to_obj_files(mesh, texture, name)
        )
    return files


def save(files: dict[str, bytes], folder: str | Path) -> list[Path]:
    """Write files into a folder, each atomically: a file is there whole or not at all."""
    folder = Path(folder)
    for name, data in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in files]
