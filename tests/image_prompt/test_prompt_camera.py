"""The camera of a picture is found where the truth is known, and doubted where nothing tells it."""

import json

import pytest
import torch
import trimesh

from imagedream.cameras import framing_distance, look_at_origin
from imagedream.image_prompt import prompt_camera
from imagedream.image_prompt.prompt_camera import (
    PromptCamera,
    clip_features,
    estimate_prompt_camera,
    mass_near,
)
from imagedream.mesh.raycast import Light, Raycaster
from imagedream.pictures import premultiplied
from imagedream.toybox import make_toy
from imagedream.workshop.evaluation.held_out_objects import Orbit, prompt_picture
from tests.tiny import tiny_encoder


def mesh_renderer(mesh):
    caster = Raycaster(mesh)

    def render(camera_to_world, fov_y_deg, size):
        rgba = caster.render(camera_to_world, fov_y_deg, size, Light()).rgba
        return premultiplied(rgba)

    return render


@pytest.fixture(scope="module")
def dog():
    return make_toy(1, "dog")


@pytest.fixture(scope="module")
def dog_renderer(dog):
    return mesh_renderer(dog.mesh)


@pytest.mark.parametrize(("azimuth", "elevation"), [(25.0, 5.0), (-70.0, 15.0), (160.0, 10.0)])
def test_true_object(dog, dog_renderer, azimuth, elevation):
    camera = estimate_prompt_camera(prompt_picture(dog, azimuth, elevation), dog_renderer, 0.7)
    assert abs(camera.azimuth_deg - azimuth) < 6
    assert abs(camera.elevation_deg - elevation) < 5
    assert camera.certainty > 0.6
    assert camera.silhouette_iou > 0.8


def test_distance_and_offset_are_those_of_the_render(dog, dog_renderer):
    """A render that was never cut out and centred has its camera's own distance, and the origin in the middle."""
    rgba = Orbit((40.0,), 10.0, relative_distance=0.8).views(dog.mesh, 128).rgba[0]
    camera = estimate_prompt_camera(rgba, dog_renderer, 0.6)
    assert abs(camera.azimuth_deg - 40) < 4
    assert camera.relative_distance == pytest.approx(0.8, rel=0.03)
    assert camera.distance == pytest.approx(float(framing_distance(0.8, torch.tensor(47.5))), rel=0.3)
    assert camera.offset == pytest.approx((0, 0), abs=0.02)

    # half as large, and moved by 16 pixels to the right and 8 up
    moved = torch.zeros(4, 128, 128)
    small = torch.nn.functional.interpolate(rgba[None], (64, 64), mode="area")[0]
    moved[:, 24:88, 48:112] = small
    other = estimate_prompt_camera(moved, dog_renderer, 0.6)
    assert abs(other.azimuth_deg - camera.azimuth_deg) < 2
    assert other.relative_distance == pytest.approx(2 * camera.relative_distance, rel=0.06)
    assert other.offset[0] == pytest.approx(16 / 128, abs=0.02)
    assert other.offset[1] == pytest.approx(-8 / 128, abs=0.02)


def test_same_call_same_answer_and_json(dog, dog_renderer):
    prompt = prompt_picture(dog, 30.0, 10.0)
    features = clip_features(tiny_encoder())
    first, second = (estimate_prompt_camera(prompt, dog_renderer, 0.7, features=features) for _ in range(2))
    assert first == second
    assert PromptCamera.from_dict(json.loads(json.dumps(first.to_dict()))) == first
    assert "certain within 15°" in str(first)


def test_a_ball_has_no_sides(monkeypatch):
    """All azimuths fit alike, so the prior decides: the front, and as unlikely as the prior is wide."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.4)
    fov = torch.tensor([47.5])
    pose = look_at_origin(torch.tensor([10.0]), torch.tensor([120.0]), framing_distance(0.6, fov))
    prompt = Raycaster(ball).render(pose, fov, 96, light=None).rgba[0]

    def plain(camera_to_world, fov_y_deg, size):
        rgba = Raycaster(ball).render(camera_to_world, fov_y_deg, size, light=None).rgba
        return premultiplied(rgba)

    camera = estimate_prompt_camera(prompt, plain, 0.6)
    assert abs(camera.azimuth_deg) < 15
    angles = torch.deg2rad(torch.arange(0, 360, 15.0))
    prior = torch.softmax(2 * torch.cos(angles), 0)
    assert camera.certainty == pytest.approx(mass_near(prior, camera.azimuth_deg), abs=0.05)
    monkeypatch.setattr(prompt_camera, "FRONT", 0.0)
    assert estimate_prompt_camera(prompt, plain, 0.6).certainty == pytest.approx(30 / 360, abs=0.04)


def test_what_cannot_be_matched(dog, dog_renderer):
    with pytest.raises(ValueError, match="the prompt is transparent everywhere"):
        estimate_prompt_camera(torch.zeros(4, 32, 32), dog_renderer)
    nothing = lambda camera_to_world, fov, size: torch.zeros(len(fov), 4, size, size)  # noqa: E731
    with pytest.raises(ValueError, match="nothing of the object is to be seen"):
        estimate_prompt_camera(prompt_picture(dog, 0.0, 5.0), nothing)
