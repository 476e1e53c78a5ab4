"""Several guidances in one run: weighted sums, memory, cameras, and what is said when they do not fit."""

import gc
import weakref
from dataclasses import replace
from importlib import import_module

import numpy as np
import PIL.Image
import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.image_prompt.prompt_camera import PromptCamera
from tests.extension.test_system import CONFIGS, PAPER_SMALL, experiment
from tests.short_run import short_trainer

MORE = ("system.prompt_camera.enabled=false", "system.prompt_processor.prompt=a brick")

pytestmark = pytest.mark.usefixtures("extension")


class Colour:
    """An unseen guidance with threestudio's call: pulls everything towards a colour."""

    def __init__(self, cfg):
        self.colour, self.seen = cfg.get("colour", 0.0), []
        self.answer = cfg.get("answer", "scalar")

    def __call__(self, rgb, elevation, azimuth, camera_distances, rgb_as_latents=False, **kwargs):
        self.seen.append((tuple(rgb.shape), tuple(azimuth.shape), kwargs["height"]))
        kwargs["c2w"][:] = 0  # as the MVDream guidances do
        difference = (rgb - self.colour).square()
        return {
            "scalar": {"loss_sds": difference.mean(), "loss_more": 2 * difference.mean(), "map": difference},
            "none": {"grad_norm": 1.0},
            "map": {"loss_sds": difference},
            "list": [difference.mean()],
            "shape": {"loss_sds": (rgb @ torch.ones(5, 5)).mean()} if self.answer == "shape" else {},
        }[self.answer]


class Few:
    """Knows only what it needs."""

    def __init__(self, cfg):
        pass

    def __call__(self, rgb, prompt_utils, azimuth):
        return {"loss_few": rgb.mean() * len(prompt_utils.images)}


threestudio.register("test-colour-guidance")(Colour)
threestudio.register("test-few-guidance")(Few)


@pytest.fixture
def prompt(extension, picture):
    settings = {"image_path": picture, "prompt": "a brick", "image_size": 32}
    return threestudio.find("imagedream-prompt-processor")(OmegaConf.create(settings))()


def colour(**entry):
    return {"guidance_type": "test-colour-guidance", **entry}


def cameras(count=8):
    data = import_module("threestudio-imagedream.data")
    settings = OmegaConf.create({"batch_size": count, "height": 8, "width": 8})
    module = data.CameraDataModule(settings)
    module.setup("fit")
    return module.train_dataset.collate(0)


def mix_of(**cfg):
    return import_module("threestudio-imagedream.guidances").GuidanceMix(OmegaConf.create(cfg))


def make(prompt, guidances=(), **cfg):
    mix = mix_of(guidances=guidances, **cfg)
    for member in mix:
        member.read_prompt(prompt)
    return mix


def call(mix, rgb, step=0, batch=None):
    mix.do_update_step(0, step)
    out = {"comp_rgb": rgb, "comp_rgb_bg": torch.ones_like(rgb), "opacity": rgb[..., :1]}
    terms, numbers = mix(out, cameras(len(rgb)) if batch is None else batch, render=None)
    return sum(terms.values()), numbers


def test_the_gradient_is_the_weighted_sum(prompt):
    """By hand: a colour's losses are three times the mean of (rgb − colour)² over the images that it sees."""
    mix = make(
        prompt,
        [
            colour(weight=0.5),
            colour(weight=0.3, cameras="group", guidance={"colour": 1.0}),
            colour(weight=7.0, cameras="first", guidance={"colour": 0.5}),
        ],
    )
    rgb = torch.rand(8, 8, 8, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss, _ = call(mix, rgb)
    loss.backward()
    image, values = torch.arange(8).view(8, 1, 1, 1), rgb.detach()
    expected = 0.5 * values / 8 + 0.3 * (values - 1) / 4 * (image < 4) + 7.0 * (values - 0.5) * (image < 1)
    torch.testing.assert_close(rgb.grad, 6 * expected / (8 * 8 * 3))


def test_weights_are_schedules_and_unused_guidances_are_not_in_memory(prompt, weights):
    main = {"guidance_type": "imagedream-guidance", "guidance": {"weights": weights}}
    mix = make(
        prompt,
        {"late": colour(weight=[2, 0.0, 1.0, 4])},
        **main,
        loss={"lambda_sds": [1, 1.0, 0.0, 3]},
    )
    first, late = mix
    rgb = torch.rand(4, 8, 8, 3, requires_grad=True)
    _, numbers = call(mix, rgb, step=0)
    assert "loss_sds" in numbers
    assert "late/loss_sds" not in numbers
    assert late.guidance is None
    network = weakref.ref(first.guidance.pipeline.unet)

    loss, numbers = call(mix, rgb, step=3)
    assert loss.item() == pytest.approx(0.5 * 3 * rgb.square().mean().item(), rel=1e-5)
    assert set(numbers) == {"late/loss_sds", "late/loss_more"}  # single numbers only
    assert first.guidance is None
    gc.collect()
    assert network() is None
    mix.free()
    assert late.guidance is None


def test_every_and_what_a_guidance_can_be_told(prompt):
    few = {"guidance_type": "test-few-guidance"}
    mix = make(prompt, [colour(), colour(every=3, guidance={"colour": 1.0}), few])
    for step in range(7):
        rgb = torch.rand(4, 8, 8, 3, requires_grad=True)
        _, numbers = call(mix, rgb, step=step)
        assert numbers["2/loss_few"].item() == pytest.approx(rgb.mean().item())
    assert [len(member.guidance.seen) for member in list(mix)[:2]] == [7, 3]


@pytest.mark.parametrize(("name", "images"), [("all", 8), ("group", 4), ("first", 1)])
def test_cameras(prompt, name, images):
    mix = make(prompt, [colour(cameras=name)])
    batch = cameras()
    before = batch["c2w"].clone()
    call(mix, torch.rand(8, 8, 8, 3, requires_grad=True), batch=batch)
    assert mix.members[0].guidance.seen == [((images, 8, 8, 3), (images,), 8)]
    assert torch.equal(batch["c2w"], before)


OURS = {"guidance_type": "imagedream-guidance", "cameras": "first"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            colour(guidance={"answer": "none"}),
            r"system\.guidances\.0 \(test-colour-guidance\) returned grad_norm, but no loss_",
        ),
        (
            colour(guidance={"answer": "map"}),
            r"loss_sds of .* has shape \(4, 8, 8, 3\), must be a single number",
        ),
        (colour(guidance={"answer": "list"}), "returned list, must be a dict"),
        (
            colour(guidance={"answer": "shape"}),
            r"was shown images \(4, 8, 8, 3\) .*cameras: all.*RuntimeError: ",
        ),
        (OURS, r"images \(1, 8, 8, 3\).*cameras: first.*1 images do not make groups of n_view = 4"),
        ({"guidance_type": "test-few-guidance", "prompt": None}, "needs a prompt"),
    ],
)
def test_what_does_not_fit_is_an_error(prompt, weights, entry, message):
    entry = {**entry}
    prompt = entry.pop("prompt", prompt)
    if entry["guidance_type"] == "imagedream-guidance":
        entry["guidance"] = {"weights": weights}
    with pytest.raises(ValueError, match=message):
        call(make(prompt, [entry]), torch.rand(4, 8, 8, 3, requires_grad=True))


def test_idle_steps_are_errors(prompt):
    mix = make(prompt, [colour(every=2), colour(weight=[4, 1.0, 0.0, 5])])
    mix.check_steps(5)
    message = r"no guidance (?:is active|has a loss) at step 5: system\.guidances\.0 .*weight 1 in every 2\. step; .*weight 0 "
    with pytest.raises(ValueError, match=message):
        mix.check_steps(6)
    with pytest.raises(ValueError, match=message):
        call(mix, torch.rand(4, 8, 8, 3, requires_grad=True), step=5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, "needs a guidance_type"),
        (colour(cameras="last"), "cameras is 'last', must be one of all, group, first"),
        (colour(every=0), "every is 0"),
        (colour(wieght=1), "wieght"),
        ({"guidance_type": "no-guidance"}, "no-guidance"),
        ({"guidance_type": "stable-diffusion-guidance", "guidance": {"scale": 1}}, "scale"),
        ({"guidance_type": "imagedream-guidance", "guidance": {"weights": "nowhere.pt"}}, r"nowhere\.pt"),
        (colour(weight=[1, 2]), "schedule"),
    ],
)
def test_bad_entries_are_found_before_anything_is_loaded(entry, message):
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        mix_of(guidances=[entry]).preflight()
    with pytest.raises(ValueError, match=r"give system\.guidance_type or system\.guidances"):
        mix_of()


# ------------------------------------------------------------------------------------------------- reference views


def reference(**settings):
    return threestudio.find("imagedream-reference-guidance")(OmegaConf.create({"size": 16, **settings}))


def test_reference_by_hand(prompt, tmp_path):
    """A render that is the picture costs nothing; each difference costs what it says."""
    rows = torch.linspace(0, 1, 16).view(16, 1).expand(16, 16)
    PIL.Image.fromarray((rows.numpy() * 255).astype(np.uint8)).save(tmp_path / "depth.png")
    PIL.Image.new("RGB", (16, 16), (128, 128, 255)).save(tmp_path / "normal.png")
    guidance = reference(
        azimuth_deg=90.0,
        relative_distance=0.5,
        depth_path=str(tmp_path / "depth.png"),
        normal_path=str(tmp_path / "normal.png"),
    )
    batch = guidance.camera_batch(prompt)
    assert batch["rays_o"].shape == (1, 16, 16, 3)
    torch.testing.assert_close(
        batch["camera_positions"], torch.tensor([[0.0, 0.5 / 0.4400, 0.0]]), atol=1e-3, rtol=0
    )

    rgba = prompt.images[0].rgba[None].float()
    rgba = guidance._resized(torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1))
    mask = rgba[..., 3:]
    render = {
        "comp_rgb_bg": torch.ones(1, 16, 16, 3),
        "opacity": mask,
        "depth": mask * (3 + 2 * rows)[None, ..., None],
        # facing the camera, which looks along -y: the normal is +y
        "comp_normal": mask * torch.tensor([0.5, 1.0, 0.5]),
    }
    rgb = rgba[..., :3] + 1 - mask
    losses = guidance(rgb, prompt, render, **batch)
    assert set(losses) == {"loss_color", "loss_mask", "loss_depth", "loss_normal"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(0, abs=1e-4), name
    worse = guidance(rgb + 0.1, prompt, {**render, "opacity": mask + 0.2, "depth": -render["depth"]}, **batch)
    assert worse["loss_color"].item() == pytest.approx(0.01, rel=1e-4)
    assert worse["loss_mask"].item() == pytest.approx(0.04, rel=1e-4)
    assert worse["loss_depth"].item() == pytest.approx(0.2, rel=0.2)


def prompt_camera(**changed):
    values = {"azimuth_deg": 90.0, "elevation_deg": 10.0, "distance": 1.5, "fov_y_deg": 40.0}
    values["offset"] = (0.0, 0.0)
    rest = {"certainty": 0.5, "silhouette_iou": 0.9, "azimuth_probabilities": (1.0,)}
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
        one(rgb, prompt_then, render, batch["c2w"])
        for one, batch in zip((estimated, given), batches, strict=True)
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
    alpha = prompt.images[0].rgba[None, 3:].float()

    def centre(opacity):
        columns = (torch.arange(64) + 0.5) / 32 - 1
        return ((opacity * columns).sum() / opacity.sum()).item()

    before, after = (
        guidance._resized(one)[0, ..., 0] for one in (alpha, guidance._framed(alpha, prompt_then.cameras[0]))
    )
    assert centre(after) == pytest.approx((centre(before) - 0.2) / 1.2, abs=0.005)


def test_reference_without_an_estimate(prompt, weights):
    """It is not called before there is one, and a run that makes none does not start."""
    entry = {"guidance_type": "imagedream-reference-guidance", "guidance": {"camera": "estimate", "size": 8}}
    mix = make(prompt, {"picture": entry, "colour": colour()})
    _, numbers = call(mix, torch.rand(4, 8, 8, 3, requires_grad=True))
    assert set(numbers) == {"colour/loss_sds", "colour/loss_more"}
    check = import_module("threestudio-imagedream.camera_estimate").check_prompt_camera
    check(OmegaConf.create({"guidances": [entry], "prompt_camera": {"steps": [3]}}))
    for never in ({}, {"enabled": False, "steps": [3]}):
        with pytest.raises(ValueError, match=r"system\.prompt_camera\.enabled is .* give steps"):
            check(OmegaConf.create({"guidances": [entry], "prompt_camera": never}))


def test_turned_models_are_warned_of():
    warning = import_module("threestudio-imagedream.camera_estimate").turned_warning
    assert "the picture given for azimuth 0° is seen from 90°" in warning(prompt_camera(), 0.0)
    for camera, given in (
        ({}, None),
        ({}, 60.0),
        ({"certainty": 0.4}, 0.0),
        ({"azimuth_deg": -170.0}, 170.0),
    ):
        assert warning(prompt_camera(**camera), given) is None


def test_reference_needs_to_know_where_the_picture_was_taken(prompt, picture):
    for settings, message in (
        ({}, "give azimuth_deg, or name its side"),
        ({"picture": 1}, "picture is 1, but the prompt has 1 pictures"),
        ({"depth_path": "nowhere.png"}, "no such file"),
        ({"camera": "guess"}, "must be 'given' or 'estimate'"),
    ):
        with pytest.raises(ValueError, match=message):
            reference(**settings).camera_batch(prompt)
    settings = OmegaConf.create({"left_path": picture, "image_size": 32})
    left = threestudio.find("imagedream-prompt-processor")(settings)()
    assert reference().camera_batch(left)["azimuth"].item() == 90


# --------------------------------------------------------------------------------------------------- whole systems


def train(cfg, tmp_path):
    torch.manual_seed(0)
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(tmp_path / "trial" / "save"))
    before = {name: value.clone() for name, value in system.geometry.state_dict().items()}
    logged = {}
    system.log = lambda name, value, **kwargs: logged.__setitem__(name, value)
    trainer = short_trainer(tmp_path, 2, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data))
    after = system.geometry.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    return logged


NOT_MIXED = ("imagedream.yaml", "imagedream-toybox.yaml", "imagedream-refine.yaml")
MIXED = sorted(path.name for path in CONFIGS.glob("*.yaml") if path.name not in NOT_MIXED)


@pytest.mark.filterwarnings("ignore:.*treespec.*", "ignore:.*does not have many workers.*")
@pytest.mark.parametrize("name", MIXED)
def test_configs_take_two_steps(
    extension, tmp_path, monkeypatch, picture, weights, stable_diffusion, zero123, name
):
    monkeypatch.chdir(tmp_path)
    folder = {"pretrained_model_name_or_path": stable_diffusion}
    sources = {
        # its tokenizer makes a token of each letter
        "detail": {"guidance": folder, "prompt_processor": {**folder, "negative_prompt": "ugly"}},
        "zero123": {"guidance": {"pretrained_model_name_or_path": zero123}},
        "local": {"guidance": {"weights": weights, "controllers": None}},
        "reference": {"guidance": {"size": 8}},
    }
    sources["detail"]["weight"] = [0, 0.0, 0.1, 1]
    more = [
        f"system.prompt_processor.{side}_path={picture}" for side in ("front", "back") if "several" in name
    ]
    cfg = experiment(name, picture, weights, *PAPER_SMALL, *MORE, *more)
    extra = list(cfg.system.get("guidances", {}))
    cfg = OmegaConf.merge(cfg, {"system": {"guidances": {key: sources[key] for key in extra}}})
    threestudio.find(cfg.system_type).preflight(cfg.system)
    logged = train(cfg, tmp_path)
    assert "train/loss_sds" in logged
    for key in extra:
        assert any(logged_name.startswith(f"train/{key}/loss_") for logged_name in logged), key
    assert (tmp_path / "trial" / "views.png").exists()
