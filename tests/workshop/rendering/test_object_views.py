import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from imagedream import cameras
from imagedream.mesh.gltf_axes import to_gltf_axes
from imagedream.mesh.raycast import Light
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import (
    SINGLE_MESH,
    RenderConfig,
    Ring,
    object_samples,
    render_mesh_file,
)
from imagedream.workshop.rendering.samples import Sample

SINGLE = RenderConfig(**{**SINGLE_MESH, "lighting": "none"}, size=24, views=8)
SMALL = RenderConfig(size=16, views=8, rings=2, prompts=3)


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
    config = replace(SINGLE, elevation_deg=(15.0, 15.0))
    out = render_mesh_file(Item("arrow", str(arrow_file), "a red tip"), tmp_path / "views", config)
    description = json.loads((out / "cameras.json").read_text())
    assert description["caption"] == "a red tip"
    assert (out / "caption.txt").read_text() == "a red tip\n"
    assert description["size"] == 24
    assert (description["up"], description["front"], description["front_from"]) == ("y", "+z", "file type")
    assert [view["azimuth_deg"] for view in description["views"]] == [0, 45, 90, 135, 180, 225, 270, 315]
    assert [view["name"] for view in description["views"]][::2] == ["front", "left", "back", "right"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["caption.txt", "cameras.json", *(view["file"] for view in description["views"])]
    )
    for view in description["views"][:3]:  # front, front left, left: the tip is seen
        assert_tip_is_where_the_camera_says((out / view["file"]).read_bytes(), view)


def assert_tip_is_where_the_camera_says(png, view):
    tip = torch.tensor([[0.5, 0.0, 0.0]])  # the tip's outer face: the mesh is brought to the unit cube
    pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
    size = len(pixels)
    assert pixels.shape == (size, size, 4)
    where, _ = cameras.project(
        tip, torch.tensor(view["camera_to_world"]), torch.tensor(view["fov_y_deg"]), size, size
    )
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 50) & (pixels[..., 3] > 0)
    rows, columns = np.nonzero(red)
    assert abs(columns.mean() + 0.5 - where[0, 0]) < 1.5
    assert abs(rows.mean() + 0.5 - where[0, 1]) < 1.5


def test_nothing_is_overwritten_or_left_half_done(arrow_file, tmp_path):
    item = Item("arrow", str(arrow_file), "ein Käfer")
    out = render_mesh_file(item, tmp_path / "views", SINGLE)
    assert json.loads((out / "cameras.json").read_text(encoding="utf-8"))["caption"] == "ein Käfer"
    with pytest.raises(FileExistsError, match="views exists already"):
        render_mesh_file(item, out, SINGLE)
    with pytest.raises(ValueError, match="rings is 2: a folder of views holds 1"):
        render_mesh_file(item, tmp_path / "more", replace(SINGLE, rings=2))
    (tmp_path / "broken.glb").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.glb"):
        render_mesh_file(Item("broken", str(tmp_path / "broken.glb"), ""), tmp_path / "none", SINGLE)
    assert {path.name for path in tmp_path.iterdir()} == {"a_red-tip.glb", "broken.glb", "views"}


def test_rings_and_prompts_lie_within_their_ranges(arrow_file):
    for key in ("a", "b", "c"):
        samples = [sample for sample, _ in object_samples(Item(key, str(arrow_file), ""), SMALL)]
        assert [sample.ring for sample in samples] == [0, 1]
        assert samples[0].elevation_deg != samples[1].elevation_deg
        for sample in samples:
            assert 0 <= sample.elevation_deg <= 30
            for view in sample.views:
                assert 15 <= view.fov_y_deg <= 60
                # MVDream: distance = 0.5 * focal length * U[0.9, 1.1]
                focal = 1 / np.tan(np.deg2rad(view.fov_y_deg) / 2)
                distance = np.linalg.norm(np.array(view.camera_to_world)[:3, 3])
                assert 0.9 <= distance / (0.5 * focal) <= 1.1
            assert len({view.fov_y_deg for view in sample.views}) == 1
            assert len({json.dumps(view.light) for view in sample.views}) == 1
            assert len({prompt.fov_y_deg for prompt in sample.prompts}) == 3
            assert len({json.dumps(prompt.light) for prompt in sample.prompts}) == 3
            assert all(-90 <= prompt.azimuth_deg <= 90 for prompt in sample.prompts)
            assert all(-5 <= prompt.elevation_deg <= 40 for prompt in sample.prompts)


def test_light_of_the_prompts_alone(arrow_file):
    ((sample, _),) = object_samples(
        Item("a", str(arrow_file), ""), replace(SMALL, rings=1, lighting="prompts")
    )
    assert {json.dumps(view.light) for view in sample.views} == {json.dumps(asdict(Light()))}
    assert len({json.dumps(prompt.light) for prompt in sample.prompts}) == 3


def test_files_fit_what_the_description_says(arrow_file):
    item = Item("a", str(arrow_file), "an arrow")
    for sample, files in object_samples(item, replace(SMALL, lighting="none")):
        assert Sample.from_json(files["cameras.json"], "here") == sample
        record = json.loads(files["cameras.json"])
        for view in (record["views"][0], record["prompts"][0]):
            assert_tip_is_where_the_camera_says(files[view["file"]], view)
        prompts = [Image.open(io.BytesIO(files[prompt["file"]])) for prompt in record["prompts"]]
        assert [picture.size for picture in prompts] == [(32, 32)] * 3


def test_an_object_is_determined_by_seed_and_key(arrow_file):
    def files(key, seed):
        item = Item(key, str(arrow_file), "")
        return [files for _, files in object_samples(item, replace(SMALL, seed=seed))]

    assert files("a", 0) == files("a", 0)
    assert files("a", 0) != files("b", 0)
    assert files("a", 0) != files("a", 1)


def test_views_that_the_frame_cuts_are_counted(arrow_file):
    def cut(distance):
        config = replace(SINGLE, relative_distance=(distance, distance))
        return next(object_samples(Item("a", str(arrow_file), ""), config))[0].cut_views

    assert cut(0.2) == 8
    assert cut(1.0) == 0


def test_a_toy_brings_its_caption_and_front():
    sample, _ = next(object_samples(Item("toy", "toybox:3"), SMALL))
    from imagedream.toybox import make_toy

    assert sample.caption == make_toy(3).caption
    assert (sample.caption_from, sample.front_from) == ("toybox", "toybox")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Ring, {"relative_distance": 0.0}, r"relative_distance is 0\.0"),
        (Ring, {"elevation_deg": 90.0}, r"elevation_deg is 90\.0"),
        (
            RenderConfig,
            {"elevation_deg": (30.0, 0.0)},
            r"elevation_deg is \(30\.0, 0\.0\), must be .*ascending",
        ),
        (RenderConfig, {"fov_y_deg": (float("nan"), 60.0)}, r"fov_y_deg is \(nan, 60\.0\)"),
        (RenderConfig, {"prompt_elevation_deg": (0.0, 95.0)}, r"elevation_deg is \(0\.0, 95\.0\).* below 90"),
        (RenderConfig, {"prompt_relative_distance": (0.0, 1.0)}, r"is \(0\.0, 1\.0\), must be .* above 0"),
        (RenderConfig, {"size": 4}, "size is 4, must be a whole number of at least 8"),
        (RenderConfig, {"views": 6}, "views is 6"),
        (
            RenderConfig,
            {"up": "y", "front": "-y"},
            r"front is '-y' with up y, must be one of \+x, -x, \+z, -z",
        ),
    ],
)
def test_bad_values_are_named(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
