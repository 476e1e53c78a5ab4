"""A mesh and its pictures -> USDZ and back, by Pixar's usd-core (TOST-1.0 licence, 30 MB), an extra.

What is the same in every file, above all the material, stands in `usdz_scene.usda`.
"""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from imagedream.mesh.gltf_axes import from_gltf_axes, to_gltf_axes
from imagedream.mesh.texture import UnwrappedMesh
from imagedream.runs.locks import temporary_folder

_SCENE = Path(__file__).with_name("usdz_scene.usda")


def require_usd() -> None:
    """Raise ImportError, with what to install, unless usd-core is there."""
    try:
        import pxr  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "USDZ files need usd-core, which is not installed: pip install 'imagedream[usdz]' "
            "(or pip install usd-core)"
        ) from error


def to_usdz(mesh: UnwrappedMesh, base_colour: bytes, normal_map: bytes | None = None) -> bytes:
    """One USDZ file: y up, front +z, in metres, a UsdPreviewSurface with its pictures inside.

    Args:
        mesh: in world axes.
        base_colour: PNG file, sRGB.
        normal_map: PNG file in tangent space.
    """
    require_usd()
    from pxr import Sdf, Usd, UsdUtils

    with temporary_folder() as folder:
        unpacked, packed = folder / "model.usdc", folder / "model.usdz"
        layer = Sdf.Layer.CreateAnonymous(".usda")
        layer.ImportFromString(_SCENE.read_text(encoding="utf-8"))
        stage = Usd.Stage.Open(layer)
        _fill(stage, mesh)
        (folder / "base_colour.png").write_bytes(base_colour)
        if normal_map is None:
            stage.RemovePrim("/model/material/normal")
            stage.GetPrimAtPath("/model/material/surface").RemoveProperty("inputs:normal")
        else:
            (folder / "normal.png").write_bytes(normal_map)
        layer.Export(str(unpacked))
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(unpacked)), str(packed)):
            raise OSError(f"usd-core could not write a USDZ file in {folder}")
        return packed.read_bytes()


def _fill(stage: Any, mesh: UnwrappedMesh) -> None:
    """The arrays of the scene's mesh; seams are in the texture coordinates only, so it stays closed."""
    from pxr import UsdGeom, Vt

    points, normals, faces = mesh.uncut()
    points, normals = (_packed(to_gltf_axes(array)) for array in (points, normals))
    prim = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    prim.GetPointsAttr().Set(Vt.Vec3fArray.FromNumpy(points))
    prim.GetNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(normals))
    prim.GetFaceVertexCountsAttr().Set(Vt.IntArray(len(faces), 3))
    prim.GetFaceVertexIndicesAttr().Set(Vt.IntArray.FromNumpy(faces.reshape(-1).astype(np.int32)))
    prim.GetExtentAttr().Set([tuple(map(float, points.min(0))), tuple(map(float, points.max(0)))])
    uv = _packed(mesh.uv[mesh.faces].reshape(-1, 2))
    UsdGeom.PrimvarsAPI(prim).GetPrimvar("st").Set(Vt.Vec2fArray.FromNumpy(uv))


def _packed(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=np.float32)


def load_usdz(path: str | Path) -> trimesh.Trimesh:
    """Read a file that `to_usdz` wrote, in world axes."""
    require_usd()
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(path))  # what is in it lives as long as this name
    prim = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    points = np.asarray(prim.GetPointsAttr().Get())
    faces = np.asarray(prim.GetFaceVertexIndicesAttr().Get())
    uv = np.asarray(UsdGeom.PrimvarsAPI(prim).GetPrimvar("st").Get())
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("base_colour.png"))
        picture = Image.open(io.BytesIO(archive.read(name)))
        picture.load()
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    return trimesh.Trimesh(
        from_gltf_axes(points)[faces],
        np.arange(len(faces)).reshape(-1, 3),
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
        process=False,
    )
