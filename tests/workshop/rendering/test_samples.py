"""The sample format: readable without this project, and strict about what it reads."""

import io
import json
import math
import tarfile

import numpy as np
import pytest
from PIL import Image

from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples
from imagedream.workshop.rendering.samples import (
    Sample,
    SampleError,
    check_files,
    decode_png,
    encode_png,
    read_caption,
    write_tar,
)


@pytest.fixture(scope="module")
def files():
    config = RenderConfig(size=8, views=4, rings=1, prompts=1)
    return next(object_samples(Item("toy", "toybox:3"), config))[1]


def test_a_shard_is_read_with_any_tar_json_and_png_reader(files, tmp_path):
    for name in ("shard", "again"):
        write_tar([("toy_0", files), ("toy_1", files)], tmp_path / f"{name}.tar")
    assert (tmp_path / "shard.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    with tarfile.open(tmp_path / "shard.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["toy_0.cameras.json", "toy_0.caption.txt", "toy_0.view_000.png"]
        assert len(names) == 2 * (2 + 4 + 1)
        record = json.load(tar.extractfile("toy_1.cameras.json"))
        assert tar.extractfile("toy_1.caption.txt").read().decode().strip() == record["caption"]
        picture = Image.open(tar.extractfile(f"toy_1.{record['views'][3]['file']}"))
        assert (picture.mode, picture.size) == ("RGBA", (8, 8))


def test_pixels_come_back():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    assert (decode_png(encode_png(pixels), 8, "picture") == pixels).all()


def set_in(*path_and_value):
    *path, last, value = path_and_value

    def change(record):
        for step in path:
            record = record[step]
        record[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["views"].pop(), r"here: cameras\.json lists 3 views, must be a multiple of 4"),
        (lambda r: r.pop("caption"), "has no caption"),
        (set_in("caption", 3), "caption is 3, must be str"),
        (set_in("size", "big"), "size is 'big', must be int"),
        (set_in("views", {}), "views is {}, must be list"),
        (set_in("views", 1, 5), r"views\[1\] is a int, must be an object"),
        (lambda r: r["views"][2].pop("fov_y_deg"), r"views\[2\] \(view_002\.png\) has no fov_y_deg"),
        (set_in("views", 1, "elevation_deg", math.nan), r"view_001\.png\): elevation_deg is nan, must be"),
        (set_in("views", 1, "azimuth_deg", "left"), "azimuth_deg is 'left'"),
        (
            set_in("views", 1, "camera_to_world", 0, [math.nan] * 4),
            r"view_001\.png\): camera_to_world is \[\[nan",
        ),
        (set_in("views", 1, "camera_to_world", [[1.0, 2.0], [3.0]]), "must be 4 rows of 4 numbers"),
        (
            lambda r: r["views"][2]["camera_to_world"].reverse(),
            "does not look at the origin from azimuth 180",
        ),
        (set_in("views", 1, "elevation_deg", 50.0), "a ring has one"),
        (set_in("prompts", 0, "fov_y_deg", None), r"prompts\[0\] \(prompt_000\.png\): fov_y_deg is None"),
        (
            lambda r: r["views"].insert(1, r["views"].pop(3)),
            r"views\[1\] \(view_003\.png\) has azimuth 270\.0, in 4 even steps from 0\.0 it would be 90",
        ),
    ],
)
def test_wrong_cameras_are_named(files, change, message):
    record = json.loads(files["cameras.json"])
    change(record)
    with pytest.raises(SampleError, match=message):
        Sample.from_json(json.dumps(record).encode(), "here")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_what_is_not_json_is_named(content):
    with pytest.raises(SampleError, match=r"here: cameras\.json"):
        Sample.from_json(content, "here")


def test_missing_pictures_are_counted(files):
    sample = Sample.from_json(files["cameras.json"], "here")
    check_files(sample, files, "here")
    names = set(files) - {"view_001.png", "prompt_000.png"}
    with pytest.raises(
        SampleError, match=r"here: 2 of 5 pictures are missing: view_001\.png, prompt_000\.png"
    ):
        check_files(sample, names, "here")


def test_captions_must_be_text():
    assert read_caption({"caption.txt": "ein Käfer\n".encode()}, "caption.txt", "here") == "ein Käfer"
    with pytest.raises(
        SampleError, match=r"here: caption\.txt \(3 bytes\) is not UTF-8 text: byte 1 is 0xff"
    ):
        read_caption({"caption.txt": b"a\xffb"}, "caption.txt", "here")
    with pytest.raises(SampleError, match="null bytes"):
        read_caption({"caption.txt": b"a\0"}, "caption.txt", "here")
    with pytest.raises(SampleError, match=r"caption\.txt is missing"):
        read_caption({}, "caption.txt", "here")


def test_damaged_pictures_are_named():
    png = encode_png(np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8))
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    for content in (png[: len(png) // 2], bytes(flipped), b"no png", b""):
        with pytest.raises(SampleError, match=rf"view_000\.png \({len(content)} bytes\) cannot be decoded"):
            decode_png(content, 8, "view_000.png")
    with pytest.raises(SampleError, match="is 8 x 8 pixels, must be 16 x 16"):
        decode_png(png, 16, "view_000.png")
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    with pytest.raises(SampleError, match="colour mode L, must be RGBA"):
        decode_png(buffer.getvalue(), 8, "view_000.png")
