"""Steps that run out of memory or whose numbers go bad; rendering in chunks."""

import math
import signal
from importlib import import_module

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

import threestudio
from imagedream.runs.seeds import from_seed, seed_step
from tests.extension.test_system import experiment
from tests.short_run import short_trainer
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer

# Lightning 2.6 about itself, and what the host's launcher silences
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def exhaust_memory():
    torch.empty(2**60)


class Hungry(NeRFVolumeRenderer):
    """A renderer that has room for a number of rays at once."""

    room = 2**40

    def forward(self, rays_o, **batch):
        if self.training and rays_o[..., 0].numel() > self.room:
            exhaust_memory()
        return super().forward(rays_o=rays_o, **batch)


class Brightness:
    """A guidance that wants a dark picture, has room for some images, and goes bad in some calls."""

    room = 2**40
    bad_calls = ()
    bad_value = math.nan
    bad_gradient = False
    signals = ()
    calls = 0

    @classmethod
    def exhaust(cls, rgb):
        exhaust_memory()

    def __init__(self, cfg):
        pass

    def __call__(self, rgb, **batch):
        cls = type(self)
        if len(rgb) > cls.room:
            cls.exhaust(rgb)
        if cls.calls == 2:
            for number in cls.signals:
                signal.raise_signal(number)
        bad = cls.calls in cls.bad_calls
        cls.calls += 1
        loss = rgb.square().mean()
        if bad and cls.bad_gradient:  # at 0, √ has a value but no slope
            return {"loss_sds": loss, "loss_root": (0 * rgb.sum()).sqrt()}
        return {"loss_sds": loss * cls.bad_value if bad else loss}


@pytest.fixture
def parts(extension, monkeypatch):
    threestudio._load_builtin_modules()
    monkeypatch.setattr(threestudio, "__modules__", dict(threestudio.__modules__))
    monkeypatch.setattr(import_module("threestudio-imagedream.recovery"), "LEAST_RAYS", 64)
    renderer, guidance = type("R", (Hungry,), {}), type("G", (Brightness,), {})
    threestudio.register("test-renderer")(renderer)
    threestudio.register("test-guidance")(guidance)
    return renderer, guidance


@pytest.fixture
def train(parts, tmp_path, picture, weights):
    def run(steps, *overrides, folder="trial", plugins=(), **options):
        cfg = experiment(
            *(
                "imagedream-toybox.yaml",
                picture,
                weights,
                "data.height=8",
                "data.width=8",
                "data.batch_size=8",
            ),
            *("system.guidance_type=test-guidance", "system.renderer_type=test-renderer"),
            *("system.prompt_camera.enabled=false", "system.geometry.pos_encoding_config.n_levels=1"),
            *("data.n_val_views=1", *overrides),
        )
        torch.manual_seed(0)
        data = threestudio.find(cfg.data_type)(cfg.data)
        system = threestudio.find(cfg.system_type)(cfg.system)
        system.set_save_dir(str(tmp_path / folder / "save"))
        trainer = short_trainer(
            tmp_path, steps, enable_checkpointing=False, limit_val_batches=0, plugins=list(plugins)
        )
        trainer.fit(system, datamodule=data, **options)
        return system, trainer

    return run


# ----------------------------------------------------------------------------------------------------- out of memory


def test_fewer_rays_at_once_and_then_fewer_images(train, parts, caplog):
    renderer, guidance = parts
    renderer.room, guidance.room = 300, 4
    with caplog.at_level("WARNING"):
        system, trainer = train(3)
    assert trainer.global_step == 3
    assert guidance.calls == 3  # nothing was counted twice, nothing left out
    # 8 images of 8 × 8: 512 rays do not fit, 256 do; then the guidance has no room until there is one group
    assert (system.recovery.most_rays, system.recovery.most_images) == (64, 4)
    said = [record.message for record in caplog.records if "Out of memory at step 0" in record.message]
    assert "256 rays at once" in said[0]
    assert "tried to allocate" in said[0]
    assert "4 images a step" in said[-1]
    assert len(said) == 4


def test_where_several_processes_train_none_tries_alone_again(parts, train):
    system, trainer = train(1)
    trainer.strategy._parallel_devices = None
    trainer.strategy.__class__.world_size = property(lambda _: 2)
    try:
        with pytest.raises(MemoryError, match=r"out of memory at step 1: .*no step is tried again by one"):
            system.recovery.remedy(MemoryError())
    finally:
        del trainer.strategy.__class__.world_size


def test_memory_that_never_suffices_is_an_error(train, parts):
    _, guidance = parts
    guidance.room = 3
    with pytest.raises(
        MemoryError, match=r"at step 0, with 2047? rays at once and 1 group of 4 images|at step 0"
    ):
        train(2)


def test_a_checkpoint_keeps_what_was_learned(train, parts, tmp_path):
    renderer, _ = parts
    renderer.room = 300
    system, trainer = train(1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    again, _ = train(2, ckpt_path=tmp_path / "one.ckpt", weights_only=True)
    assert again.recovery.most_rays == system.recovery.most_rays == 256


# ------------------------------------------------------------------------------------------------------- bad numbers


def test_bad_numbers_lead_back_once(train, parts, caplog, monkeypatch):
    monkeypatch.setattr(import_module("threestudio-imagedream.recovery"), "STEPS_BETWEEN_STATES", 2)
    _, guidance = parts
    guidance.bad_calls = (5,)
    with caplog.at_level("WARNING"):
        system, trainer = train(7)
    assert "Bad numbers at step 5 loss_sds is nan; going back to the state at step 4" in caplog.text
    assert trainer.global_step == 7
    assert guidance.calls == 7 + 2  # the bad one, and step 4 once more
    assert all(value.isfinite().all() for value in system.state_dict().values())
    optimizer = trainer.optimizers[0].state_dict()["state"]
    assert {int(state["step"]) for state in optimizer.values()} == {7}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"at step 3 loss_sds is nan; going back to the last good state did not help"),
        ({"bad_gradient": True}, r"at step 3 the gradient of loss_root is not finite \(in geometry\."),
    ],
)
def test_numbers_that_stay_bad_end_the_run(train, parts, settings, message):
    _, guidance = parts
    # call 3 is step 3; the return leads to step 0, so call 7 is step 3 again
    guidance.bad_calls = (3, 7)
    for name, value in settings.items():
        setattr(guidance, name, value)
    recovery = import_module("threestudio-imagedream.recovery")
    if "bad_gradient" in settings:  # to find the term, the step is computed once more
        guidance.bad_calls = (3, 4, 8, 9)
    with pytest.raises(recovery.BadNumbersError, match=message):
        train(9)


def test_far_from_the_first_numbers_may_go_bad_again(train, parts, caplog, monkeypatch):
    monkeypatch.setattr(import_module("threestudio-imagedream.recovery"), "STEPS_BETWEEN_STATES", 2)
    _, guidance = parts
    guidance.bad_calls = (1, 5)  # call 1 is step 1; the return leads to step 0, so call 5 is step 3
    with caplog.at_level("WARNING"):
        _, trainer = train(5)
    assert trainer.global_step == 5
    assert "step 1 loss_sds is nan; going back to the state at step 0" in caplog.text
    assert "step 3 loss_sds is nan; going back to the state at step 2" in caplog.text


def test_a_step_is_tried_again_after_its_gradients_were_unscaled(train, parts, caplog):
    _, guidance = parts
    guidance.bad_gradient, guidance.bad_calls = (
        True,
        (1, 2),
    )  # to find the term, the step is computed once more
    scaler = torch.amp.GradScaler("cpu", init_scale=1e-6)  # so small that bad gradients are no longer skipped
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    with caplog.at_level("WARNING"):
        _, trainer = train(3, plugins=[plugin])
    assert trainer.global_step == 3
    assert "the gradient of loss_root is not finite" in caplog.text
    assert scaler.get_scale() > 0


# ------------------------------------------------------------------------------------------------------- signals


def test_a_signal_saves_and_a_resumed_run_is_the_uninterrupted_one_to_the_bit(train, parts, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    _, guidance = parts
    alone, _ = train(6, folder="alone")
    guidance.calls, guidance.signals = 0, (signal.SIGTERM,)
    _, trainer = train(6, "system.checkpoints={every_n_minutes: 1e-9, keep: 2}")
    assert trainer.global_step == 3
    assert signal.getsignal(signal.SIGTERM) is before
    folder = tmp_path / "trial" / "ckpts"
    steps = {path.name: torch.load(path, weights_only=True)["global_step"] for path in folder.iterdir()}
    assert steps == {"recent-step=00000002.ckpt": 2, "recent-step=00000003.ckpt": 3}
    resumed, trainer = train(6, ckpt_path=folder / "recent-step=00000003.ckpt", weights_only=True)
    assert trainer.global_step == 6
    for name, value in alone.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


# -------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize(
    ("most_rays", "material"),
    [(7, "no-material"), (150, "no-material"), (40, "diffuse-with-point-light-material")],
)
def test_chunks_are_the_whole(extension, picture, weights, most_rays, material):
    chunked = import_module("threestudio-imagedream.chunked_rendering")
    shading = ("system.material={ambient_only_steps: 0}",) if "diffuse" in material else ()
    cfg = experiment(
        *("imagedream-toybox.yaml", picture, weights, "data.height=8", "data.width=8"),
        *(f"system.material_type={material}", "system.renderer.randomized=false", *shading),
        *(("system.geometry.normal_type=analytic",) if shading else ()),
    )
    if shading:
        cfg.system.material = {"ambient_only_steps": 0}
    torch.manual_seed(0)
    system = threestudio.find(cfg.system_type)(cfg.system).train()
    data = threestudio.find(cfg.data_type)(cfg.data)
    data.setup("fit")
    batch = data.train_dataset.collate(0)
    system.do_update_step(0, 0)

    def gradients(render):
        seed_step(0, 0)
        system.zero_grad()
        out = render()
        (
            out["comp_rgb"].square().mean() + out["weights"].square().sum() + out["z_variance"].mean()
        ).backward()
        return out, {name: p.grad.clone() for name, p in system.named_parameters() if p.grad is not None}

    # the same draws as in a chunk, which begins with a seed of its own
    def whole():
        with from_seed(int(torch.randint(2**31, ()))):
            return system.renderer(**batch)

    expected, slopes = gradients(whole)
    out, found = gradients(lambda: chunked.render_in_chunks(system.renderer, batch, most_rays))
    assert set(out) == set(expected)
    for rendered in (expected, out):
        # samples of chunks come in another order, and one of no weight stands for a chunk that meets nothing
        counts = (rendered["weights"][:, 0] > 0).nonzero()[:, 0]
        keys = rendered["ray_indices"][counts] * 10**7 + rendered["t_points"][counts, 0].mul(1e5).long()
        order = counts[keys.argsort()]
        for name, value in rendered.items():
            rendered[name] = value[order] if value.ndim < 4 else value
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, msg=name)
    assert set(found) == set(slopes)
    for name, value in slopes.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
