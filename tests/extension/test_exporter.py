"""The exporter in the embedded host, as a system uses it: density fields, and geometries that are surfaces."""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

import threestudio
from imagedream.image_prompt.picture_projection import Placement
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.mesh.isosurface import sample_density
from imagedream.mesh.raycast import Raycaster
from imagedream.mesh.surface import EmptyFieldError, extract_surface
from tests import arrow
from threestudio.models.geometry.base import BaseExplicitGeometry, BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.mesh import Mesh
from threestudio.utils.saving import SaverMixin


class ArrowGeometry(BaseImplicitGeometry):
    """The arrow as a density field with its colours as features."""

    faintness = 1.0

    def forward_density(self, points):
        return arrow.density()(points)[:, None] / self.faintness

    def export(self, points, **kwargs):
        return {"features": arrow.colour(points)}


class ArrowMesh(BaseExplicitGeometry):
    """The arrow as a mesh, as implicit-sdf and tetrahedra-sdf-grid have one."""

    def isosurface(self):
        grid = sample_density(arrow.density(), 40, radius=1.0)
        surface = extract_surface(grid, 50.0)
        return Mesh(torch.tensor(surface.vertices.copy()).float(), torch.tensor(surface.faces.copy()))

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
def exporter_class(extension):
    return threestudio.find("imagedream-mesh-exporter")


def build(exporter_class, geometry=None, material=None, **settings):
    small = {"resolution": 40, "texture_size": 128, "target_faces": 2000, "bake_views": 8}
    geometry = ArrowGeometry({"radius": 1.0}) if geometry is None else geometry
    return exporter_class(
        small | settings, geometry=geometry, material=material or Albedo({}), background=None
    )


def export(exporter, folder):
    saver = Saver()
    saver.set_save_dir(str(folder))
    saver.write(exporter())
    return folder / "it7-export"


def test_export_writes_an_upright_textured_glb_and_its_numbers(exporter_class, tmp_path, caplog):
    with caplog.at_level("INFO"):
        folder = export(build(exporter_class), tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["model-levels.png", "model.glb", "model.json"]
    mesh = trimesh.load_scene(folder / "model.glb").to_mesh()
    assert mesh.volume > 0
    assert mesh.visual.material.baseColorTexture.size == (128, 128)
    assert mesh.bounds[1] == pytest.approx([0.3, 0.35, 0.5], abs=0.04)  # left, up, front
    numbers = json.loads((folder / "model.json").read_text())
    assert numbers["faces"] == len(mesh.faces) <= 2000
    assert max(numbers["silhouette_iou_by_level"].values()) > 0.85
    (file,) = numbers["files"]
    assert file["silhouette_iou"] > 0.9
    assert file["psnr_db"] > 22
    assert file["solid"]["watertight"]
    # the round trip is printed at the end
    assert f"PSNR {file['psnr_db']:.1f} dB against the field" in caplog.text


def test_obj_comes_with_its_material_and_pictures(exporter_class):
    outputs = build(exporter_class, fmt="glb+obj", save_name="toy", isosurface_threshold=50.0)()
    names = ["toy.glb", "toy.obj", "toy.mtl", "toy.png", "toy_normal.png", "toy.json"]
    assert [output.save_name for output in outputs] == names
    assert b"mtllib toy.mtl" in Path(outputs[1].params["src_path"]).read_bytes()
    assert outputs[-1].params["payload"]["level"] == 50.0


def test_geometries_that_are_surfaces(exporter_class, tmp_path):
    folder = export(build(exporter_class, ArrowMesh({"radius": 0.6}), fmt="obj", up="+z"), tmp_path)
    numbers = json.loads((folder / "model.json").read_text())
    assert numbers["level"] is None
    assert not (folder / "model-levels.png").exists()
    assert numbers["faces"] <= 2000
    assert numbers["files"][0]["solid"]["watertight"]
    assert numbers["files"][0]["psnr_db"] > 22
    mesh = trimesh.load_scene(folder / "model.obj").to_mesh()
    assert mesh.bounds[1] == pytest.approx([0.5, 0.3, 0.35], abs=0.04)  # front, left, up


WRONG = [
    ({"fmt": "fbx"}, "'fbx'; allowed: glb, obj, ply, stl, usdz"),
    ({"save_name": "../../model"}, "save_name is '../../model', must be a plain file name"),
    ({"bake_views": 1}, "bake_views is 1"),
    ({"picture_detail": "on"}, "picture_detail is 'on', must be one of auto, off"),
    ({"picture_detail": True}, "picture_detail is True, must"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_settings_fail_before_anything_runs(exporter_class, settings, message):
    with pytest.raises(ValueError, match=message):
        build(exporter_class, **settings)
    with pytest.raises(ValueError, match=message):
        exporter_class.preflight(settings)


def test_preflight_accepts_what_is_right_and_no_unknown_keys(exporter_class):
    exporter_class.preflight({"fmt": "glb+stl", "texture_size": 512, "picture_detail": False})  # YAML's off
    with pytest.raises(Exception, match="texture_sise"):
        exporter_class.preflight({"texture_sise": 512})


def test_geometry_without_a_surface_and_material_without_albedo_are_errors(exporter_class):
    with pytest.raises(ValueError, match=r"forward_density.*isosurface.*got Linear"):
        build(exporter_class, geometry=torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="BaseMaterial exports nothing"):
        build(exporter_class, material=BaseMaterial({}))()


def from_its_left(certainty):
    """A picture of the arrow, shaded towards its rear as the field is not, and where it was taken from."""
    surface = extract_surface(sample_density(arrow.density(), 40, radius=1.0), 50.0)
    camera = PromptCamera(80.0, 10.0, 2.0, 40.0, (0.0, 0.0), certainty, 0.9)
    pose, fov = Placement(camera).camera_to_world, torch.tensor([camera.fov_y_deg])
    shaded = Raycaster(
        surface, lambda points: arrow.colour(torch.from_numpy(points)).numpy() * (0.4 + points[:, :1])
    )
    return shaded.render(pose, fov, 128, light=None).rgba[0], camera


@pytest.mark.slow
def test_a_picture_lends_the_mesh_its_pixels_if_that_is_wanted(exporter_class, tmp_path, caplog):
    exporter = build(exporter_class, isosurface_threshold=50.0)
    plain = export(exporter, tmp_path / "plain")
    exporter.pictures = [from_its_left(0.9)]
    with caplog.at_level("INFO"):
        detailed = export(exporter, tmp_path / "detailed")
    record = json.loads((detailed / "model.json").read_text())
    (detail,) = record["picture_detail"]
    assert detail["refused"] is None
    assert "own pixels are on the side of the mesh that it shows" in caplog.text
    # the field is firm, and the file differs from it because it is to
    assert not record["warnings"]
    pixels, others = (
        np.asarray(
            trimesh.load_scene(folder / "model.glb").to_mesh().visual.material.baseColorTexture
        ).astype(int)
        for folder in (detailed, plain)
    )
    changed = (np.abs(pixels - others) > 8).any(-1).mean()
    assert 0.1 < changed < 0.6
    exporter.cfg.picture_detail = "off"
    assert (export(exporter, tmp_path / "off") / "model.glb").read_bytes() == (
        plain / "model.glb"
    ).read_bytes()


def test_why_a_picture_lends_nothing_is_said(exporter_class, tmp_path, caplog):
    exporter = build(exporter_class, isosurface_threshold=50.0)
    exporter.pictures = [from_its_left(0.3)]
    with caplog.at_level("INFO"):
        folder = export(exporter, tmp_path)
    assert "own pixels are not on the mesh: its camera is 30% certain, needed are 50%" in caplog.text
    assert json.loads((folder / "model.json").read_text())["picture_detail"][0]["certainty"] == 0.3


def test_pictures_come_with_more_pixels_and_their_cameras(extension, picture):
    sharp_pictures = import_module("threestudio-imagedream.camera_estimate").sharp_pictures
    processor, cfg = threestudio.find("imagedream-prompt-processor"), {"image_path": picture}
    known = from_its_left(0.9)[1]
    ((pixels, camera),) = sharp_pictures(processor, cfg, [known], 200)
    assert pixels.shape == (4, 200, 200)
    assert camera is known
    assert sharp_pictures(processor, cfg, [], 200) == []
    assert sharp_pictures(processor, cfg, [known, known], 200) == []  # of other pictures


def test_empty_field_writes_nothing(exporter_class, tmp_path):
    geometry = ArrowGeometry({"radius": 1.0})
    geometry.faintness = 1000.0
    saver = Saver()
    saver.set_save_dir(str(tmp_path))
    with pytest.raises(EmptyFieldError, match=r"largest density is 0\.1"):
        saver.write(build(exporter_class, geometry)())
    assert list(tmp_path.iterdir()) == []
