import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from threestudio.utils.saving import SaverMixin


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def test_an_interrupted_write_leaves_nothing(saver, tmp_path, monkeypatch):
    def write_half(path, **data):
        path.write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", write_half)
    with pytest.raises(OSError, match="no space left"):
        saver.save_data("sub/x.npz", {"a": torch.zeros(2)})
    assert list((tmp_path / "sub").iterdir()) == []


def test_rgb_image(saver, tmp_path):
    image = torch.zeros(2, 3, 3)
    image[0, 1] = torch.tensor([1.0, 0.5, 2.0])
    path = saver.save_rgb_image("a/b.png", image)
    assert path == str(tmp_path / "a" / "b.png")
    read = np.asarray(Image.open(path))
    assert read.shape == (2, 3, 3)
    assert read[0, 1].tolist() == [255, 127, 255]  # clipped, then truncated
    assert saver.get_rgb_image_(torch.eye(3)[None])[0].tolist() == [
        [0, 0, 255],
        [0, 255, 0],
        [255, 0, 0],
    ]  # BGR
    assert saver.get_rgb_image_(image.permute(2, 0, 1), "CHW", (0, 2))[0, 1].tolist() == [255, 63, 127]


def test_grayscale(saver):
    gray = saver.get_grayscale_image_(torch.tensor([[1.0, 3.0]]), None, None)
    assert gray[:, :, 0].tolist() == [[0, 255]]
    with_nan = saver.get_grayscale_image_(torch.tensor([[float("nan"), 0.5]]), (0, 1), None)
    assert with_nan[0, :, 0].tolist() == [0, 127]
    jet = saver.get_grayscale_image_(torch.tensor([[0.0, 1.0]]))
    assert jet[0, 0].argmax() == 0  # low is blue, in BGR
    assert jet[0, 1].argmax() == 2  # high is red


def test_image_grid(saver):
    rgb = {"type": "rgb", "img": torch.ones(4, 4, 3), "kwargs": {}}
    opacity = {"type": "grayscale", "img": torch.rand(2, 2), "kwargs": {"cmap": None, "data_range": (0, 1)}}
    read = np.asarray(Image.open(saver.save_image_grid("it5-0.png", [rgb, opacity], name="x", step=5)))
    assert read.shape == (4, 8, 3)
    assert (read[:, :4] == 255).all()


def test_data_files(saver, tmp_path):
    assert saver.save_data("d", torch.ones(2)) == str(tmp_path / "d.npy")
    assert np.load(saver.save_data("e", {"a": torch.ones(2)}))["a"].tolist() == [1, 1]
    assert json.loads(Path(saver.save_json("f.json", {"a": 1})).read_text()) == {"a": 1}
    assert Path(saver.save_file("copy/h.json", str(tmp_path / "f.json"))).read_text() == '{"a": 1}'


def test_videos_are_in_numeric_order_and_padded(saver, tmp_path):
    for i in (10, 2, 1):
        saver.save_rgb_image(f"it7-test/{i}.png", torch.full((18, 30, 3), i / 10))
    path = saver.save_img_sequence("it7-test", "it7-test", r"(\d+)\.png", save_format="mp4", fps=30)
    assert path == str(tmp_path / "it7-test.mp4")
    video, frames = cv2.VideoCapture(path), []
    while (read := video.read())[0]:
        frames.append(read[1])
    assert len(frames) == 3
    assert frames[0].shape == (32, 32, 3)
    assert frames[0].mean() < frames[1].mean() < frames[2].mean()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda saver: saver.save_data("x", {1}), "got set"),
        (lambda saver: saver.save_img_sequence("x", ".", r"(\d+)\.jpg"), "matches"),
        (lambda saver: SaverMixin().get_save_dir(), "Save dir is not set"),
        (lambda saver: saver.save_rgb_image("x.png", torch.zeros(2, 2, 5)), "a picture has 3 channels"),
        (lambda saver: saver.save_rgb_image("x.png", torch.zeros(2, 2, 3), "HCW"), "must be 'HWC' or 'CHW'"),
        (lambda saver: saver.save_grayscale_image("x.png", torch.zeros(2, 2, 1)), "a grayscale image has 2 axes"),
        (lambda saver: saver.save_image_grid("x.png", [{"type": "uv"}]), "one of rgb, grayscale; the rest is thr"),
        (lambda saver: saver.save_img_sequence("x", ".", r"(\d+)\.png", "gif"), "must be 'mp4'; the rest is thr"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_an_error(saver, write, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        write(saver)
