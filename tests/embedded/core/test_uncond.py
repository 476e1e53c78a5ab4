import math

import pytest
import torch
from omegaconf import OmegaConf

from imagedream import cameras
from threestudio.data.uncond import RandomCameraDataModule

EXACT = {"camera_perturb": 0.0, "center_perturb": 0.0, "up_perturb": 0.0}
TRAIN_KEYS = {
    "rays_o", "rays_d", "mvp_mtx", "c2w", "proj_mtx", "camera_positions", "light_positions", "elevation", "azimuth",
    "camera_distances", "fovy", "height", "width",
}  # fmt: skip


def make(**options):
    small = {"height": 4, "width": 6, "eval_height": 4, "eval_width": 6}
    module = RandomCameraDataModule(OmegaConf.create({**small, **options}))
    module.setup()
    return module


def batches(loader, count):
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def test_training_batch_keys_and_shapes():
    (batch,) = batches(make(batch_size=3).train_dataloader(), 1)
    assert set(batch) == TRAIN_KEYS
    assert batch["rays_o"].shape == batch["rays_d"].shape == (3, 4, 6, 3)
    assert batch["c2w"].shape == batch["mvp_mtx"].shape == batch["proj_mtx"].shape == (3, 4, 4)
    assert batch["light_positions"].shape == batch["camera_positions"].shape == (3, 3)
    assert (batch["height"], batch["width"]) == (4, 6)
    rotation = batch["c2w"][:, :3, :3]  # still one, though position, centre and up are moved
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch["rays_d"].norm(dim=-1), torch.ones(3, 4, 6))


@pytest.mark.parametrize("size", [3, 4])  # 3 is the size at which a cross product can pick the wrong axis
def test_cameras_agree_with_the_convention(size):
    module = make(batch_size=size, n_val_views=size, **EXACT)
    for batch in batches(module.train_dataloader(), 2) + batches(module.val_dataloader(), size):
        expected = cameras.look_at_origin(batch["elevation"], batch["azimuth"], batch["camera_distances"])
        assert torch.allclose(batch["c2w"], expected, atol=1e-5)
        fovy_deg = torch.rad2deg(batch["fovy"])
        for ours, theirs in zip(
            (batch["rays_o"], batch["rays_d"]), cameras.rays(expected, fovy_deg, 4, 6), strict=True
        ):
            assert torch.allclose(ours, theirs, atol=1e-5)
        points = torch.randn(len(expected), 5, 3) * 0.2
        pixels, _ = cameras.project(points, expected, fovy_deg, 4, 6)
        clip = torch.cat([points, torch.ones(len(expected), 5, 1)], dim=-1) @ batch["mvp_mtx"].mT
        ndc = clip[..., :2] / clip[..., 3:]  # y is flipped: +1 is the bottom
        assert torch.allclose((ndc + 1) / 2 * torch.tensor([6.0, 4.0]), pixels, atol=1e-3)


def test_ranges_and_lights():
    ranges = {"elevation": (10, 20), "azimuth": (-90, 90), "camera_distances": (2, 3), "fovy": (0.6, 0.7)}
    names = ("elevation_range", "azimuth_range", "camera_distance_range")
    options = dict(zip(names, map(list, ranges.values()), strict=False))
    options["fovy_range"] = [math.degrees(value) for value in ranges["fovy"]]
    torch.manual_seed(0)
    for batch in batches(make(batch_size=64, **options, **EXACT).train_dataloader(), 4):
        light = {"light": batch["light_positions"].norm(dim=-1)}
        for key, (low, high) in {**ranges, "light": (0.8, 1.5)}.items():
            values = {**batch, **light}[key]
            assert low - 1e-4 <= values.min()
            assert values.max() <= high + 1e-4
        assert (batch["azimuth"].diff() > 0).all()  # one in each of 64 sectors
        assert torch.cosine_similarity(batch["light_positions"], batch["camera_positions"]).mean() > 0.4


def test_resolution_stages():
    options = {"height": [4, 8], "width": [4, 8], "batch_size": [3, 2], "resolution_milestones": [10]}
    dataset = make(**options).train_dataset
    for step, shape in ((9, (3, 4, 4, 3)), (10, (2, 8, 8, 3))):
        dataset.update_step(0, step)
        assert dataset.collate([])["rays_o"].shape == shape


def test_evaluation_views():
    module = make(n_val_views=4, n_test_views=5, eval_elevation_deg=30.0, eval_fovy_deg=60.0)
    validation, test = batches(module.val_dataloader(), 4), batches(module.test_dataloader(), 5)
    assert [batch["azimuth"].item() for batch in validation] == [0.0, 90.0, 180.0, 270.0]
    assert [batch["azimuth"].item() for batch in test] == [0.0, 90.0, 180.0, 270.0, 360.0]
    assert [batch["index"].item() for batch in test] == [0, 1, 2, 3, 4]
    for batch in validation + batches(module.predict_dataloader(), 5):
        assert set(batch) == TRAIN_KEYS | {"index"}
        assert batch["rays_o"].shape == (1, 4, 6, 3)
        assert batch["elevation"].item() == 30.0
        assert batch["fovy"].item() == pytest.approx(math.pi / 3)
        assert torch.equal(batch["light_positions"], batch["camera_positions"])
        assert (batch["height"], batch["width"]) == (4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": [4, 8]}, r"same number of stages, got \[2, 1, 1\]"),
        ({"height": 0}, "height must be a positive int"),
        ({"height": [4, 8], "width": [4, 8], "batch_size": [1, 1]}, "must be 1 ascending steps for 2 stages"),
        ({"fovy_range": [50, 40]}, "fovy_range must be"),
        ({"n_view": 4}, "unknown key n_view"),
        ({"light_sample_strategy": "magic3d"}, "here it can be 'dreamfusion'; the rest is threestudio's"),
    ],
)
def test_data_config_errors(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
