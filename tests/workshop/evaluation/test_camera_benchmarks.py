"""The benchmarks of the prompt's camera and of the controllers' weights, by hand and on the tiny model."""

import json

import pytest
import torch

from benchmarks import controller_balance, prompt_camera
from imagedream.controller_weights import ControllerWeights
from imagedream.workshop.evaluation.held_out_toys import held_out_case
from tests.tiny import tiny_pipeline


def row(seen_in, azimuth, error, prompts="±30°"):
    rest = {"elevation_error_deg": 2.0, "certainty": 0.5, "silhouette_iou": 0.9}
    return {
        "toy": "mug-6",
        "prompts": prompts,
        "in": seen_in,
        "azimuth_deg": azimuth,
        "error_deg": error,
        **rest,
    }


def test_summary_by_hand():
    rows = [row("true mesh", -10.0, 1.0), row("true mesh", 30.0, 3.0), row("field", 30.0, 20.0)]
    front, mean, field, mesh = prompt_camera.summary(rows)
    assert [one["looked for in"] for one in (front, mean, field, mesh)] == [
        "always front", "their mean", "field", "true mesh",
    ]  # fmt: skip
    assert front["90 %"] == pytest.approx(28)  # of 10 and 30
    assert mean["90 %"] == pytest.approx(20)  # their mean is 10
    assert (field["toys"], field["median"], field["within 15°"]) == (1, 20, 0)
    assert mesh["within 15°"] == 1
    assert mesh["mean certainty"] == 0.5
    assert mesh["elevation median"] == 2


def test_balance_scores_what_was_sampled(tmp_path):
    pipeline, case = tiny_pipeline(), held_out_case(8, "robot", 16)
    settings = controller_balance.Settings(steps=1)
    images = [
        controller_balance.sample(pipeline, case, "a robot", settings, **weights)
        for weights in ({}, {"ip_weight": 0.0}, {"caption_weight": 0.0})
    ]
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    numbers = controller_balance.scores(pipeline, case, images[0], "a robot")
    assert list(json.loads(json.dumps(numbers))) == [
        "PSNR to truth (dB)",
        "like the picture",
        "like the caption",
    ]
    assert set(controller_balance.NAMES) == set(vars(ControllerWeights()))
