"""The round trip: files are loaded again and compared with the field."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from imagedream.mesh import MeshSettings, TexturedMesh, export, load_exported, mesh_field, summary
from imagedream.mesh.agreement import FieldViews
from imagedream.mesh.export import GOOD_PSNR_DB
from imagedream.mesh.field import sphere_views
from imagedream.mesh.writing import save, to_files
from tests.mesh.fields import ball, grey

SMALL = MeshSettings(resolution=32, texture_size=64, target_faces=500, bake_views=8)


@pytest.fixture(scope="module")
def exported(meshed_arrow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, *export(meshed_arrow, folder, "glb+obj+ply+stl", "arrow")


def test_every_file_is_written_and_judged(exported, meshed_arrow):
    folder, paths, record = exported
    names = [path.name for path in paths]
    assert names[:2] == ["arrow.glb", "arrow.obj"]
    assert {"arrow-levels.png", "arrow.mtl", "arrow.png", "arrow_normal.png"} <= set(names)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert [file["file"] for file in record["files"]] == ["arrow.glb", "arrow.obj", "arrow.ply", "arrow.stl"]
    for file in record["files"]:
        assert file["faces"] == record["faces"] == len(meshed_arrow.model.mesh.faces)
        assert file["bytes"] == (folder / file["file"]).stat().st_size
        assert file["silhouette_iou"] > 0.95
        assert file["solid"]["watertight"]
        assert (file["solid"]["pieces"], file["solid"]["tunnels"]) == (1, 0)
    assert record["vertices"] == len(np.unique(meshed_arrow.model.mesh.vertices, axis=0))
    json.dumps(record)  # nothing in it that JSON lacks


def test_the_files_look_like_the_field(exported):
    glb, obj, ply, stl = exported[2]["files"]
    assert min(glb["psnr_db"], glb["colour_psnr_db"]) > GOOD_PSNR_DB
    assert obj["psnr_db"] == pytest.approx(glb["psnr_db"], abs=0.1)
    assert ply["psnr_db"] > 20
    assert stl["psnr_db"] is None
    assert exported[2]["warnings"] == []


def test_a_file_of_another_object_and_wrong_axes_would_be_noticed(exported, meshed_arrow, tmp_path):
    other = save(to_files(mesh_field(ball(0.3), grey, settings=SMALL).model), tmp_path)[0]
    agreement = meshed_arrow.views.agreement(load_exported(other))
    assert agreement.psnr_db < 18
    assert agreement.silhouette_iou < 0.7
    right, wrong = (
        meshed_arrow.views.agreement(load_exported(exported[1][1], up)).psnr_db for up in ("+y", "+z")
    )
    assert right > wrong + 6


def test_haze_and_what_hard_edges_can_reach_by_hand():
    pose, fov = sphere_views(1.0, count=1)
    rgba = torch.zeros(1, 4, 2, 2)
    rgba[0, :, 0, 0] = torch.tensor([0.4, 0.0, 0.0, 0.8])  # a red of 0.5, shown over white as (0.6, 0.2, 0.2)
    rgba[0, :, 0, 1] = torch.tensor([0.4, 0.0, 0.0, 0.4])  # a red of 1, cut off; it was (1, 0.6, 0.6)
    rgba[0, 3, 1, 0] = 0.6
    # squares of errors: 0.1² + 0.2² + 0.2² = 0.09, 0.4² + 0.4² = 0.32 and 3 · 0.4² = 0.48, over 12 numbers
    views = FieldViews(pose, fov, rgba)
    assert views.hard_edges_psnr_db == pytest.approx(-10 * math.log10(0.89 / 12), abs=1e-4)
    assert views.mean_opacity == pytest.approx(0.7)  # of the two pixels that are more than half opaque


def test_hazy_field_is_reported(tmp_path):
    result = mesh_field(ball(0.3, highest=4.0, sharpness=20.0), grey, settings=SMALL)
    _, record = export(result, tmp_path)
    assert "hazy, on average" in record["warnings"][0]
    assert record["field_opacity"] < 0.95
    assert record["files"][0]["psnr_db"] < GOOD_PSNR_DB
    # also where colours are lost in it: those of a hazy field differ from view to view
    darker = TexturedMesh(result.model.mesh, result.model.base_colour // 2)
    _, record = export(replace(result, model=darker), tmp_path)
    assert record["files"][0]["psnr_db"] < record["hard_edges_psnr_db"] - 3
    assert "hazy, on average" in record["warnings"][0]


def test_too_small_a_texture_is_told_from_haze(meshed_arrow, tmp_path):
    model = meshed_arrow.model
    painted_over = TexturedMesh(model.mesh, np.full_like(model.base_colour, 128))
    _, record = export(replace(meshed_arrow, model=painted_over), tmp_path)
    assert "target_faces, texture_size or bake_views are too small" in record["warnings"][0]


def test_summary_says_what_people_ask(exported):
    lines = summary(exported[2])
    assert f"{exported[2]['faces']} faces (at most 4000 asked for), isosurface level" in lines[0]
    assert len(lines) == 5
    assert "watertight with 0 tunnels" in lines[1]
    assert "dB against the field over 16 views" in lines[1]
    assert "PSNR" not in lines[4]  # of the STL
