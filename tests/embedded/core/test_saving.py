import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from threestudio.utils.saving import SaverMixin, atomic_path


@pytest.fixture
def saver(tmp_path):
    saver = SaverMixin()
    saver.set_save_dir(str(tmp_path))
    return saver


def test_no_folder_is_an_error():
    with pytest.raises(ValueError, match="Save dir is not set"):
        SaverMixin().get_save_dir()


def test_an_interrupted_write_leaves_nothing(tmp_path):
    target = tmp_path / "sub" / "x.txt"
    with contextlib.suppress(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []


def test_rgb_image(saver, tmp_path):
    image = torch.zeros(2, 3, 3)
    image[0, 1] = torch.tensor([1.0, 0.5, 2.0])
    path = saver.save_rgb_image("a/b.png", image)
    assert path == str(tmp_path / "a" / "b.png")
    read = np.asarray(Image.open(path))
    assert read.shape == (2, 3, 3)
    assert read[0, 1].tolist() == [255, 127, 255]  # clipped, then truncated
    assert saver.get_rgb_image_(image, "HWC", (0, 1))[0, 1].tolist() == [255, 127, 255][::-1]
    assert saver.get_rgb_image_(image.permute(2, 0, 1), "CHW", (0, 1)).shape == (2, 3, 3)
    # five channels are two pictures side by side
    assert saver.get_rgb_image_(torch.ones(2, 3, 5), "HWC", (0, 1)).shape == (2, 6, 3)


def test_grayscale_and_uv(saver):
    gray = saver.get_grayscale_image_(torch.tensor([[1.0, 3.0]]), None, None)
    assert gray[:, :, 0].tolist() == [[0, 255]]
    assert saver.get_grayscale_image_(torch.tensor([[float("nan"), 0.5]]), (0, 1), None)[
        0, :, 0
    ].tolist() == [0, 127]
    jet = saver.get_grayscale_image_(torch.tensor([[0.0, 1.0]]), None, "jet")
    assert jet[0, 0].argmax() == 0  # low is blue, in BGR
    assert jet[0, 1].argmax() == 2  # high is red
    with pytest.raises(ValueError, match="cmap of a grayscale image is 'rainbow'"):
        saver.get_grayscale_image_(torch.zeros(2, 2), None, "rainbow")
    uv = saver.get_uv_image_(torch.tensor([[[0.0, 0.0], [1 / 64, 0.0]]]), "HWC", (0, 1))
    assert uv[0].tolist() == [[255, 0, 255], [255, 255, 255]]
    assert saver.get_uv_image_(torch.tensor([[[1.0, 0.0]]]), "HWC", (0, 1), "color")[0, 0].tolist() == [
        0,
        0,
        255,
    ]


def test_image_grid(saver):
    rgb = {"type": "rgb", "img": torch.ones(4, 4, 3), "kwargs": {}}
    depth = {"type": "grayscale", "img": torch.rand(2, 2), "kwargs": {"cmap": None, "data_range": (0, 1)}}
    read = np.asarray(Image.open(saver.save_image_grid("it5-0.png", [rgb, depth])))
    assert read.shape == (4, 8, 3)
    assert (read[:, :4] == 255).all()
    assert saver.get_image_grid_([[rgb, depth], [rgb, rgb]], "min").shape == (4, 4, 3)
    assert saver.get_image_grid_([rgb], 6).shape == (6, 6, 3)
    assert saver.get_image_grid_([rgb], (3, 5)).shape == (3, 5, 3)
    labelled = np.asarray(
        Image.open(saver.save_image_grid("t.png", [{**rgb, "img": torch.ones(32, 64, 3)}], texts=["front"]))
    )
    assert labelled.min() < 50
    with pytest.raises(ValueError, match="must be one of rgb, uv, grayscale"):
        saver.save_image_grid("x.png", [{"type": "depth", "img": torch.zeros(2, 2)}])


def test_plain_image_and_cubemap(saver):
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = [10, 20, 30, 40]
    assert np.asarray(Image.open(saver.save_image("x.png", rgba)))[0, 0].tolist() == [10, 20, 30, 40]
    deep = np.full((2, 2, 3), [1000, 2000, 60000], dtype=np.uint16)
    saver.save_image("deep.png", deep)
    with pytest.raises(ValueError, match="float32"):
        saver.save_image("x.png", torch.zeros(2, 2, 3))
    assert np.asarray(Image.open(saver.save_cubemap("c.png", torch.rand(6, 4, 4, 3)))).shape == (12, 16, 3)


def test_data_files(saver, tmp_path):
    assert saver.save_data("d", torch.ones(2)) == str(tmp_path / "d.npy")
    assert np.load(saver.save_data("e", {"a": torch.ones(2)}))["a"].tolist() == [1, 1]
    assert json.loads(Path(saver.save_json("f.json", {"a": 1})).read_text()) == {"a": 1}
    saved = saver.save_state_dict("g.pt", {"w": torch.ones(1)})
    assert torch.load(saved, weights_only=True)["w"].item() == 1
    assert Path(saver.save_file("copy/h.json", str(tmp_path / "f.json"))).read_text() == '{"a": 1}'
    with pytest.raises(TypeError, match="got set"):
        saver.save_data("x", {1})


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
    gif = saver.save_img_sequence("it7-test", "it7-test", r"(\d+)\.png", save_format="gif")
    assert gif == str(tmp_path / "it7-test.gif")
    with pytest.raises(FileNotFoundError, match="matches"):
        saver.save_img_sequence("x", "it7-test", r"(\d+)\.jpg")


TRIANGLE = SimpleNamespace(
    v_pos=torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    t_pos_idx=torch.tensor([[0, 1, 2]]),
    v_nrm=torch.tensor([[0.0, 0.0, 1.0]] * 3),
    v_tex=torch.tensor([[0.0, 0.25], [1.0, 0.0], [0.0, 1.0]]),
    t_tex_idx=torch.tensor([[2, 1, 0]]),
    v_rgb=torch.tensor([[1.0, 0.0, 0.0]] * 3),
)


def test_obj_with_material(saver, tmp_path):
    paths = saver.save_obj(
        "it7-export/model.obj",
        TRIANGLE,
        save_mat=True,
        save_normal=True,
        save_uv=True,
        map_Kd=torch.full((4, 4, 3), 0.5),
        map_Pr=torch.full((4, 4, 1), 0.5),
    )
    names = {"model.obj", "model.mtl", "texture_kd.jpg", "texture_roughness.jpg"}
    assert {path.rpartition("/")[2] for path in paths} == names
    assert {file.name for file in (tmp_path / "it7-export").iterdir()} == names
    lines = (tmp_path / "it7-export" / "model.obj").read_text().splitlines()
    assert lines[:3] == ["mtllib model.mtl", "g object", "usemtl default"]
    assert "vt 0.000000 0.750000" in lines  # v counts from below
    assert lines[-1] == "f 1/3/1 2/2/2 3/1/3"
    material = (tmp_path / "it7-export" / "model.mtl").read_text().splitlines()
    assert material == [
        "newmtl default",
        "Ka 0.0 0.0 0.0",
        "map_Kd texture_kd.jpg",
        "Ks 0.0 0.0 0.0",
        "map_Pr texture_roughness.jpg",
    ]


def test_obj_with_vertex_colours(saver):
    (path,) = saver.save_obj("model", TRIANGLE, save_vertex_color=True)
    lines = Path(path).read_text().splitlines()
    assert lines[0] == "g object"
    assert lines[1] == "v 0.000000 0.000000 0.000000 1.000000 0.000000 0.000000"
    assert lines[-1] == "f 1// 2// 3//"


def test_mesh_by_suffix(saver):
    path = saver.save_mesh("m.ply", TRIANGLE.v_pos, TRIANGLE.t_pos_idx)
    assert trimesh.load(path).faces.tolist() == [[0, 1, 2]]
