"""`render` on the command line: a mesh into a folder, many into shards."""

import json
import os

import pytest
import trimesh

from imagedream.cli import main


@pytest.fixture
def meshes(tmp_path):
    """Two meshes and a broken one, as a user's folder."""
    folder = tmp_path / "meshes"
    folder.mkdir()
    trimesh.creation.box((1.0, 0.5, 0.25)).export(folder / "red_box.glb")
    trimesh.creation.cone(0.5, 1.0).export(folder / "cone.ply")
    (folder / "broken.obj").write_text("nothing")
    (folder / "model.fbx").write_bytes(b"FBX")
    os.mkfifo(folder / "queue.glb")
    return folder


def test_a_mesh_becomes_a_folder(meshes, tmp_path, capsys):
    out = tmp_path / "views"
    options = ["--size", "16", "--views", "4", "--elevation-deg", "20", "--front=-x"]
    assert main(["render", str(meshes / "red_box.glb"), "--out", str(out), *options]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    record = json.loads((out / "cameras.json").read_text())
    assert record["caption"] == "red box"
    assert (record["front"], record["front_from"]) == ("-x", "option")
    assert {view["elevation_deg"] for view in record["views"]} == {20.0}
    assert len(list(out.glob("view_*.png"))) == 4


def test_a_folder_becomes_shards(meshes, tmp_path, capsys):
    (tmp_path / "captions.csv").write_text("cone,a party hat\nbroken,\n")
    (tmp_path / "names.txt").write_text("cone\nbroken\n\n")
    out = tmp_path / "shards"
    command = ["render", str(meshes), "--out", str(out), "--size", "8", "--views", "4", "--jobs", "1"]
    command += ["--captions", str(tmp_path / "captions.csv"), "--only", str(tmp_path / "names.txt")]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert f"warning: skipped {meshes / 'broken.obj'}" in said.err
    assert "1 of 2 objects could not be rendered" in said.err
    lines = [json.loads(line) for line in (out / "objects.jsonl").read_text().splitlines()]
    assert [(line["key"], line["caption"]) for line in lines] == [("broken", ""), ("cone", "a party hat")]
    assert json.loads((out / "shard-000000.json").read_text())["samples"] == 2
    before = (out / "shard-000000.tar").stat().st_mtime_ns
    assert main(command) == 0
    assert "2 of 2 objects are done already" in capsys.readouterr().err
    assert (out / "shard-000000.tar").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{meshes}", "--caption", "a box"], "--caption is for a single mesh"),
        ([""], "source is empty"),
        (
            ["{meshes}/model.fbx"],
            "model.fbx is a file that ends with '.fbx', a mesh file ends with one of .glb",
        ),
        (["{meshes}/queue.glb"], "queue.glb is no regular file"),
        (["{meshes}", "--elevation-deg", "0", "10", "20"], "--elevation-deg takes one number, or"),
        (
            ["{meshes}", "--fov-y-deg", "60", "15"],
            "fov_y_deg is (60.0, 15.0), must be a list of 2 numbers ascending",
        ),
        (["{meshes}", "--jobs", "0"], "--jobs is 0"),
        (["{meshes}", "--timeout-s", "0"], "--timeout-s is 0.0"),
        (["{meshes}/red_box.glb", "--rings", "2"], "rings is 2: a folder of views holds 1"),
        (["{meshes}", "--only", "missing.txt"], "missing.txt: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, meshes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["render", *(argument.format(meshes=meshes) for argument in arguments)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [meshes]
