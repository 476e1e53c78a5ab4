import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from imagedream import cameras
from imagedream.rendering.dataset import Ring, render_mesh_file
from imagedream.rendering.meshes import to_gltf_axes


@pytest.fixture
def arrow_file(tmp_path):
    """A box and, towards the front, a red tip."""
    parts = [trimesh.creation.box((2.0, 1.0, 1.0)), trimesh.creation.box((0.2, 0.2, 0.2))]
    parts[1].apply_translation([1.1, 0, 0])
    colours = [(90, 90, 90, 255), (255, 0, 0, 255)]
    for part, colour in zip(parts, colours, strict=True):
        part.vertices = to_gltf_axes(part.vertices)
        part.visual = trimesh.visual.ColorVisuals(
            part, vertex_colors=np.tile(np.uint8(colour), (len(part.vertices), 1))
        )
    path = tmp_path / "a_red-tip.glb"
    trimesh.util.concatenate(parts).export(path)
    return path


def test_folder_of_views(arrow_file, tmp_path):
    ring = Ring(views=8, elevation_deg=15.0)
    out = render_mesh_file(arrow_file, tmp_path / "views", size=24, ring=ring, lit=False)
    description = json.loads((out / "cameras.json").read_text())
    assert description["caption"] == "a red tip"
    assert (out / "caption.txt").read_text() == "a red tip\n"
    assert description["size"] == 24
    assert [view["azimuth_deg"] for view in description["views"]] == [0, 45, 90, 135, 180, 225, 270, 315]
    assert [view["name"] for view in description["views"]][::2] == ["front", "left", "back", "right"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["caption.txt", "cameras.json", *(view["file"] for view in description["views"])]
    )
    tip = torch.tensor([[0.5, 0.0, 0.0]])  # the tip's outer face: the mesh is brought to the unit cube
    for view in description["views"][:3]:  # front, front left, left: the tip is seen
        pixels = np.asarray(Image.open(out / view["file"])).astype(int)
        assert pixels.shape == (24, 24, 4)
        where, _ = cameras.project(
            tip, torch.tensor(view["camera_to_world"]), torch.tensor(view["fov_y_deg"]), 24, 24
        )
        red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50) & (pixels[..., 3] > 0)
        rows, columns = np.nonzero(red)
        assert abs(columns.mean() + 0.5 - where[0, 0]) < 1.5
        assert abs(rows.mean() + 0.5 - where[0, 1]) < 1.5


def test_caption_is_kept_and_full_folder_refused(arrow_file, tmp_path):
    out = render_mesh_file(arrow_file, tmp_path / "views", caption="ein Käfer", size=8, ring=Ring(views=4))
    assert json.loads((out / "cameras.json").read_text(encoding="utf-8"))["caption"] == "ein Käfer"
    with pytest.raises(FileExistsError, match="views exists already"):
        render_mesh_file(arrow_file, out, size=8)


def test_failure_leaves_nothing(tmp_path):
    (tmp_path / "broken.glb").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.glb"):
        render_mesh_file(tmp_path / "broken.glb", tmp_path / "views")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.glb"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": 6}, "views is 6"),
        ({"relative_distance": 0.0}, r"relative_distance is 0\.0"),
        ({"elevation_deg": 90.0}, r"elevation_deg is 90\.0"),
        ({"fov_y_deg": 0.0}, r"fov_y_deg is 0\.0"),
    ],
)
def test_ring_says_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        Ring(**settings)
