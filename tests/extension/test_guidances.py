"""Several guidances in one run: weighted sums, memory, cameras, and what is said when they do not fit."""

import gc
import weakref
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.image_prompt.prompt_camera import PromptCamera
from tests.short_run import short_trainer

CONFIGS = Path(__file__).parents[2] / "configs"

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


def test_the_gradient_is_the_weighted_sum(prompt, weights, stable_diffusion, zero123, picture, tmp_path, monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)  # text embeddings are cached in the working folder
    entries = [
        {"guidance_type": "imagedream-guidance", "guidance": {"weights": weights}, "weight": 0.5},
        {
            "guidance_type": "stable-diffusion-guidance",
            "guidance": {"pretrained_model_name_or_path": stable_diffusion},
            "prompt_processor_type": "stable-diffusion-prompt-processor",
            "prompt_processor": {"prompt": "a brick", "pretrained_model_name_or_path": stable_diffusion},
            "weight": 0.02,
            "cameras": "first",
        },
        {
            "guidance_type": "stable-zero123-guidance",
            "guidance": {"pretrained_model_name_or_path": zero123, "cond_image_path": picture},
            "weight": 0.3,
            "cameras": "group",
        },
        colour(weight=7.0),
    ]
    generator = torch.Generator().manual_seed(1)
    start = torch.rand(8, 8, 8, 3, generator=generator)
    batch = cameras()

    def gradient(chosen):
        rgb = start.clone().requires_grad_()
        torch.manual_seed(0)
        mix = make(prompt, chosen)
        for member in mix:
            # each guidance sees the same random numbers, whoever was asked before
            member.load(0, 0)
            inner = member.guidance
            member.guidance = Seeded(inner)
        loss, _ = call(mix, rgb, batch=batch)
        loss.backward()
        return rgb.grad

    single = [gradient([{**entry, "weight": 1.0}]) for entry in entries]
    assert (single[1][1:] == 0).all()
    assert (single[1][0] != 0).any()
    assert (single[2][4:] == 0).all()
    assert (single[2][:4] != 0).any()
    expected = sum(entry["weight"] * part for entry, part in zip(entries, single, strict=True))
    torch.testing.assert_close(gradient(entries), expected)


class Seeded:
    """A guidance that begins with the same random numbers at each call."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, rgb, prompt_utils, **batch):
        torch.manual_seed(0)
        zero123 = type(self.inner).__name__.endswith(("Zero123Guidance", "Colour"))
        return self.inner(rgb, **batch) if zero123 else self.inner(rgb, prompt_utils, **batch)


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


@pytest.mark.parametrize(("name", "images"), [("all", 8), ("group", 4), ("first", 1)])
def test_cameras(prompt, name, images):
    mix = make(prompt, [colour(cameras=name)])
    batch = cameras()
    before = batch["c2w"].clone()
    call(mix, torch.rand(8, 8, 8, 3, requires_grad=True), batch=batch)
    assert mix.members[0].guidance.seen == [((images, 8, 8, 3), (images,), 8)]
    assert torch.equal(batch["c2w"], before)


def test_every(prompt):
    mix = make(prompt, [colour(), colour(every=3, guidance={"colour": 1.0})])
    for step in range(7):
        call(mix, torch.rand(4, 8, 8, 3, requires_grad=True), step=step)
    assert [len(member.guidance.seen) for member in mix] == [7, 3]


def test_guidances_are_told_what_they_know(prompt):
    mix = make(prompt, [{"guidance_type": "test-few-guidance"}])
    rgb = torch.rand(4, 8, 8, 3, requires_grad=True)
    assert call(mix, rgb)[0].item() == pytest.approx(rgb.mean().item())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("none", r"system\.guidances\.0 \(test-colour-guidance\) returned grad_norm, but no loss_"),
        ("map", r"loss_sds of .* has shape \(4, 8, 8, 3\), must be a single number"),
        ("list", "returned list, must be a dict"),
        ("shape", r"was shown images \(4, 8, 8, 3\) .*cameras: all.*RuntimeError: "),
    ],
)
def test_answers_that_do_not_fit_are_errors(prompt, answer, message):
    mix = make(prompt, [colour(guidance={"answer": answer})])
    with pytest.raises(ValueError, match=message):
        call(mix, torch.rand(4, 8, 8, 3, requires_grad=True))


def test_a_group_too_small_is_an_error(prompt, weights):
    entry = {"guidance_type": "imagedream-guidance", "guidance": {"weights": weights}, "cameras": "first"}
    with pytest.raises(
        ValueError, match=r"images \(1, 8, 8, 3\).*cameras: first.*1 images do not make groups of n_view = 4"
    ):
        call(make(prompt, [entry]), torch.rand(4, 8, 8, 3, requires_grad=True))


def test_a_missing_prompt_is_an_error():
    with pytest.raises(ValueError, match="needs a prompt"):
        call(
            make(None, [{"guidance_type": "test-few-guidance"}]),
            torch.rand(4, 8, 8, 3, requires_grad=True),
        )


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
    values = {
        "azimuth_deg": 90.0,
        "elevation_deg": 10.0,
        "distance": 1.5,
        "fov_y_deg": 40.0,
        "offset": (0.0, 0.0),
    }
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
    half, full = (
        one(
            torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0)),
            prompt_then,
            render,
            batch["c2w"],
        )
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
        guidance._resized(one)[0, ..., 0] for one in (alpha, guidance._framed(alpha, prompt_then))
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
    with pytest.raises(ValueError, match="must be 'given' or 'estimate'"):
        reference(camera="guess")


def test_turned_models_are_warned_of():
    warning = import_module("threestudio-imagedream.camera_estimate").turned_warning
    assert "the picture given for azimuth 0° is seen from 90°" in warning(prompt_camera(), 0.0)
    assert warning(prompt_camera(), None) is None
    assert warning(prompt_camera(), 60.0) is None
    assert warning(prompt_camera(certainty=0.4), 0.0) is None
    assert warning(prompt_camera(azimuth_deg=-170.0), 170.0) is None


def test_reference_needs_to_know_where_the_picture_was_taken(prompt, picture):
    with pytest.raises(ValueError, match="give azimuth_deg, or name its side"):
        reference().camera_batch(prompt)
    with pytest.raises(ValueError, match="picture is 1, but the prompt has 1 pictures"):
        reference(picture=1).camera_batch(prompt)
    settings = OmegaConf.create({"left_path": picture, "image_size": 32})
    left = threestudio.find("imagedream-prompt-processor")(settings)()
    assert reference().camera_batch(left)["azimuth"].item() == 90
    with pytest.raises(ValueError, match="no such file"):
        reference(depth_path="nowhere.png")


# --------------------------------------------------------------------------------------------------- whole systems

SMALL = [
    "system.prompt_processor.image_size=32",
    "system.views.steps=2",
    "data.batch_size=[8,4,4]",
    "data.height=[8,8,8]",
    "data.width=[8,8,8]",
    "data.resolution_milestones=[1,2]",
    "data.eval_height=16",
    "data.eval_width=16",
    "data.n_val_views=2",
    "data.n_test_views=3",
    "system.renderer.num_samples_per_ray=24",
    "system.geometry.pos_encoding_config.n_levels=3",
    "system.geometry.pos_encoding_config.log2_hashmap_size=12",
    "system.material.ambient_only_steps=0",
    "system.prompt_camera.enabled=false",
]


def train(cfg, tmp_path):
    torch.manual_seed(0)
    system_class = threestudio.find(cfg.system_type)
    if hasattr(system_class, "preflight"):
        system_class.preflight(cfg.system)
    system = system_class(cfg.system)
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
    from imagedream.runs.settings import read_settings

    monkeypatch.chdir(tmp_path)
    sources = {
        "detail": {
            "guidance": {"pretrained_model_name_or_path": stable_diffusion},
            # its tokenizer makes a token of each letter
            "prompt_processor": {
                "pretrained_model_name_or_path": stable_diffusion,
                "negative_prompt": "ugly",
            },
            "weight": [0, 0.0, 0.1, 1],
        },
        "zero123": {"guidance": {"pretrained_model_name_or_path": zero123}},
        "local": {"guidance": {"weights": weights, "controllers": None}},
        "reference": {"guidance": {"size": 8}},
    }
    prompts = ["front_path", "back_path"] if "several" in name else ["image_path"]
    overrides = [*SMALL, f"system.guidance.weights={weights}", "system.prompt_processor.prompt=a brick"]
    overrides += [f"system.prompt_processor.{key}={picture}" for key in prompts]
    cfg = OmegaConf.merge(read_settings(CONFIGS / name), OmegaConf.from_cli(overrides))
    OmegaConf.resolve(cfg)
    extra = list(cfg.system.get("guidances", {}))
    cfg = OmegaConf.merge(cfg, {"system": {"guidances": {key: sources[key] for key in extra}}})
    logged = train(cfg, tmp_path)
    assert "train/loss_sds" in logged
    for key in extra:
        assert any(logged_name.startswith(f"train/{key}/loss_") for logged_name in logged), key
    assert (tmp_path / "trial" / "views.png").exists()


@pytest.mark.filterwarnings("ignore:.*treespec.*", "ignore:.*does not have many workers.*")
def test_our_guidance_in_another_system(extension, tmp_path, picture, weights, monkeypatch):
    from threestudio.systems.base import BaseLift3DSystem
    from threestudio.utils.config import merge_config

    class Plain(BaseLift3DSystem):
        """The steps of threestudio's own systems."""

        def on_fit_start(self):
            self.prompt = threestudio.find(self.cfg.prompt_processor_type)(self.cfg.prompt_processor)
            self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)

        def training_step(self, batch, batch_idx):
            out = self.renderer(**batch)
            answer = self.guidance(out["comp_rgb"], self.prompt(), **batch, rgb_as_latents=False)
            for name, value in answer.items():
                self.log(f"train/{name}", value)
            return answer["loss_sds"]

        def validation_step(self, batch, batch_idx):
            pass

    monkeypatch.setitem(threestudio.__modules__, "plain-system", Plain)
    overrides = [
        *SMALL,
        f"system.guidance.weights={weights}",
        f"system.prompt_processor.image_path={picture}",
    ]
    cfg = merge_config(CONFIGS / "imagedream.yaml", cli_args=[*overrides, "system_type=plain-system"])
    for key in ("views", "prompt_camera"):  # imagedream-system's own
        del cfg.system[key]
    logged = train(cfg, tmp_path)
    assert {"train/loss_sds", "train/timestep"} <= set(logged)
