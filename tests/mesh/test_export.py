"""The round trip: files are loaded again and compared with the field."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from imagedream import mesh as meshing
from tests.mesh.fields import ball, grey


@pytest.fixture(scope="module")
def exported(meshed_arrow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, *meshing.export(meshed_arrow, folder, "glb+obj+ply+stl", "arrow")


def test_every_file_is_written_and_judged(exported, meshed_arrow):
    folder, paths, record = exported
    assert [path.name for path in paths][:2] == ["arrow.glb", "arrow.obj"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    assert {"arrow-levels.png", "arrow.mtl", "arrow.png", "arrow_normal.png"} <= {path.name for path in paths}
    assert [file["file"] for file in record["files"]] == ["arrow.glb", "arrow.obj", "arrow.ply", "arrow.stl"]
    for file in record["files"]:
        assert file["faces"] == meshed_arrow.statistics.faces
        assert file["bytes"] == (folder / file["file"]).stat().st_size
        assert file["silhouette_iou"] > 0.95
        assert file["solid"]["watertight"]
        assert (file["solid"]["pieces"], file["solid"]["tunnels"]) == (1, 0)
    json.dumps(record)  # nothing in it that JSON lacks


def test_the_file_looks_like_the_field(exported):
    glb, obj, ply, stl = exported[2]["files"]
    assert glb["psnr_db"] > meshing.GOOD_PSNR_DB
    assert glb["colour_psnr_db"] > meshing.GOOD_PSNR_DB
    assert obj["psnr_db"] == pytest.approx(glb["psnr_db"], abs=0.1)
    assert ply["psnr_db"] > 20
    assert stl["psnr_db"] is None
    assert exported[2]["warnings"] == []


def test_a_file_of_another_object_does_not(meshed_arrow, tmp_path):
    small = meshing.MeshSettings(resolution=32, texture_size=64, target_faces=500, bake_views=4)
    ball_path = meshing.save(meshing.to_files(meshing.mesh_field(ball(0.3), grey, small).model), tmp_path)[0]
    agreement = meshed_arrow.views.agreement(meshing.load(ball_path))
    assert agreement.psnr_db < 18
    assert agreement.silhouette_iou < 0.7


def test_axes_read_wrongly_would_be_noticed(exported, meshed_arrow):
    obj = exported[1][1]
    right = meshed_arrow.views.agreement(meshing.load(obj, "+y"))
    wrong = meshed_arrow.views.agreement(meshing.load(obj, "+z"))
    assert right.psnr_db > wrong.psnr_db + 6


def test_opacity_within_the_outline():
    pose, fov = meshing.sphere_views(1.0, count=4)
    rgba = torch.zeros(1, 4, 4, 4)
    rgba[0, 3, 0] = torch.tensor([0.8, 0.6, 0.4, 0.0])  # two pixels are more than half opaque
    assert meshing.FieldViews(pose[:1], fov[:1], rgba).mean_opacity == pytest.approx(0.7)


def test_what_hard_edges_can_reach():
    pose, fov = meshing.sphere_views(1.0, count=4)
    rgba = torch.zeros(1, 4, 2, 2)
    rgba[0, :, 0, 0] = torch.tensor([0.4, 0.0, 0.0, 0.8])  # a red of 0.5, shown over white as (0.6, 0.2, 0.2)
    rgba[0, :, 0, 1] = torch.tensor([0.4, 0.0, 0.0, 0.4])  # a red of 1, cut off; it was (1, 0.6, 0.6)
    # squares of errors: 0.1² + 0.2² + 0.2² = 0.09 and 0.4² + 0.4² = 0.32, over 12 numbers
    expected = -10 * math.log10(0.41 / 12)
    assert meshing.FieldViews(pose[:1], fov[:1], rgba).hard_edges_psnr_db == pytest.approx(expected, abs=1e-4)


def test_hazy_field_is_reported(tmp_path):
    soft = meshing.MeshSettings(resolution=32, texture_size=64, target_faces=500, bake_views=8)
    result = meshing.mesh_field(ball(0.3, highest=4.0, sharpness=20.0), grey, soft)
    _, record = meshing.export(result, tmp_path, "glb+ply")
    assert len(record["warnings"]) == 1
    assert "does not look like the field: PSNR" in record["warnings"][0]
    assert "hazy, on average" in record["warnings"][0]
    assert record["files"][0]["psnr_db"] < meshing.GOOD_PSNR_DB

    # also where colours are lost in it: those of a hazy field differ from view to view
    darker = meshing.TexturedMesh(result.model.mesh, result.model.base_colour // 2)
    _, record = meshing.export(replace(result, model=darker), tmp_path)
    assert record["files"][0]["psnr_db"] < record["hard_edges_psnr_db"] - 3
    assert "hazy, on average" in record["warnings"][0]


def test_too_small_a_texture_is_told_from_haze(meshed_arrow, tmp_path):
    model = meshed_arrow.model
    grey_picture = np.full_like(model.base_colour, 128)
    painted_over = replace(meshed_arrow, model=meshing.TexturedMesh(model.mesh, grey_picture))
    _, record = meshing.export(painted_over, tmp_path)
    assert "target_faces, texture_size or bake_views are too small" in record["warnings"][0]


def test_summary_says_what_people_ask(exported, meshed_arrow):
    lines = meshing.summary(exported[2])
    assert f"{meshed_arrow.statistics.faces} faces (at most 4000 asked for)" in lines[0]
    assert "isosurface level" in lines[0]
    assert len(lines) == 5
    assert "watertight with 0 tunnels" in lines[1]
    assert "dB against the field over 16 views" in lines[1]
    assert "PSNR" not in lines[4]  # of the STL
