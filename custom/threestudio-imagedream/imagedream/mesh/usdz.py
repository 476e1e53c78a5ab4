"""A mesh and its pictures -> USDZ and back, by Pixar's usd-core (TOST-1.0 licence, 30 MB), an extra."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from imagedream.mesh.reading import from_gltf_axes, to_gltf_axes
from imagedream.mesh.texture import UnwrappedMesh


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
    from pxr import Sdf, Usd, UsdGeom, UsdUtils

    with tempfile.TemporaryDirectory() as folder:
        pictures = {"base_colour.png": base_colour}
        if normal_map is not None:
            pictures["normal.png"] = normal_map
        for name, data in pictures.items():
            (Path(folder) / name).write_bytes(data)
        layer = Path(folder) / "model.usdc"
        stage = Usd.Stage.CreateNew(str(layer))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/model")
        stage.SetDefaultPrim(root.GetPrim())
        _define_mesh(stage, mesh)
        _define_material(stage, normal_map is not None)
        stage.GetRootLayer().Save()
        packed = Path(folder) / "model.usdz"
        if not UsdUtils.CreateNewUsdzPackage(Sdf.AssetPath(str(layer)), str(packed)):
            raise OSError(f"usd-core could not write a USDZ file in {folder}")
        return packed.read_bytes()


def _define_mesh(stage, mesh: UnwrappedMesh) -> None:
    from pxr import Sdf, UsdGeom, UsdShade, Vt

    points, normals, faces = mesh.uncut()
    points, normals = (np.asarray(to_gltf_axes(array), dtype=np.float32) for array in (points, normals))
    prim = UsdGeom.Mesh.Define(stage, "/model/mesh")
    prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(points)))
    prim.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(normals)))
    prim.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, dtype=np.int32)))
    prim.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1).astype(np.int32)))
    prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    prim.CreateExtentAttr([tuple(map(float, points.min(0))), tuple(map(float, points.max(0)))])
    coordinates = UsdGeom.PrimvarsAPI(prim).CreatePrimvar(
        "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying
    )
    uv = np.ascontiguousarray(mesh.uv[mesh.faces].reshape(-1, 2), dtype=np.float32)
    coordinates.Set(Vt.Vec2fArray.FromNumpy(uv))
    UsdShade.MaterialBindingAPI.Apply(prim.GetPrim())


def _define_material(stage, has_normal_map: bool) -> None:
    from pxr import Gf, Sdf, UsdShade

    material = UsdShade.Material.Define(stage, "/model/material")

    def shader(name: str, kind: str):
        node = UsdShade.Shader.Define(stage, f"/model/material/{name}")
        node.CreateIdAttr(kind)
        return node

    coordinates = shader("coordinates", "UsdPrimvarReader_float2")
    coordinates.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
    coordinates.CreateOutput("result", Sdf.ValueTypeNames.Float2)

    def texture(name: str, file: str, colour_space: str):
        node = shader(name, "UsdUVTexture")
        node.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath(file))
        node.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set(colour_space)
        for wrap in ("wrapS", "wrapT"):
            node.CreateInput(wrap, Sdf.ValueTypeNames.Token).Set("clamp")
        node.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
            coordinates.ConnectableAPI(), "result"
        )
        node.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        return node

    surface = shader("surface", "UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(1.0)
    surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
    colour = texture("base_colour", "./base_colour.png", "sRGB")
    surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(
        colour.ConnectableAPI(), "rgb"
    )
    if has_normal_map:
        normal = texture("normal", "./normal.png", "raw")
        normal.CreateInput("scale", Sdf.ValueTypeNames.Float4).Set(Gf.Vec4f(2, 2, 2, 1))
        normal.CreateInput("bias", Sdf.ValueTypeNames.Float4).Set(Gf.Vec4f(-1, -1, -1, 0))
        surface.CreateInput("normal", Sdf.ValueTypeNames.Normal3f).ConnectToSource(
            normal.ConnectableAPI(), "rgb"
        )
    surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    UsdShade.MaterialBindingAPI(stage.GetPrimAtPath("/model/mesh")).Bind(material)


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
