"""A picture seen from where it was taken: by hand, at a given and at an estimated camera."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.image_prompt.picture_projection import Placement
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import premultiplied

pytestmark = pytest.mark.usefixtures("extension")


def reference(**settings):
    return threestudio.find("imagedream-reference-guidance")(OmegaConf.create({"size": 16, **settings}))


def test_reference_by_hand(prompt):
    """A render that is the picture costs nothing; each difference costs what it says."""
    guidance = reference(azimuth_deg=90.0, relative_distance=0.5)
    batch = guidance.camera_batch(prompt)
    assert batch["rays_o"].shape == (1, 16, 16, 3)
    torch.testing.assert_close(
        batch["camera_positions"], torch.tensor([[0.0, 0.5 / 0.4400, 0.0]]), atol=1e-3, rtol=0
    )

    rgba = prompt.images[0].rgba[None].float()
    rgba = guidance._resized(premultiplied(rgba))
    mask = rgba[..., 3:]
    render = {"comp_rgb_bg": torch.ones(1, 16, 16, 3), "opacity": mask}
    rgb = rgba[..., :3] + 1 - mask
    losses = guidance(rgb, prompt, render, **batch)
    assert set(losses) == {"loss_color", "loss_mask"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(0, abs=1e-4), name
    worse = guidance(rgb + 0.1, prompt, {**render, "opacity": mask + 0.2}, **batch)
    assert worse["loss_color"].item() == pytest.approx(0.01, rel=1e-4)
    assert worse["loss_mask"].item() == pytest.approx(0.04, rel=1e-4)


def prompt_camera(**changed):
    values = {"azimuth_deg": 90.0, "elevation_deg": 10.0, "distance": 1.5, "fov_y_deg": 40.0}
    values["offset"] = (0.0, 0.0)
    rest = {"certainty": 0.5, "silhouette_iou": 0.9}
    return PromptCamera(**{**values, **rest, **changed})


def test_reference_at_the_estimated_camera(prompt):
    """Without an offset the same as with the numbers given, times the certainty."""
    camera = prompt_camera()
    estimated, prompt_then = reference(camera="estimate"), replace(prompt, cameras=(camera,))
    numbers = {"azimuth_deg": 90.0, "elevation_deg": 10.0, "fovy_deg": 40.0}
    given = reference(**numbers, relative_distance=camera.relative_distance)
    batches = [estimated.camera_batch(prompt_then), given.camera_batch(prompt)]
    for key in ("rays_o", "rays_d", "c2w"):
        torch.testing.assert_close(batches[0][key], batches[1][key])
    render = {"comp_rgb_bg": torch.ones(1, 16, 16, 3), "opacity": torch.rand(1, 16, 16, 1)}
    rgb = torch.rand(1, 16, 16, 3)
    half, full = (
        one(rgb, prompt_then, render, **batch) for one, batch in zip((estimated, given), batches, strict=True)
    )
    for name in full:
        torch.testing.assert_close(half[name], 0.5 * full[name], atol=1e-5, rtol=1e-4)


def test_reference_at_a_camera_that_looks_past_the_origin(prompt):
    """The origin 0.1 of the frame right of its centre: a frame around the origin, 1.2 times as wide, from the same place."""
    guidance = reference(camera="estimate", size=64)
    prompt_then = replace(prompt, cameras=(prompt_camera(offset=(0.1, 0.0)),))
    batch = guidance.camera_batch(prompt_then)
    assert batch["camera_distances"].item() == pytest.approx(1.5, rel=1e-4)
    assert torch.tan(batch["fovy"] / 2).item() == pytest.approx(1.2 * np.tan(np.radians(20)), rel=1e-4)
    rgba = premultiplied(prompt.images[0].rgba[None].float())
    laid = Placement(prompt_then.cameras[0], margin=0.0).lay(rgba, rgba.shape[-1])

    def centre(opacity):
        columns = (torch.arange(64) + 0.5) / 32 - 1
        return ((opacity * columns).sum() / opacity.sum()).item()

    before, after = (guidance._resized(one)[0, ..., 3] for one in (rgba, laid))
    assert centre(after) == pytest.approx((centre(before) - 0.2) / 1.2, abs=0.005)


def test_turned_models_are_warned_of():
    warnings = import_module("threestudio-imagedream.camera_estimate").turned_warnings
    (warning,) = warnings([prompt_camera(certainty=0.5)], [("a.png", 0.0)])
    assert "the picture given for azimuth 0° is seen from 90°" in warning
    for camera, given in (
        ({}, None),
        ({}, 60.0),
        ({"certainty": 0.4}, 0.0),
        ({"azimuth_deg": -170.0}, 170.0),
    ):
        assert warnings([prompt_camera(**camera)], [("a.png", given)]) == []


def test_reference_needs_to_know_where_the_picture_was_taken(prompt, picture):
    for settings, message in (
        ({}, "give azimuth_deg, or name its side"),
        ({"picture": 1}, "picture is 1, but the prompt has 1 pictures"),
        ({"camera": "guess"}, "must be one of given, estimate"),
    ):
        with pytest.raises(ValueError, match=message):
            reference(**settings).camera_batch(prompt)
    settings = OmegaConf.create({"left_path": picture, "image_size": 32})
    left = threestudio.find("imagedream-prompt-processor")(settings)()
    assert reference().camera_batch(left)["azimuth"].item() == 90
