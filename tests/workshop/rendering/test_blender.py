"""Blender's pictures against the ray caster's: the same object, in the same place, of the same colours."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from imagedream import cameras
from imagedream.mesh.raycast import Light
from imagedream.mesh.reading import to_gltf_axes
from imagedream.workshop.rendering.blender import BlenderScene
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples

pytestmark = pytest.mark.slow

SMALL = RenderConfig(
    size=48, views=4, rings=1, prompts=1, lighting="fixed", relative_distance=(0.7, 0.8), supersample=4
)


@pytest.fixture(autouse=True)
def bpy():
    return pytest.importorskip("bpy", reason="bpy is not installed (it wants numpy below 2)")


def pictures(item, config):
    _, files = next(object_samples(item, config))
    record = json.loads(files["cameras.json"])
    decoded = {
        view["file"]: np.asarray(Image.open(io.BytesIO(files[view["file"]]))).astype(float) / 255
        for view in (*record["views"], *record["prompts"])
    }
    return record, decoded


def assert_same_shape(expected, found):
    """Partly covered pixels compared as such; returns what is fully covered in both."""
    one, other = expected[..., 3], found[..., 3]
    assert np.minimum(one, other).sum() / np.maximum(one, other).sum() > 0.95
    return np.minimum(one, other) == 1


def wedge(folder):
    """A file in glTF's own axes, without symmetry, so that a wrong one shows."""
    corners = np.array([[0.0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]])
    mesh = trimesh.Trimesh(to_gltf_axes(corners), [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], process=False)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=[(255, 0, 0, 255)] * 4)
    mesh.export(folder / "wedge.glb")
    return Item("wedge", str(folder / "wedge.glb"), "")


@pytest.mark.parametrize("kind", ["toy", "file"])
def test_cycles_shows_the_same_object(kind, tmp_path):
    item = Item("toy", "toybox:3") if kind == "toy" else wedge(tmp_path)
    record, expected = pictures(item, SMALL)
    other, found = pictures(item, replace(SMALL, backend="blender"))
    assert other["renderer"] == "blender"
    assert {**other, "renderer": "raycast"} == record
    for name in expected:
        covered = assert_same_shape(expected[name], found[name])
        ours, theirs = (picture[covered][:, :3].mean(axis=0) for picture in (expected[name], found[name]))
        np.testing.assert_allclose(ours, theirs, atol=0.3)  # a glossy coat and light from all around
        assert ours.argmax() == theirs.argmax()


def test_the_sun_shines_from_where_the_light_says():
    box = trimesh.creation.box((1, 1, 1))
    scene = BlenderScene([box])
    azimuths = cameras.orthogonal_azimuths()
    poses = cameras.look_at_origin(torch.zeros(4), azimuths, torch.full((4,), 3.0))
    light = Light(ambient=0.2, diffuse=0.5, direction=(0.0, 1.0, 0.0))  # from the left
    middle = scene.photograph(poses, torch.full((4,), 30.0), 16, light, 2)[:, 8, 8, :3].mean(axis=-1)
    assert middle.argmax() == 1
    assert middle[1] > 1.5 * middle[[0, 2, 3]].max()
