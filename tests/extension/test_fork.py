"""The official fork's names and keys, beside its configuration."""

import math
from importlib import import_module

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from launch import fork_overrides

THEIR_NAMES = """
random-camera-datamodule eff-random-camera-datamodule single-image-datamodule multiview-camera-datamodule
co3d-datamodule dreamfusion-system efficient-dreamfusion-system magic3d-system fantasia3d-system
prolificdreamer-system latentnerf-system sjc-system textmesh-system sdi-system zero123-system
zero123-simple-system magic123-system image-condition-dreamfusion-system instructnerf2nerf-system
control4d-multiview-system implicit-volume implicit-sdf volume-grid tetrahedra-sdf-grid custom-mesh no-material
diffuse-with-point-light-material neural-radiance-material hybrid-rgb-latent-material sd-latent-adapter-material
pbr-material solid-color-background neural-environment-map-background textured-background nerf-volume-renderer
neus-volume-renderer gan-volume-renderer patch-renderer nvdiff-rasterizer stable-diffusion-guidance
deep-floyd-guidance zero123-guidance stable-zero123-guidance zero123-unified-guidance
stable-diffusion-prompt-processor deep-floyd-prompt-processor dummy-prompt-processor mesh-exporter dummy-exporter
perceptual-loss mvdream-system mvdream-random-multiview-camera-datamodule
mvdream-neural-environment-map-background mvdream-multiview-diffusion-guidance
"""


@pytest.fixture(scope="module")
def fork(extension):
    return import_module("threestudio-imagedream.fork")


@pytest.fixture(scope="module")
def cfg(fork_config):
    return OmegaConf.load(fork_config)


def test_names_that_threestudio_holds_are_mapped(cfg, fork):
    assert fork_overrides(cfg) == [
        "system.prompt_processor_type=imagedream-fork-prompt-processor",
        "system.background_type=imagedream-fork-background",
    ]
    for override in fork_overrides(cfg):
        threestudio.find(override.partition("=")[2])
    other = OmegaConf.create({"system": {"guidance_type": "stable-diffusion-guidance", **{
        key: cfg.system[key] for key in ("prompt_processor_type", "background_type")
    }}})  # fmt: skip
    assert fork_overrides(other) == []


def test_cameras_are_those_of_the_paper(cfg, fork):
    data = threestudio.find("random-multiview-camera-datamodule")(cfg.data)
    assert list(data.cfg.relative_distance_range) == [0.6, 0.75]
    # 2 world units away at 40 degrees, half the frame's height is 2 tan 20°
    assert data.cfg.eval_relative_distance == pytest.approx(0.72794)
    assert (data.cfg.n_view, data.cfg.n_test_views, data.cfg.eval_height) == (4, 120, 512)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert batch["camera_distances"].item() == pytest.approx(2.0, abs=1e-5)
    assert batch["elevation"].item() == 15
    assert batch["fovy"].item() == pytest.approx(math.radians(40))


def test_guidance_reads_the_forks_keys(cfg, fork, weights):
    settings = OmegaConf.merge(cfg.system.guidance, {"ckpt_path": weights, "config_path": "any.yaml"})
    guidance_class = threestudio.find("multiview-diffusion-guidance")
    guidance_class.preflight(settings)
    guidance = guidance_class(settings)
    assert guidance.cfg.weights == weights
    assert (guidance.cfg.prompt_background, guidance.cfg.prompt_suffix) == ("mean_grey", "")
    assert guidance.settings.guidance_scale == 5.0
    assert guidance.settings.recon_std_rescale == 0.2
    guidance.do_update_step(0, 4000)
    assert guidance.settings.timestep_range == pytest.approx((0.5, 0.74))


@pytest.mark.parametrize("mode", ["pixel", "local"])
def test_published_weights_are_named_by_the_model(cfg, fork, mode):
    suffix = "-local" if mode == "local" else ""
    named = {"model_name": f"sd-v2.1-base-4view-ipmv{suffix}", "ip_mode": mode}
    settings = fork.guidance_settings(OmegaConf.merge(cfg.system.guidance, named))
    assert settings["weights"] == f"Peng-Wang/ImageDream/sd-v2.1-base-4view-ipmv{suffix}.pt"
    assert settings["controllers"] == mode


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (
            "data",
            {"camera_perturb": 0.1},
            "data.camera_perturb is 0.1, the ImageDream extension supports 0.0 only",
        ),
        ("data", {"relative_radius": False}, "data.relative_radius is False"),
        ("data", {"azimuth_range": [0, 90]}, r"data.azimuth_range is \[0, 90\]"),
        ("data", {"camera_distance": 2}, "camera_distance"),
        ("guidance", {"ip_mode": "global"}, "ip_mode is 'global', must be 'pixel' or 'local'"),
        ("guidance", {"model_name": "sd"}, "model_name is 'sd', published are 'sd-v2.1-base-4view-ipmv'"),
        ("guidance", {"view_dependent_prompting": True}, "view_dependent_prompting is True"),
        ("prompt", {"image_path": "nowhere.png", "prompt": "a"}, r"nowhere\.png: no such file"),
    ],
)
def test_what_has_no_counterpart_is_an_error(cfg, fork, part, settings, message):
    check, given = {
        "data": (fork.camera_settings, cfg.data),
        "guidance": (fork.ForkGuidance.preflight, cfg.system.guidance),
        "prompt": (fork.ForkPromptProcessor.preflight, cfg.system.prompt_processor),
    }[part]
    with pytest.raises((ValueError, TypeError), match=message):
        check(OmegaConf.merge(given, settings))


def test_prompt_reads_the_forks_keys(cfg, fork, picture):
    given = {"prompt": "a brick", "image_path": picture}
    settings = OmegaConf.merge(cfg.system.prompt_processor, given)
    assert fork.ForkPromptProcessor.given(settings) == [(picture, None)]
    output = fork.ForkPromptProcessor(settings)()
    assert (output.prompt, len(output.images)) == ("a brick", 1)
    assert output.negative_prompt == "ugly, blurry"


def test_random_colours_are_shared(fork):
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4, 5, 5, 3), dim=-1)
    background = fork.ForkBackground(
        OmegaConf.create({"random_aug": True, "share_aug_bg": True, "random_aug_prob": 1.0})
    )
    background.update_step(0, 0)
    color = background(dirs=directions)
    assert color.std((0, 1, 2)).max() == 0
    background.update_step(0, 1)
    assert not torch.equal(background(dirs=directions), color)
    color.sum().backward()  # its network stays in the graph
    background.eval()
    assert background(dirs=directions).std((0, 1, 2)).min() > 0


def test_a_name_that_is_taken_stays(fork, caplog, monkeypatch):
    monkeypatch.setitem(threestudio.__modules__, "taken", int)
    with caplog.at_level("WARNING"):
        assert fork.register_if_free("taken")(float) is float
    assert threestudio.find("taken") is int
    assert "taken is builtins.int" in caplog.text


def test_no_name_of_threestudio_or_of_its_mvdream_extension_is_taken(extension):
    ours = {
        name
        for name, module in threestudio.__modules__.items()
        if module.__module__.startswith("threestudio-imagedream.")
    }
    assert len(ours) >= 10
    assert not ours & set(THEIR_NAMES.split())
