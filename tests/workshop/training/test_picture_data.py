"""Single pictures as batches, and how they take turns with objects."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from imagedream.pictures import composite
from imagedream.runs.seeds import step_generator
from imagedream.workshop.rendering.samples import SampleError
from imagedream.workshop.training.diffusion import view_cameras
from imagedream.workshop.training.picture_data import Pictures, find_pictures
from imagedream.workshop.training.train_config import DataConfig, PicturesConfig, SampleConfig
from imagedream.workshop.training.training_data import StepBatches, TrainingData
from tests.workshop.training.conftest import encoded, write_shard


def picture(colour=(200, 100, 50), size=(24, 16), kind="PNG"):
    return encoded(Image.new("RGB", size, colour), kind)


@pytest.fixture
def folder(tmp_path):
    """As img2dataset writes them: captions in text files or in JSON."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_shard(
        folder / "00000.tar",
        {
            "0001.jpg": picture((255, 0, 0), kind="JPEG"),
            "0001.txt": b"a red one\n",
            "0001.json": b'{"caption": "not this"}',
            "0002.webp": picture((0, 255, 0), kind="WEBP"),
            "0002.json": json.dumps({"caption": "a green one", "width": 24}).encode(),
            "0003.png": picture((0, 0, 255)),
            "0003.txt": b"a blue one",
        },
    )
    return folder


def found_in(folder, tmp_path, **settings):
    return find_pictures(PicturesConfig(folders=[str(folder)], **settings), tmp_path / "cache", workers=1)


def test_pictures_with_their_captions(folder, tmp_path):
    config = PicturesConfig(folders=[str(folder)])
    source = Pictures(found_in(folder, tmp_path), config, image_size=8)
    batch = source.batch(torch.arange(3), step_generator(0, 0))
    assert batch["captions"] == ["a red one", "a green one", "a blue one"]
    assert batch["targets"].shape == (3, 1, 4, 8, 8)
    assert batch["prompts"].shape == (3, 4, 8, 8)
    expected = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]])
    for frames in (batch["targets"][:, 0], batch["prompts"]):
        torch.testing.assert_close(frames.mean((2, 3)), expected, atol=0.03, rtol=0)
    assert "azimuths_deg" not in batch
    assert torch.equal(view_cameras(batch), torch.zeros(3, 1, 16))
    shown = composite(batch["prompts"], torch.rand(3, 3))  # opaque: whatever is behind
    torch.testing.assert_close(shown, batch["prompts"][:, :3])


@pytest.mark.parametrize(("crop", "sides"), [((1.0, 1.0), {16}), ((0.5, 0.5), {8})])
def test_the_prompt_is_a_crop_of_the_middle_square(tmp_path, crop, sides):
    # columns count up, so that a crop tells its place and its side; the outer 4 of 24 belong to no square
    ramp = np.broadcast_to(np.arange(24, dtype=np.uint8)[None, :, None] * 10, (16, 24, 3)).copy()
    write_shard(tmp_path / "a.tar", {"ramp.png": encoded(Image.fromarray(ramp)), "ramp.txt": b"a ramp"})
    config = PicturesConfig(folders=[str(tmp_path)], prompt_crop=crop)
    source = Pictures(found_in(tmp_path, tmp_path), config, image_size=16)
    for step in range(4):
        batch = source.batch(torch.tensor([0]), step_generator(0, step))
        target, prompt = ((frame[0, 8] * 25.5) for frame in (batch["targets"][0, 0], batch["prompts"][0]))
        torch.testing.assert_close(target, torch.arange(4.0, 20.0), atol=1e-4, rtol=0)
        assert round(float(prompt[-1] - prompt[0]) * 16 / 15) in sides
        assert prompt.min() >= 3.9
        assert prompt.max() <= 19.1


def test_transparent_pictures_stand_on_white(tmp_path):
    clear = encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    write_shard(tmp_path / "a.tar", {"a.png": clear, "a.txt": b"nothing"})
    source = Pictures(found_in(tmp_path, tmp_path), PicturesConfig(), image_size=8)
    assert (source.batch(torch.tensor([0]), step_generator(0, 0))["targets"] == 1).all()


class Numbers:
    """A source of bare numbers."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def batch(self, indices, generator):
        return {"numbers": indices.tolist()}


def test_pictures_and_objects_take_turns_by_the_ratio():
    objects, pictures = Numbers(100), Numbers(50)
    batches = StepBatches(objects, 2, 0, 0, pictures, picture_share=0.3, picture_batch_size=5)
    found = [batches.batch(step)["numbers"] for step in range(200)]
    kinds = [len(numbers) == 5 for numbers in found]
    assert sum(kinds) == 60
    assert all(sum(kinds[start : start + 10]) == 3 for start in range(0, 200, 10))  # evenly, not in lumps
    of_pictures = [number for numbers, kind in zip(found, kinds, strict=True) for number in numbers if kind]
    of_objects = [
        number for numbers, kind in zip(found, kinds, strict=True) for number in numbers if not kind
    ]
    # both go through epochs of their own: nothing is left out because the other took its turn
    for start in range(0, 300, 50):
        assert sorted(of_pictures[start : start + 50]) == list(range(50))
    for start in range(0, 200, 100):
        assert sorted(of_objects[start : start + 100]) == list(range(100))


def test_data_module_mixes(folder, tmp_path):
    config = DataConfig(
        sample=SampleConfig(image_size=16, groups=1, prompts=1),
        pictures=PicturesConfig(folders=[str(folder)], share=0.5),
        cache=str(tmp_path / "cache"),
        objects=2,
        validation_objects=1,
        batch_size=1,
        workers=1,
    )
    data = TrainingData(config, seed=0)
    data.prepare_data()
    data.setup()
    shapes = [tuple(batch["targets"].shape) for batch in data.first_batches(4)]
    assert shapes == [(1, 4, 4, 16, 16), (2, 1, 4, 16, 16)] * 2  # twice as many pictures as objects


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.txt": b"words"}, r"sample 1: has 0 pictures .* among 1 files, must be 1"),
        ({"1.jpg": b"", "1.png": b"", "1.txt": b"a"}, "sample 1: has 2 pictures"),
        ({"1.jpg": b""}, r"sample 1: txt is missing"),
        ({"1.jpg": b"", "1.txt": b"\xff"}, r"sample 1: txt \(1 bytes\) is not UTF-8"),
        ({"1.jpg": b"", "1.json": b"{"}, "sample 1: json has no caption"),
        ({"1.jpg": b"", "1.json": b"[" * 100_000}, "sample 1: json has no caption: .* is not JSON"),
        (
            {"1.jpg": b"", "1.json": b'{"caption": null}'},
            r"sample 1: caption is None \(NoneType\), must be text",
        ),
    ],
)
def test_broken_samples_are_named(tmp_path, members, message):
    good = {"2.jpg": picture(kind="JPEG"), "2.txt": b"fine"}
    write_shard(tmp_path / "a.tar", {**members, **good})
    with pytest.raises(SampleError, match="1 of 2 samples cannot be used: .*" + message):
        found_in(tmp_path, tmp_path)
    assert len(found_in(tmp_path, tmp_path, skip_broken=True)) == 1


def test_damaged_pictures_are_named(tmp_path):
    write_shard(tmp_path / "a.tar", {"1.jpg": b"no picture", "1.txt": b"a"})
    source = Pictures(found_in(tmp_path, tmp_path), PicturesConfig(), image_size=8)
    with pytest.raises(SampleError, match=r"a\.tar: sample 1: jpg \(10 bytes\) cannot be decoded"):
        source.batch(torch.tensor([0]), step_generator(0, 0))


def test_folders_without_shards(tmp_path):
    (tmp_path / "bare.png").write_bytes(picture())
    with pytest.raises(ValueError, match=r"data\.pictures\.folders: .* holds no shards"):
        found_in(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"data\.pictures\.folders: .*nowhere does not exist"):
        found_in(tmp_path / "nowhere", tmp_path)
