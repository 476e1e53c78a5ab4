"""Several guidances in one run: weighted sums, memory, cameras, and what is said when they do not fit."""

import gc
import weakref
from importlib import import_module

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
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
    batch = cameras(len(rgb)) if batch is None else batch
    terms, numbers, seen = mix(batch, render=lambda cameras: out)
    assert seen is out
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
    batch = cameras()
    before = batch["c2w"].clone()
    loss, _ = call(mix, rgb, batch=batch)
    loss.backward()
    assert torch.equal(batch["c2w"], before)
    assert [member.guidance.seen for member in mix] == [
        [((images, 8, 8, 3), (images,), 8)] for images in (8, 4, 1)
    ]
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


def test_reference_without_an_estimate(prompt):
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
QUICK = ("imagedream-several-pictures.yaml", "imagedream-stable-diffusion.yaml")
MIXED = [
    pytest.param(path.name, marks=() if path.name in QUICK else pytest.mark.slow)
    for path in sorted(CONFIGS.glob("*.yaml"))
    if path.name not in NOT_MIXED and not path.stem.endswith("-fast")
]


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
