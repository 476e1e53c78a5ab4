"""Samples in tar files and folders: found, checked, read in any order."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples, render_mesh_file
from imagedream.workshop.rendering.samples import SampleError, encode_png, write_tar
from imagedream.workshop.training.rendered_data import examine_rendered, find_rendered
from imagedream.workshop.training.shard_data import index, read, scan

SMALL = RenderConfig(size=8, views=4, rings=2, prompts=1)


@pytest.fixture(scope="module")
def samples():
    """Two rings of each of two toys, by key."""
    return {
        f"{key}_{sample.ring}": files
        for key, source in (("a", "toybox:3"), ("b", "toybox:4"))
        for sample, files in object_samples(Item(key, source), SMALL)
    }


def indexed(folder, **settings):
    """What the shards of a folder hold."""
    shards = sorted(folder.glob("*.tar"))
    return index(shards, [], examine_rendered, folder / "cache", **settings)


@pytest.fixture
def shard(samples, tmp_path):
    write_tar(samples.items(), tmp_path / "shard.tar")
    return tmp_path / "shard.tar"


def test_every_sample_is_read_back(samples, shard, tmp_path):
    entries = indexed(tmp_path)
    assert [(entry.key, entry.object) for entry in entries] == [
        ("a_0", "a"),
        ("a_1", "a"),
        ("b_0", "b"),
        ("b_1", "b"),
    ]
    for entry in reversed(entries):
        assert read(entry) == samples[entry.key]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_files_of_other_programs(samples, tmp_path, form):
    with tarfile.open(tmp_path / "other.tar", "w", format=form) as tar:
        for key, files in samples.items():
            for name, content in files.items():
                member = tarfile.TarInfo(f"./{'long' * 30}/{key}.{name}")  # too long for the plain header
                member.size, member.mtime = len(content), 1.5
                tar.addfile(member, io.BytesIO(content))
    entries = indexed(tmp_path)
    assert len(entries) == 4
    assert read(entries[2]) == samples["b_0"]


def test_what_is_known_of_a_shard_is_kept_until_it_changes(samples, shard, tmp_path):
    def count(*_):
        return len(list((tmp_path / "cache" / "indices").iterdir()))

    first = indexed(tmp_path)
    (kept,) = (tmp_path / "cache" / "indices").iterdir()
    before = kept.stat().st_mtime_ns
    assert indexed(tmp_path) == first
    assert (count(), kept.stat().st_mtime_ns) == (1, before)
    write_tar(list(samples.items())[:2], shard)
    assert len(indexed(tmp_path)) == 2
    assert count() == 2


@pytest.mark.slow
def test_several_shards_by_several_processes(samples, tmp_path):
    for number in range(3):
        write_tar(samples.items(), tmp_path / f"shard-{number}.tar")
    shards = sorted(tmp_path.glob("*.tar"))
    one = index(shards, [], examine_rendered, tmp_path / "one", workers=1)
    assert len(one) == 12
    assert index(shards, [], examine_rendered, tmp_path / "two", workers=2) == one


def test_folders_of_views_are_samples_too(tmp_path):
    config = RenderConfig(size=8, views=4, rings=1, prompts=0)
    render_mesh_file(Item("toy", "toybox:3"), tmp_path / "deep" / "toy", config)
    shards, folders = find_rendered([str(tmp_path)])
    assert (shards, folders) == ([], [tmp_path / "deep" / "toy"])
    (entry,) = index(shards, folders, examine_rendered, tmp_path / "cache")
    assert entry.object == "toy"
    assert set(read(entry)) == {"cameras.json", "caption.txt", *(f"view_{n:03d}.png" for n in range(4))}


def test_parts_of_unfinished_shards_are_not_found(shard, tmp_path):
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "a.tar").write_bytes(shard.read_bytes())
    assert find_rendered([str(tmp_path)]) == ([shard], [])


def change(samples, key, **changes):
    """The samples with some files of one replaced, or gone where None is given."""
    files = {**samples[key], **{name.replace("__", "."): content for name, content in changes.items()}}
    return {**samples, key: {name: content for name, content in files.items() if content is not None}}


def with_cameras(samples, key, edit):
    record = json.loads(samples[key]["cameras.json"])
    edit(record)
    return change(samples, key, cameras__json=json.dumps(record).encode())


BROKEN = {  # rendering/test_samples.py has all that can be wrong with cameras.json
    "missing view": (
        lambda s: change(s, "a_1", view_002__png=None),
        r"shard\.tar: sample a_1: 1 of 5 pictures are missing: view_002\.png",
    ),
    "half a picture": (
        lambda s: change(s, "b_0", view_001__png=s["b_0"]["view_001.png"][:50]),
        r"sample b_0: view_001\.png \(50 bytes\) is no complete PNG file",
    ),
    "wrong size": (
        lambda s: change(s, "b_0", view_001__png=encode_png(np.zeros((16, 16, 4), np.uint8))),
        r"view_001\.png is 16 x 16 pixels, must be 8 x 8",
    ),
    "no cameras": (
        lambda s: change(s, "a_0", cameras__json=None),
        r"sample a_0: cameras\.json is missing among its 6 files",
    ),
    "object of another type": (
        lambda s: with_cameras(s, "a_0", lambda r: r.update(object=["x"])),
        r"sample a_0: cameras\.json: object is \['x'\], must be str",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_sample_is_named_before_training(samples, tmp_path, what, caplog):
    spoil, message = BROKEN[what]
    write_tar(spoil(samples).items(), tmp_path / "shard.tar")
    with pytest.raises(SampleError, match="1 of 4 samples cannot be used: .*" + message):
        indexed(tmp_path)
    sound = indexed(tmp_path, skip_broken=True)
    assert len(sound) == 3
    assert "1 of 4 samples cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.FIFOTYPE, "a FIFO"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (tarfile.DIRTYPE, None),
    ],
)
def test_of_tar_members_only_plain_files_are_read(samples, tmp_path, kind, said):
    strange = tarfile.TarInfo("a_0.link")
    strange.type, strange.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "shard.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for key in ("a_0", "a_1"):
            for number, (name, content) in enumerate(samples[key].items()):
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                if (key, number) == ("a_0", 2):
                    tar.addfile(strange)
    if said is None:  # folders hold nothing themselves
        assert read(indexed(tmp_path)[0]) == samples["a_0"]
        return
    with pytest.raises(SampleError, match=f"1 of 2 .* sample a_0: a_0.link is {said}, only plain files"):
        indexed(tmp_path)
    assert [entry.key for entry in indexed(tmp_path, skip_broken=True)] == ["a_1"]


@pytest.mark.parametrize("size", [-512, 3 * 2**30, 2**70])
def test_what_a_tar_file_claims_is_held_against_its_size(samples, tmp_path, size):
    write_tar(samples.items(), tmp_path / "shard.tar")
    content = bytearray((tmp_path / "shard.tar").read_bytes())
    start = content.index(b"b_0.cameras.json")
    content[start + 124 : start + 136] = (
        b"\xff" * 10 + b"\xfe\0" if size < 0 else b"\x80" + size.to_bytes(11, "big")
    )
    content[start + 148 : start + 156] = b" " * 8
    content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
    (tmp_path / "shard.tar").write_bytes(content)
    with pytest.raises(SampleError, match=f"b_0.cameras.json claims {size:,} of {len(content):,} bytes"):
        indexed(tmp_path)
    assert [entry.key for entry in indexed(tmp_path, skip_broken=True)] == ["a_0"]  # a_1 may go on there


def test_samples_that_appear_twice(samples, tmp_path):
    write_tar([*samples.items(), ("a_0", samples["a_0"])], tmp_path / "shard.tar")
    with pytest.raises(
        SampleError, match=r"1 of 5 .* sample a_0 appears twice; its files must follow one another"
    ):
        indexed(tmp_path)


def test_many_problems_are_counted(samples, tmp_path):
    spoiled = samples
    for key in samples:
        spoiled = change(spoiled, key, caption__txt=None)
    write_tar(spoiled.items(), tmp_path / "shard.tar")
    with pytest.raises(SampleError, match=r"4 of 4 samples cannot be used: .*a_0.*; .*a_1.*; .*b_0.*; …"):
        indexed(tmp_path)


def test_what_is_no_tar_file(shard, tmp_path):
    content = shard.read_bytes()
    for name, bad, message in (
        ("a.tar", b"nothing" * 100, r"a\.tar \(700 bytes\) is no complete, uncompressed tar file"),
        ("b.tar", content[: len(content) // 2 + 100], r"b\.tar \(\d+ bytes\) is no complete"),
        ("c.tar", bytes(10240), r"c\.tar \(10240 bytes\) holds no files"),
    ):
        (tmp_path / name).write_bytes(bad)
        _, problems = scan(tmp_path / name, examine_rendered)
        with pytest.raises(SampleError, match=message):
            raise SampleError(problems[-1])


def test_a_shard_that_changes_under_way_is_noticed(samples, shard, tmp_path):
    entries = indexed(tmp_path)
    write_tar(list(samples.items())[::-1], shard)
    with pytest.raises(SampleError, match=r"changed while it was in use|cannot be read"):
        read(entries[0])


def test_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data\.rendered\.folders: .*nowhere does not exist"):
        find_rendered([str(tmp_path / "nowhere")])
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    with pytest.raises(
        ValueError, match=r"holds no shards \(\*\.tar\) and no folder of views \(cameras\.json\)"
    ):
        find_rendered([str(tmp_path)])
