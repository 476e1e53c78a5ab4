import io
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from imagedream.mesh.export import load_exported
from imagedream.mesh.surface import check_solid
from imagedream.mesh.writing import TexturedMesh, check_format, save, to_files


def test_missing_library_is_named_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pxr", None)
    with pytest.raises(ImportError, match=r"USDZ files need usd-core.*pip install 'imagedream\[usdz\]'"):
        check_format("glb+usdz")
    check_format("glb")


@pytest.fixture(scope="module")
def usdz_path(meshed_arrow, tmp_path_factory):
    pytest.importorskip("pxr", reason="usd-core is not installed")
    return save(to_files(meshed_arrow.model, "usdz", "arrow"), tmp_path_factory.mktemp("usdz"))[0]


def test_usdz_is_a_package_of_uncompressed_aligned_files(usdz_path, meshed_arrow):
    # as the USDZ specification asks: no compression, data at multiples of 64 bytes, the layer first
    data = usdz_path.read_bytes()
    with zipfile.ZipFile(usdz_path) as archive:
        entries = archive.infolist()
        assert entries[0].filename.endswith(".usdc")
        for entry in entries:
            assert entry.compress_type == zipfile.ZIP_STORED
            header = data[entry.header_offset : entry.header_offset + 30]
            lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
            assert (entry.header_offset + 30 + lengths) % 64 == 0
        pictures = {entry.filename.rpartition("/")[2]: archive.read(entry) for entry in entries[1:]}
    assert set(pictures) == {"base_colour.png", "normal.png"}
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(pictures["base_colour.png"]))), meshed_arrow.model.base_colour
    )


def test_usdz_stands_upright_with_its_material(usdz_path):
    from pxr import Usd, UsdGeom, UsdShade

    stage = Usd.Stage.Open(str(usdz_path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/model"
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    extent = np.asarray(mesh.GetExtentAttr().Get())
    np.testing.assert_allclose(extent, [[-0.3, -0.3, -0.5], [0.3, 0.35, 0.5]], atol=0.03)
    material, _ = UsdShade.MaterialBindingAPI(mesh.GetPrim()).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    assert surface.GetIdAttr().Get() == "UsdPreviewSurface"
    for name, space in (("diffuseColor", "sRGB"), ("normal", "raw")):
        texture = UsdShade.Shader(surface.GetInput(name).GetConnectedSources()[0][0].source)
        assert texture.GetInput("sourceColorSpace").Get() == space
        assert texture.GetInput("file").Get().resolvedPath  # found within the package


def test_usdz_comes_back_as_it_was(usdz_path, glb_path):
    again, other = load_exported(usdz_path), load_exported(glb_path)
    np.testing.assert_allclose(again.bounds, other.bounds, atol=1e-6)
    assert len(again.faces) == len(other.faces)
    np.testing.assert_allclose(again.triangles, other.triangles, atol=1e-6)
    assert check_solid(again).watertight


def test_usdz_without_a_normal_map_names_none(meshed_arrow, tmp_path):
    pytest.importorskip("pxr", reason="usd-core is not installed")
    from pxr import Usd

    model = TexturedMesh(meshed_arrow.model.mesh, meshed_arrow.model.base_colour)
    stage = Usd.Stage.Open(str(save(to_files(model, "usdz"), tmp_path)[0]))
    assert not stage.GetPrimAtPath("/model/material/normal")
    assert not stage.GetPrimAtPath("/model/material/surface").GetAttribute("inputs:normal")
    assert stage.GetPrimAtPath("/model/material/surface").GetAttribute("inputs:diffuseColor")
