"""Which objects a source has, and what they are called."""

import gzip
import json
import unicodedata

import pytest
import trimesh

from imagedream.workshop.rendering.captioned_files import Item, file_items, find_items, read_names

UID = "8476c4170df24cf5bbe6967222d1a42d"


def box(path, title=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = trimesh.Scene([trimesh.creation.box()])
    content = scene.export(file_type=path.suffix[1:])
    if title is not None:  # as Sketchfab writes it

        def add_title(tree):
            tree["asset"]["extras"] = {"title": title}

        content = trimesh.exchange.gltf.export_glb(scene, tree_postprocessor=add_title)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def objaverse(tmp_path):
    """The folders of an Objaverse download."""
    root = tmp_path / "hf-objaverse-v1"
    box(root / "glbs" / "000-023" / f"{UID}.glb", title="Ship by someone")
    box(root / "glbs" / "000-024" / f"{UID[::-1]}.glb", title="A title")
    box(root / "glbs" / "000-024" / f"{'0' * 32}.glb")
    record = {"name": "Old ship", "tags": [{"name": "boat", "slug": "b"}, {"name": "wood"}, {"name": "boat"}]}
    (root / "metadata").mkdir()
    with gzip.open(root / "metadata" / "000-023.json.gz", "wt") as file:
        json.dump({UID: record}, file)
    (root / "metadata" / "000-024.json.gz").write_bytes(b"not gzip")
    return root


@pytest.mark.parametrize("inner", ["", "glbs"])
def test_objaverse_tree(objaverse, inner):
    items = find_items(str(objaverse / inner))
    prefix = "" if inner else "glbs_"
    assert [item.key for item in items] == [
        f"{prefix}000-023_{UID}",
        f"{prefix}000-024_{'0' * 32}",
        f"{prefix}000-024_{UID[::-1]}",
    ]
    assert [(item.caption, item.caption_from) for item in items] == [
        ("Old ship, boat, wood", "annotation"),  # name and tags, each once
        ("", "none"),  # a hash says nothing
        ("A title", "glTF title"),
    ]


def test_only_some_of_a_tree(objaverse):
    assert [item.caption for item in find_items(str(objaverse), only={UID, "other"})] == [
        "Old ship, boat, wood"
    ]
    with pytest.raises(ValueError, match=r"none of the 3 mesh files in .* is among the 1 wanted"):
        find_items(str(objaverse), only={"other"})


def test_captions_of_a_folder(tmp_path):
    for name in ("red_car.obj", "blue-boat.ply", "sub/deep.stl", ".hidden.obj", "text.glb"):
        box(tmp_path / name)
    (tmp_path / "text.txt").write_text("said\nin a file\n")
    items = find_items(str(tmp_path))
    assert [(item.key, item.caption) for item in items] == [
        ("blue-boat", "blue boat"),
        ("red_car", "red car"),
        ("sub_deep", "deep"),
        ("text", "said in a file"),
    ]
    assert {item.caption for item in find_items(str(tmp_path), captions="none")} == {""}


@pytest.mark.parametrize("header", ["", "name,caption\n", "uid,views,Caption\n"])
def test_captions_from_a_csv(tmp_path, header):
    box(tmp_path / "a.obj")
    box(tmp_path / "sub" / "a.obj")
    box(tmp_path / "c.obj")
    middle = "9," if "views" in header else ""
    table = tmp_path / "captions.csv"
    rows = f'{header}a.obj,{middle}"one, first"\nsub/a,{middle}deeper\n'
    table.write_text(rows, encoding="utf-8")
    with pytest.raises(ValueError, match=r"captions\.csv has no row for 1 of 3 mesh files: c\.obj"):
        find_items(str(tmp_path), captions=str(table))
    table.write_text(f"{rows}c,{middle}\n", encoding="utf-8")
    items = find_items(str(tmp_path), captions=str(table))
    assert [(item.caption, item.caption_from) for item in items] == [
        ("one, first", "captions.csv"),
        ("", "captions.csv"),
        ("deeper", "captions.csv"),
    ]


def test_names_from_a_table_of_splits(tmp_path):
    table = tmp_path / "objects.csv"
    table.write_text("name,family,split\nowl-1,owl,train\nowl-2,owl,train\nfan,fan,held-out\n")
    assert read_names(f"{table}:train") == {"owl-1", "owl-2"}
    with pytest.raises(ValueError, match="has no split 'test', it has held-out, train"):
        read_names(f"{table}:test")
    table.write_text("name,family,split\nowl-1,owl,train\nowl-2,owl,held-out\n")
    with pytest.raises(ValueError, match="family owl stands in train and in held-out"):
        read_names(f"{table}:train")
    table.write_text("name,split\nowl,train\n")
    with pytest.raises(ValueError, match="has no column family"):
        read_names(f"{table}:train")
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such file of names"):
        read_names(f"{tmp_path / 'none.csv'}:train")


def test_keys_are_different_and_short(tmp_path):
    for name in ("a b.obj", "a_b.obj", "a.b.obj", "x" * 120 + ".obj"):
        box(tmp_path / name)
    keys = [item.key for item in find_items(str(tmp_path))]
    assert len(set(keys)) == 4
    assert all(len(key) <= 80 and "." not in key for key in keys)


def test_toys():
    assert find_items("toybox:2") == [Item("toy-000000", "toybox:0"), Item("toy-000001", "toybox:1")]
    assert find_items("toybox:1", captions="none")[0].caption == ""


@pytest.mark.parametrize("source", ["toybox:0", "toybox:", "toybox:some", "toybox:-3", "toybox:10000000"])
def test_wrong_toys(source):
    with pytest.raises(ValueError, match="must be toybox:N with N toys, 1 to 9,999,999"):
        find_items(source)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such mesh file or folder"):
        find_items(str(tmp_path / "nowhere"))
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds no mesh file \(\.glb, .* among its 1 files"):
        find_items(str(tmp_path))
    box(tmp_path / "a.obj")
    with pytest.raises(FileNotFoundError, match=r"captions are cap\.csv: no such CSV file"):
        find_items(str(tmp_path), captions="cap.csv")
    (tmp_path / "one.csv").write_text("a.obj,fine\nb.obj\n")
    with pytest.raises(ValueError, match=r"one\.csv: row 2 has 1 columns, at least 2 are needed"):
        find_items(str(tmp_path), captions=str(tmp_path / "one.csv"))


NAMES = {
    "机器人.png": "机器人",
    "机器车.png": "机器车",
    "روبوت.png": "روبوت",
    unicodedata.normalize("NFD", "é.png"): "é",
    "a b/c(1).png": "a_b_c_1_",
    "🤖.png": "_-4b15d261a20c",
}


def keys(folder, known=None):
    found = file_items(folder, (".png", ".jpg"), "picture", known=known)
    return {item.source.removeprefix(f"{folder}/"): item.key for item in found}


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_files_of_any_script_are_told_apart(tmp_path):
    long = ["a" * 240 + end for end in ("x.png", "y.png")] + ["机" * 70 + end for end in ("x.png", "y.png")]
    make(tmp_path, *NAMES, *long, "🚗.png", "Robot.png", "robot.jpg")
    found = keys(tmp_path)
    assert len({key.casefold() for key in found.values()}) == len(NAMES) + 7
    assert all(len(key.encode()) <= 80 for key in found.values())
    assert {name: found[name] for name in NAMES} == NAMES
    assert found["机" * 70 + "x.png"].startswith("机机机")


def test_files_that_join_take_no_other_s_key(tmp_path):
    make(tmp_path, "robot.png", "more/car.png")
    first = keys(tmp_path)
    assert first == {"robot.png": "robot", "more/car.png": "more_car"}
    make(tmp_path, "robot.jpg", "more_car.png", "Robot.png")  # which comes before robot.png
    known = {key: f"elsewhere/{name}" for name, key in first.items()}
    again = keys(tmp_path, known)
    assert {name: again[name] for name in first} == first
    assert len({key.casefold() for key in again.values()}) == 5
    (tmp_path / "robot.png").unlink()
    assert keys(tmp_path, known)["robot.jpg"] == again["robot.jpg"]


def test_what_is_passed_over_is_named(tmp_path, caplog):
    make(
        tmp_path,
        "a.png",
        ".b.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        "c.xcf",
        "a.txt",
        "sub/IMG.RAW",
        ".git/x",
    )
    (tmp_path / "folder.png").mkdir()
    assert keys(tmp_path) == {"a.png": "a"}
    assert caplog.messages == [
        f"{tmp_path}: passed over .b.png (.b.png is hidden), .ipynb_checkpoints/a-checkpoint.png (.ipynb_checkpoints "
        "is hidden), c.xcf (its ending), folder.png (no regular file), sub/IMG.RAW (its ending)"
    ]
