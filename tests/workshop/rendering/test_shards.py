"""Many objects into shards: broken ones skipped, nothing done twice, the same bytes however it is done."""

import io
import json
import tarfile
from dataclasses import replace
from functools import partial

import pytest
import trimesh
from PIL import Image

from imagedream.workshop.rendering.captioned_files import Item, find_items
from imagedream.workshop.rendering.object_views import RenderConfig
from imagedream.workshop.rendering.samples import Sample, check_files
from imagedream.workshop.rendering.shards import render_shards
from imagedream.workshop.workers import run_processes, run_ray

SMALL = RenderConfig(size=8, views=4, rings=2, prompts=1)
HERE = partial(run_processes, jobs=0, timeout_s=60.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five meshes, two of them broken."""
    folder = tmp_path_factory.mktemp("meshes")
    for index, name in enumerate(("a.glb", "c.obj", "e.ply")):
        trimesh.creation.box((1, 1 + index, 2)).export(folder / name)
    (folder / "b.glb").write_bytes(b"not a mesh")
    (folder / "d.obj").write_text("v 0 0 0\n")
    return folder


def samples_of(path):
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, name = member.name.split(".", 1)
            found.setdefault(key, {})[name] = tar.extractfile(member).read()
    return found


def test_broken_meshes_are_listed_and_skipped(folder, tmp_path, caplog):
    report = render_shards(find_items(str(folder)), tmp_path, SMALL, HERE, objects_per_shard=2)
    assert (report.objects, report.samples) == (5, 6)
    assert [record["object"] for record in report.failed] == ["b", "d"]
    assert "b.glb is no glTF file" in report.failed[0]["error"]
    assert [
        json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()
    ] == report.failed
    assert f"skipped {folder / 'b.glb'}" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "dataset.json",
        "failed.jsonl",
        "objects.jsonl",
        *(f"shard-00000{index}.{kind}" for index in range(3) for kind in ("json", "tar")),
        "warnings.jsonl",
    ]
    warned = [json.loads(line) for line in (tmp_path / "warnings.jsonl").read_text().splitlines()]
    assert [record["object"] for record in warned] == ["a", "c", "e"]  # boxes without a colour
    assert "3 of 5 objects may not look as they should" in caplog.text
    found = {
        key: files
        for index in range(3)
        for key, files in samples_of(tmp_path / f"shard-00000{index}.tar").items()
    }
    assert list(found) == ["a_0", "a_1", "c_0", "c_1", "e_0", "e_1"]
    for key, files in found.items():
        sample = Sample.from_json(files["cameras.json"], key)
        assert (sample.object, str(sample.ring)) == tuple(key.split("_"))
        check_files(sample, files, key)
        assert Image.open(io.BytesIO(files["view_003.png"])).size == (8, 8)


class Interrupted(Exception):
    pass


def interrupted_after(count, done):
    """Runs here, keeps a record, and stops like Ctrl-C does."""

    def run(function, tasks):
        for outcome in HERE(function, tasks):
            done.append(outcome.task.key)
            yield outcome
            if len(done) == count:
                raise Interrupted

    return run


@pytest.mark.parametrize("stop", [1, 3, 5])  # in the first shard, at its end, at the very end
def test_an_interrupted_run_goes_on_where_it_stopped(folder, tmp_path, stop):
    items = find_items(str(folder))
    render_shards(items, tmp_path / "whole", SMALL, HERE, objects_per_shard=3)
    first, second, third = [], [], []
    with pytest.raises(Interrupted):
        render_shards(items, tmp_path / "halves", SMALL, interrupted_after(stop, first), objects_per_shard=3)
    report = render_shards(
        items, tmp_path / "halves", SMALL, interrupted_after(99, second), objects_per_shard=3
    )
    assert first + second == ["a", "b", "c", "d", "e"]  # nothing twice, broken ones neither
    assert report == render_shards(
        items, tmp_path / "halves", SMALL, interrupted_after(99, third), objects_per_shard=3
    )
    assert third == []
    assert contents(tmp_path / "whole") == contents(tmp_path / "halves")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("run", [partial(run_processes, jobs=2), partial(run_ray, address="local")])
def test_where_it_is_rendered_changes_nothing(folder, tmp_path, run):
    if run.func is run_ray:
        pytest.importorskip("ray", reason="the ray extra is not installed")
    items = find_items(str(folder))
    render_shards(items, tmp_path / "here", SMALL, HERE)
    render_shards(items, tmp_path / "there", SMALL, run)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_a_shard_whose_files_are_deleted_is_rendered_again(folder, tmp_path):
    items, done = find_items(str(folder)), []
    render_shards(items, tmp_path, SMALL, HERE, objects_per_shard=2)
    before = (tmp_path / "shard-000001.tar").read_bytes()
    for kind in ("tar", "json"):
        (tmp_path / f"shard-000001.{kind}").unlink()
    render_shards(items, tmp_path, SMALL, interrupted_after(99, done), objects_per_shard=2)
    assert done == ["c", "d"]
    assert (tmp_path / "shard-000001.tar").read_bytes() == before


def test_a_folder_begun_differently_is_refused(folder, tmp_path, caplog):
    items = find_items(str(folder))
    render_shards(items, tmp_path / "out", SMALL, HERE)
    with pytest.raises(
        ValueError, match="begun with other settings: size was 8 and is 16, seed was 0 and is 1"
    ):
        render_shards(items, tmp_path / "out", replace(SMALL, size=16, seed=1), HERE)
    render_shards([*items, Item("f", "f.glb", "")], tmp_path / "out", SMALL, HERE)
    assert "the source now has 6 objects" in caplog.text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(FileExistsError, match="other holds something other than shards"):
        render_shards(items, tmp_path / "other", SMALL, HERE)


def test_nothing_that_can_be_rendered(folder, tmp_path):
    items = [item for item in find_items(str(folder)) if item.key in "bd"]
    with pytest.raises(ValueError, match=r"none of the 2 objects could be rendered; the first: .*b\.glb"):
        render_shards(items, tmp_path / "out", SMALL, HERE)
    with pytest.raises(ValueError, match="there are no objects"):
        render_shards([], tmp_path / "none", SMALL, HERE)
    with pytest.raises(ValueError, match="objects_per_shard is 0"):
        render_shards(items, tmp_path / "none", SMALL, HERE, objects_per_shard=0)


def test_a_folder_that_cannot_be_written_to_stops_the_run(folder, tmp_path):
    items = find_items(str(folder))
    (tmp_path / "out").mkdir()

    def run(function, tasks):
        (tmp_path / "out" / ".parts").write_text("in the way")
        yield from HERE(function, tasks)

    with pytest.raises(OSError, match="out cannot be written to: "):
        render_shards(items, tmp_path / "out", SMALL, run)
