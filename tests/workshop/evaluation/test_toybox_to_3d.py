"""The benchmark's scoring, on trial folders that are written here from known toys."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import toybox_to_3d as benchmark
from benchmarks.watched_process import watch
from imagedream.mesh.gltf_axes import to_gltf_axes
from imagedream.pictures import to_pil
from imagedream.workshop.evaluation.held_out_objects import Orbit, ellipsoid, held_out_cases


@pytest.fixture(scope="module")
def case():
    return held_out_cases(1, seed=2, kinds=["car"])[0]


def write_trial(trial, case, mesh, lit=True):
    """The files of a run whose four views are true and whose field and export are the given mesh."""
    export, test = trial / "save" / "it3-export", trial / "save" / "it3-test"
    for folder in (export, test, trial / "configs", trial / "save" / "it2-test"):
        folder.mkdir(parents=True)
    orbit = Orbit(elevation_deg=12.0)
    images = orbit.on_white(case.object.mesh, 48).permute(0, 2, 3, 1).mul(255).round().byte().numpy()
    np.savez(trial / "save" / "views.npz", images=images, azimuths_deg=[0, 90, 180, 270], elevation_deg=12.0)
    evaluation = {"eval_elevation_deg": 5.0, "eval_fovy_deg": 40.0, "eval_relative_distance": 0.7}
    (trial / "configs" / "parsed.yaml").write_text(json.dumps({"data": evaluation}))
    turntable = Orbit(tuple(30.0 * index for index in range(12)), 5.0, 40.0, 0.7)
    for index, picture in enumerate(turntable.on_white(mesh, 48, lit)):
        opacity = torch.zeros(3, 48, 48)
        to_pil(torch.cat([picture, opacity], dim=2)).save(test / f"{index}.png")
    exported = mesh.copy()
    exported.vertices = to_gltf_axes(mesh.vertices)
    exported.export(export / "model.glb")
    (trial / "save" / "run.json").write_text(json.dumps({"seconds": {"optimisation": 3.5}}))


def test_a_perfect_run_scores_perfectly(case, tmp_path):
    write_trial(tmp_path / "car" / "run" / "toy", case, case.object.mesh)
    scores = benchmark.score_trial(case, tmp_path / "car" / "run" / "toy", 48)
    assert scores["four views"]["psnr_db"] > 45  # rounded to 8 bits
    assert scores["field"]["psnr_db"] > 45
    assert scores["field"]["iou"] > 0.99
    # the mesh is rendered unlit, so without the light baked in only its outline is perfect; nearly: trimesh writes sRGB
    # numbers where glTF has linear ones, which makes pale parts so pale that they count as background
    assert scores["mesh"]["iou"] > 0.97
    assert scores["mesh"]["psnr_db"] < 40
    assert scores["mesh"]["chamfer"] < 0.01
    assert scores["phases"] == {"optimisation": 3.5}


def test_a_lump_scores_like_the_ellipsoid(case, tmp_path):
    write_trial(tmp_path / "car" / "run" / "toy", case, ellipsoid(case.object))
    scores = benchmark.score_trial(case, tmp_path / "car" / "run" / "toy", 48)
    assert scores["field"] == pytest.approx(scores["trivial 3D"]["ellipsoid"], abs=0.02)
    assert scores["mesh"]["chamfer"] == pytest.approx(scores["ellipsoid chamfer"], rel=0.01)
    assert scores["mesh"]["iou"] == pytest.approx(scores["trivial 3D"]["ellipsoid"]["iou"], abs=0.02)


def test_report_has_a_row_for_each_toy_means_and_failures(case, tmp_path):
    write_trial(tmp_path / case.label / "run" / "toy", case, case.object.mesh)
    result = {
        "toy": case.label,
        **benchmark.score_trial(case, tmp_path / case.label / "run" / "toy", 48),
        "seconds": 10.0,
        "peak_gib": 1.0,
    }
    failed = {"toy": "mug-7", "error": "exit code 2: no such weights"}
    text = benchmark.report([result, {**result, "seconds": 20.0}, failed], benchmark.Settings())
    for words in (
        f"| {case.label}",
        "| mean ",
        "| ellipsoid ",
        "| optimisation | 3.5",
        "| whole run    | 15 ",
        "FAILED mug-7: exit",
    ):
        assert words in text
    assert "95 % interval" not in text  # of two toys
    assert benchmark.report([result] * 8, benchmark.Settings()).count("| 95 % interval |") == 3
    picture = benchmark.sheet([result], tmp_path)
    assert picture.size == (len(benchmark.SHEET_COLUMNS) * 96, 16 + 96)


def test_finished_toys_are_not_run_again(case, tmp_path, monkeypatch):
    settings = benchmark.Settings(work=tmp_path, overrides=("seed=1",))
    folder = tmp_path / case.label
    folder.mkdir()
    kept = {"toy": case.label, "settings": settings.identity}
    (folder / "result.json").write_text(json.dumps(kept))
    assert benchmark.run_toy(case, settings) == kept
    # other settings run again; here they cannot
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    again = benchmark.run_toy(case, benchmark.Settings(work=tmp_path, overrides=("seed=2",)))
    assert "exit code 2" in again["error"]
    assert not (folder / "result.json").exists()
    with Image.open(folder / "prompt.png") as prompt:
        assert prompt.mode == "RGBA"


def test_a_watched_process_has_exit_code_time_and_memory(tmp_path):
    command = [
        sys.executable,
        "-c",
        "import time; x = bytearray(200 * 2**20); time.sleep(0.2); print('done'); raise SystemExit(3)",
    ]
    watched = watch(command, tmp_path / "log.txt")
    assert watched.code == 3
    assert watched.seconds > 0.2
    assert watched.processor_seconds > 0
    assert 0.19 < watched.peak_gib < 0.5
    assert (tmp_path / "log.txt").read_text() == "done\n"


def test_a_result_of_another_split_does_not_count():
    """Held-out toys and combinations of one kind and number have the same name but are different toys."""
    assert benchmark.Settings(split="combinations").identity != benchmark.Settings().identity
    assert benchmark.Settings(split="unseen-kinds").identity == benchmark.Settings().identity
