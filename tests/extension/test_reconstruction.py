"""Reconstruction in a system: patches of its pictures, a run that is resumed after a round, what is left of it."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream.runs.settings import read_settings
from tests.extension.test_system import CONFIGS, experiment
from tests.short_run import short_trainer

# Lightning 2.6 about itself, and what the host's launcher silences
pytestmark = [
    pytest.mark.usefixtures("extension"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def guidance(weights, **config):
    torch.manual_seed(0)
    return threestudio.find("imagedream-reconstruction-guidance")(
        OmegaConf.create({"weights": weights, **config})
    )


def batch(patches=4, size=4):
    settings = OmegaConf.create({"batch_size": patches, "height": size, "width": size})
    data = threestudio.find("imagedream-camera-datamodule")(settings)
    data.setup("fit")
    return data.train_dataset.collate(0)


def test_patches_and_their_rays(weights, prompt):
    """Renders that are the pictures cost nothing, in front of whatever colour; the rays are those of the same pixels."""
    made = guidance(weights, first_groups=4)
    how = {"num_inference_steps": 1, "elevation_deg": 7.0}
    made.begin(prompt, made.sample_views(prompt, 5, **how), 5, **how)
    targets = made.targets
    assert targets.azimuth_deg.tolist() == [a + t for t in (0, 45, 22.5, 67.5) for a in (0, 90, 180, 270)]
    assert targets.elevation_deg.tolist() == [7.0] * 16
    first, second, third, fourth = targets.background.unflatten(0, (4, 4)).unbind()
    assert (first == 1).all()
    assert (third == 1).all()
    assert (second == second[0]).all()
    assert not torch.equal(second, fourth)
    assert not torch.equal(targets.images[:4], targets.images[4:8])

    cameras = made.camera_batch(prompt, batch(patches=8), render=None)
    whole = made.cameras(targets.elevation_deg, targets.azimuth_deg, 16)
    rays, pixels = whole["rays_d"].flatten(0, 2), targets.images.flatten(0, 2)
    match = torch.cdist(cameras["rays_d"].reshape(-1, 3).double(), rays.double()).argmin(1)
    shown = pixels[match].view(8, 4, 4, 3)
    torch.testing.assert_close(shown, made._shown[1])
    opacity = torch.rand(8, 4, 4, 1)
    background = targets.background.repeat_interleave(256, 0)[match].view(8, 4, 4, 3)
    render = {"comp_rgb_fg": shown - (1 - opacity) * background, "opacity": opacity}
    answer = made(render["comp_rgb_fg"], render, **cameras)
    assert answer["loss_sds"].item() == pytest.approx(0, abs=1e-6)
    assert answer["target_views"] == 16
    render["comp_rgb_fg"] = render["comp_rgb_fg"] + 0.1
    assert made(shown, render, **cameras)["loss_sds"].item() == pytest.approx(0.1, rel=1e-4)


def test_what_does_not_fit_is_an_error(weights, prompt):
    made = guidance(weights, first_groups=1)
    with pytest.raises(ValueError, match=r"no views to begin with: it must be system\.guidance_type"):
        made.camera_batch(prompt, batch(), render=None)
    how = {"num_inference_steps": 1}
    made.begin(prompt, made.sample_views(prompt, 0, **how), 0, **how)
    with pytest.raises(ValueError, match="patches are 17 x 17 pixels, the pictures only 16 x 16"):
        made.camera_batch(prompt, batch(size=17), render=None)
    for setting in ({"round_steps": [5, 3]}, {"round_steps": [0]}, {"elevations_deg": []}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            guidance(weights, **setting)


def train(cfg, folder, steps, **options):
    torch.manual_seed(0)
    system = threestudio.find(cfg.system_type)(cfg.system)
    system.set_save_dir(str(folder / "trial" / "save"))
    trainer = short_trainer(folder, steps, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(system, datamodule=threestudio.find(cfg.data_type)(cfg.data), **options)
    return system, trainer


def test_a_run_resumed_after_a_round_is_the_uninterrupted_one_to_the_bit(tmp_path, picture, weights):
    cfg = experiment(
        *("imagedream-toybox-fast.yaml", picture, weights, "data={batch_size: 8, height: 4, width: 4}"),
        *("system.guidance.round_steps=[1,4]", "system.prompt_camera.enabled=false", "system.report=false"),
        "system.geometry.pos_encoding_config.n_levels=1",
    )
    alone, _ = train(cfg, tmp_path / "alone", 6)
    _, trainer = train(cfg, tmp_path, 3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    resumed, trainer = train(cfg, tmp_path, 6, ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    assert trainer.global_step == 6
    for name, value in alone.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    first = 4 * cfg.system.guidance.first_groups
    with (
        np.load(tmp_path / "trial" / "save" / "targets.npz") as kept,
        np.load(tmp_path / "alone" / "trial" / "save" / "targets.npz") as expected,
    ):
        assert kept["step"].tolist() == [0] * first + [1] * 4 + [4] * 4
        for name in kept:
            assert np.array_equal(kept[name], expected[name]), name
    resumed.cfg.report = True
    resumed.write_report()
    page = (tmp_path / "trial" / "report.html").read_text()
    assert "What the object was fitted to" in page
    assert all(f"from step {step} on" in page for step in (0, 1, 4))


@pytest.mark.parametrize("name", ["imagedream", "imagedream-toybox"])
def test_the_fast_configs_change_the_guidance_alone(name):
    """Another module's settings are not taken over, and presets for memory stay."""
    plain, fast = (read_settings(CONFIGS / f"{one}.yaml") for one in (name, f"{name}-fast"))
    assert "recon_loss" not in fast.system.guidance
    assert fast.system.geometry == plain.system.geometry
    assert fast.system.exporter == plain.system.exporter
    assert fast.system.views == plain.system.views
    last_round = max(fast.system.guidance.round_steps, default=0)
    assert last_round < fast.trainer.max_steps <= plain.trainer.max_steps
