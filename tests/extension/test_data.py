"""Batches against the camera convention and the group structure."""

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream import cameras


def data_module(extension, **settings):
    defaults = {"batch_size": 8, "height": 6, "width": 6, "elevation_range": [0, 20], "n_test_views": 8}
    module = threestudio.find("imagedream-camera-datamodule")(OmegaConf.create({**defaults, **settings}))
    module.setup()
    return module


def test_groups_share_everything_but_azimuth(extension):
    torch.manual_seed(3)
    module = data_module(extension, light_position_perturb=1.0)
    batch = next(iter(module.train_dataloader()))
    for key in ("elevation", "fovy", "camera_distances"):
        groups = batch[key].reshape(2, 4)
        assert (groups == groups[:, :1]).all()
        assert groups[0, 0] != groups[1, 0]
    azimuth = batch["azimuth"].reshape(2, 4)
    torch.testing.assert_close(torch.diff(azimuth, dim=1) % 360, torch.full((2, 3), 90.0))
    assert ((azimuth >= -180) & (azimuth < 180)).all()
    elevation, fovy = batch["elevation"], torch.rad2deg(batch["fovy"])
    assert ((elevation >= 0) & (elevation <= 20)).all()
    assert ((fovy >= 45) & (fovy <= 50)).all()
    # the light of each view is offset from its camera alike: same offset, before the light's own distance is set
    relative = batch["camera_distances"] * torch.tan(batch["fovy"] / 2)
    assert ((relative >= 0.6 - 1e-6) & (relative <= 0.75 + 1e-6)).all()
    norms = batch["light_positions"].norm(dim=-1).reshape(2, 4)
    torch.testing.assert_close(norms, norms[:, :1].expand(2, 4))


def test_cameras_are_those_of_the_convention(extension):
    batch = next(iter(data_module(extension).train_dataloader()))
    c2w = cameras.look_at_origin(batch["elevation"], batch["azimuth"], batch["camera_distances"])
    torch.testing.assert_close(batch["c2w"], c2w)
    torch.testing.assert_close(batch["camera_positions"], c2w[:, :3, 3])
    rays = cameras.rays(c2w, torch.rad2deg(batch["fovy"]), 6, 6)
    torch.testing.assert_close((batch["rays_o"], batch["rays_d"]), tuple(rays))
    # points along the rays are projected into their pixels, whose centres are at half integers; y is down
    points = batch["rays_o"] + 1.5 * batch["rays_d"]  # (camera, height, width, 3)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    clip = torch.einsum("bij,bhwj->bhwi", batch["mvp_mtx"], homogeneous)
    ndc = clip[..., :2] / clip[..., 3:]
    pixel = (torch.arange(6) + 0.5) / 3 - 1
    grid = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), -1)
    torch.testing.assert_close(ndc, grid.expand(8, 6, 6, 2), atol=1e-4, rtol=1e-4)


def test_turntable_starts_at_the_front(extension):
    module = data_module(extension, eval_elevation_deg=10.0, eval_relative_distance=0.65, eval_fovy_deg=45.0)
    batches = list(module.test_dataloader())
    assert [batch["index"].item() for batch in batches] == list(range(8))
    torch.testing.assert_close(torch.cat([b["azimuth"] for b in batches]), torch.arange(8) * 45.0)
    # elevation 10°, distance 0.65 / tan(22.5°) = 1.5692
    expected = torch.tensor([[1.5692 * 0.984808, 0.0, 1.5692 * 0.173648]])
    torch.testing.assert_close(batches[0]["camera_positions"], expected, atol=1e-4, rtol=1e-4)
    assert batches[0]["height"] == 256


def test_stages_follow_the_milestones(extension):
    module = data_module(
        extension, batch_size=[8, 4, 4], height=[4, 6, 8], width=[4, 6, 8], resolution_milestones=[10, 20]
    )
    dataset = module.train_dataset
    for step, size, images in [(0, 4, 8), (9, 4, 8), (10, 6, 4), (19, 6, 4), (20, 8, 4), (99, 8, 4)]:
        batch = dataset.collate(step)
        assert batch["rays_d"].shape == (images, size, size, 3)
        assert (batch["height"], batch["width"]) == (size, size)


def test_a_batch_depends_on_the_seed_and_its_number_alone(extension):
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        dataset = data_module(extension).train_dataset
        torch.rand(seed)  # what others draw must not matter
        drawn.append([dataset.collate(number)["azimuth"] for number in range(4)])
    first, again, other = drawn
    assert all(torch.equal(one, same) for one, same in zip(first, again, strict=True))
    assert len({float(azimuth[0]) for azimuth in [*first, *other]}) == 8
    dataset.first = 2  # of a resumed run
    assert torch.equal(dataset.collate(next(iter(dataset)))["azimuth"], other[2])
    dataset.batches_per_step, dataset.cfg.resolution_milestones = 3, [1]
    dataset.stages = [(4, 2, 2), (8, 5, 5)]
    assert [dataset.collate(number)["height"] for number in (2, 3)] == [2, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 6}, "batch_size is 6 images, must be a multiple of n_view, 4"),
        ({"height": [4, 8]}, "one entry per stage"),
        ({"batch_size": [4, 4], "height": [4, 8], "width": [4, 8]}, "2 stages need 1"),
        ({"fovy_range": [50, 45]}, r"fovy_range is \[50, 45\]"),
        ({"elevation_range": [0, 120]}, r"elevation_range is \[0, 120\]"),
        ({"camera_perturb": 0.1}, "camera_perturb"),
    ],
)
def test_what_does_not_fit_is_an_error(extension, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        data_module(extension, **settings)
