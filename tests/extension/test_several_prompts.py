"""Several prompts from the configuration to the network's inputs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.image_prompt.multi_image import angle_bias
from imagedream.model import predict_noise
from tests.extension.test_guidance import renders
from tests.extension.test_system import experiment
from tests.tiny import tiny_pipeline


def process(**settings):
    processor = threestudio.find("imagedream-prompt-processor")
    return processor(OmegaConf.create({"prompt": "a brick", "image_size": 32, **settings}))()


def colour(image) -> int:
    return int(image.rgba[:3, 16, 16].argmax())


def test_all_pictures_of_the_config_are_prompts(extension, bricks):
    one = process(image_path=bricks["red"]).images
    assert [(colour(image), image.azimuth_deg) for image in one] == [(0, None)]
    some = process(image_path=bricks["red"], image_paths=[bricks["green"]], left_path=bricks["blue"]).images
    assert [(colour(image), image.azimuth_deg) for image in some] == [(0, None), (1, None), (2, 90.0)]
    named = process(back_path=bricks["red"], front_path=bricks["green"]).images
    assert [(colour(image), image.azimuth_deg) for image in named] == [(1, 0.0), (0, 180.0)]


def test_a_mask_is_for_the_picture_of_image_path(extension, bricks, tmp_path):
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 5:15] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    given = dict(image_path=bricks["red"], back_path=bricks["green"], mask_path=str(tmp_path / "mask.png"))
    first, second = process(**given).images
    assert (first.background_removal, second.background_removal) == ("mask", "alpha")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "image_path is None"),
        ({"image_path": "{red}", "prompt": 5}, "prompt must be text, got 5 .int.; quote it"),
        ({"image_path": "{red}", "negative_prompt": ["a", "b"]}, "negative_prompt must be text"),
        ({"image_path": "{red}", "mask_path": "nowhere.png"}, "nowhere.png: no such file"),
        ({"image_path": "{red}", "caption": "a"}, "caption"),
        ({"image_paths": ["nowhere.png"]}, r"nowhere\.png: no such file"),
        ({"image_paths": [3]}, r"image_paths\[0\] is 3, must be the path"),
        ({"left_path": ""}, "left_path is '', must be the path"),
        ({"back_path": "{red}", "mask_path": "{red}"}, "mask_path needs image_path"),
        ({"top_path": "{red}"}, "top_path"),
    ],
)
def test_bad_pictures_are_errors(extension, bricks, settings, message):
    settings = {
        key: value.format(**bricks) if isinstance(value, str) else value for key, value in settings.items()
    }
    with pytest.raises((ValueError, TypeError), match=message):
        threestudio.find("imagedream-prompt-processor").preflight(OmegaConf.create(settings))


@pytest.mark.parametrize(
    ("controllers", "same_background"), [("global", True), ("pixel", True), ("pixel", False)]
)
def test_the_network_is_told_all_of_it(extension, bricks, tmp_path, controllers, same_background):
    tiny_pipeline(controllers).save_pretrained(tmp_path / "model")
    guidance = threestudio.find("imagedream-guidance")(
        OmegaConf.create({"weights": str(tmp_path / "model"), "prompt_temperature": 0.7})
    )
    prompt = process(image_path=bricks["red"], left_path=bricks["blue"])
    called = []

    def predict(*inputs):
        called.append(inputs)
        return predict_noise(*inputs)

    guidance.settings = replace(guidance.settings, predict=predict)

    rgb, batch = renders()
    azimuth = batch["azimuth"]
    colours = torch.ones(8, 3) if same_background else torch.eye(3)[:2].repeat_interleave(4, dim=0)
    background = colours[:, None, None].expand(8, 16, 16, 3)
    guidance(rgb, prompt, **batch, comp_rgb_bg=background)["loss_sds"].backward()
    assert (rgb.grad.abs().sum((1, 2, 3)) > 0).all()

    (_, _, _, _, _, features, latents, bias), *more = called
    assert more == []
    expected = angle_bias(azimuth.unflatten(0, (2, 4)), [None, 90.0], 0.7)
    torch.testing.assert_close(bias, torch.cat([expected, expected]))  # with and without conditions
    for group in range(2):
        condition = guidance.pipeline.encode_condition(
            [image.rgba for image in prompt.images], "a brick", colours[4 * group]
        )
        torch.testing.assert_close(features[group], condition.image_features[0])
        if controllers == "pixel":
            torch.testing.assert_close(latents[group], condition.prompt_latents[0])
            assert latents[2 + group].abs().max() == 0
        else:
            assert latents is None
        assert features[2 + group].abs().max() == 0


def test_several_prompts_in_the_main_job(extension, bricks, weights, tmp_path):
    """The shipped configuration with several pictures, up to the first views and the report."""
    more = [
        f"system.prompt_processor.back_path={bricks['blue']}",
        f"system.prompt_processor.image_paths=[{bricks['green']}]",
        "system.prompt_processor.image_size=64",
        "system.views.steps=1",
    ]
    cfg = experiment("imagedream-toybox.yaml", bricks["red"], weights, *more)
    system_class = threestudio.find(cfg.system_type)
    system_class.preflight(cfg.system)
    system = system_class(cfg.system)
    system.set_save_dir(str(tmp_path / "trial" / "save"))
    system.on_fit_start()
    save = tmp_path / "trial" / "save"
    shown = [
        PIL.Image.open(save / name).getpixel((32, 32))[:3]
        for name in ("prompt.png", "prompt-2.png", "prompt-3.png")
    ]
    assert [np.argmax(pixel) for pixel in shown] == [0, 1, 2]
    assert (tmp_path / "trial" / "views.png").exists()
    system.write_report()
    assert (tmp_path / "trial" / "report.html").read_text().count('alt="the prompt"') == 3


def test_a_real_threestudio_finds_the_pictures_from_its_own_folder(bricks, tmp_path, monkeypatch):
    from launch import absolute_paths

    folder = Path(bricks["red"]).parent
    monkeypatch.chdir(folder.parent)
    here = folder.name
    overrides = [
        f"a.image_paths=[{here}/red.png, nowhere.png]",
        f"a.left_path={here}/blue.png",
        "b=[0,5.0,100]",
    ]
    assert absolute_paths(overrides) == [
        f"a.image_paths=[{bricks['red']},nowhere.png]",
        f"a.left_path={bricks['blue']}",
        "b=[0,5.0,100]",
    ]


def test_a_trial_without_a_main_picture_asks_for_a_name():
    from threestudio.launching.arguments import parse_arguments, read_config

    overrides = ["system.prompt_processor.image_path=null"]
    arguments = parse_arguments(["--config", "imagedream-toybox.yaml", *overrides])
    assert read_config(arguments).tag == ""  # named by its timestamp
    arguments = parse_arguments(["--config", "imagedream-toybox.yaml", *overrides, "use_timestamp=false"])
    with pytest.raises(ValueError, match="give tag="):
        read_config(arguments)
