"""The exporter in the embedded host, as a system uses it."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import trimesh

import threestudio
from imagedream import meshing
from tests import arrow
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.saving import SaverMixin


class ArrowGeometry(BaseImplicitGeometry):
    """The arrow as a density field with its colours as features."""

    faintness = 1.0

    def forward_density(self, points):
        return arrow.density()(points)[:, None] / self.faintness

    def export(self, points, **kwargs):
        return {"features": arrow.colour(points)}


class Albedo(BaseMaterial):
    """Features are the albedo."""

    def export(self, features, **kwargs):
        return {"albedo": features}


class Saver(SaverMixin):
    """The part of a system that writes what an exporter returns."""

    def write(self, outputs):
        for output in outputs:
            getattr(self, f"save_{output.save_type}")(f"it7-export/{output.save_name}", **output.params)


@pytest.fixture(scope="module")
def exporter_class():
    if "imagedream-mesh-exporter" not in threestudio.__modules__:
        path = Path(__file__).parents[2] / "custom" / "threestudio-imagedream" / "exporter.py"
        spec = importlib.util.spec_from_file_location("imagedream_exporter_under_test", path)
        sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[spec.name])
    return threestudio.find("imagedream-mesh-exporter")


def build(exporter_class, geometry=None, material=None, **settings):
    small = {"resolution": 40, "texture_size": 128, "target_faces": 2000}
    geometry = ArrowGeometry({"radius": 1.0}) if geometry is None else geometry
    return exporter_class(
        small | settings, geometry=geometry, material=material or Albedo({}), background=None
    )


def test_export_writes_an_upright_textured_glb_and_its_numbers(exporter_class, tmp_path):
    saver = Saver()
    saver.set_save_dir(str(tmp_path))
    saver.write(build(exporter_class)())
    folder = tmp_path / "it7-export"
    assert sorted(path.name for path in folder.iterdir()) == ["model.glb", "model.json"]
    mesh = trimesh.load_scene(folder / "model.glb").to_mesh()
    assert mesh.volume > 0
    assert mesh.visual.material.baseColorTexture.size == (128, 128)
    assert mesh.bounds[1] == pytest.approx([0.3, 0.35, 0.5], abs=0.04)  # left, up, front
    numbers = json.loads((folder / "model.json").read_text())
    assert numbers["faces"] == len(mesh.faces) <= 2000
    assert numbers["iou"] > 0.9
    assert max(numbers["silhouette_iou_by_level"].values()) > 0.85


def test_obj_comes_with_its_material_and_picture(exporter_class):
    outputs = build(exporter_class, fmt="glb+obj", save_name="toy", isosurface_threshold=50.0)()
    assert [output.save_name for output in outputs] == [
        "toy.glb",
        "toy.obj",
        "toy.mtl",
        "toy.png",
        "toy.json",
    ]
    assert b"mtllib toy.mtl" in Path(outputs[1].params["src_path"]).read_bytes()
    assert outputs[-1].params["payload"]["level"] == 50.0


def test_wrong_settings_fail_before_anything_runs(exporter_class):
    with pytest.raises(ValueError, match=r"'ply'; allowed: glb, obj, glb\+obj"):
        build(exporter_class, fmt="ply")
    with pytest.raises(ValueError, match="isosurface_threshold is 'high'"):
        build(exporter_class, isosurface_threshold="high")
    with pytest.raises(ValueError, match="resolution is 4"):
        build(exporter_class, resolution=4)
    with pytest.raises(ValueError, match="forward_density such as implicit-volume; got Linear"):
        build(exporter_class, geometry=torch.nn.Linear(1, 1))


def test_material_without_albedo_is_an_error(exporter_class):
    with pytest.raises(ValueError, match="BaseMaterial exports nothing"):
        build(exporter_class, material=BaseMaterial({}))()


def test_empty_field_writes_nothing(exporter_class, tmp_path):
    geometry = ArrowGeometry({"radius": 1.0})
    geometry.faintness = 1000.0
    saver = Saver()
    saver.set_save_dir(str(tmp_path))
    with pytest.raises(meshing.EmptyFieldError, match=r"largest density is 0\.1"):
        saver.write(build(exporter_class, geometry)())
    assert list(tmp_path.iterdir()) == []
