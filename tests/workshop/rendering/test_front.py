"""The front by picture and text towers: mechanics with random towers, which see the same whatever way it is turned."""

import json

import numpy as np
import pytest
import torch
import trimesh

from imagedream.mesh.reading import to_gltf_axes
from imagedream.toybox import make_toy
from imagedream.workshop.rendering.dataset import Item, RenderConfig, object_samples
from imagedream.workshop.rendering.front import estimate_front, load_encoder
from tests.tiny import tiny_encoder


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tiny_encoder(seed=1).save_pretrained(folder)
    return folder


def turned(mesh, quarters):
    mesh = mesh.copy()
    mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2 * quarters, [0, 0, 1]))
    return mesh


def test_a_quarter_turn_of_the_object_is_a_quarter_turn_of_its_front(towers):
    encoder = load_encoder(str(towers))
    mesh = make_toy(3, "car").mesh
    start = estimate_front([mesh], "a car", encoder, size=32)
    for quarters in (1, 2, 3):
        assert estimate_front([turned(mesh, quarters)], "a car", encoder, size=32) == (start + quarters) % 4


def test_views_do_not_depend_on_how_the_file_was_turned(towers, tmp_path):
    config = RenderConfig(
        size=16, views=4, rings=1, prompts=0, lighting="none", front="estimate", encoder=str(towers)
    )
    found = []
    for quarters in (0, 1):
        mesh = turned(make_toy(3, "car").mesh, quarters)
        mesh.vertices = to_gltf_axes(mesh.vertices)
        mesh.export(tmp_path / f"{quarters}.glb")
        _, files = next(object_samples(Item("car", str(tmp_path / f"{quarters}.glb"), "a car"), config))
        found.append((json.loads(files["cameras.json"]), files["view_000.png"], files["view_001.png"]))
    fronts = [record["front"] for record, *_ in found]
    assert {record["front_from"] for record, *_ in found} == {"estimate"}
    order = ["+z", "+x", "-z", "-x"]  # front, left, back, right of a glTF file
    assert order.index(fronts[1]) == (order.index(fronts[0]) + 1) % 4
    assert found[0][1:] == found[1][1:]


def test_wrong_towers_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of picture and text towers"):
        load_encoder(str(tmp_path))
    tiny_encoder(vision_cfg=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot compare pictures with texts"):
        load_encoder(str(tmp_path))
    assert torch.is_grad_enabled()
