"""Random cameras around the origin for training, a turntable for validation and test.

World: right-handed, +z up; azimuth 0 is at +x and grows towards +y. Camera-to-world columns are right, up, backward
and position (OpenGL camera: looks down −z).
"""

import bisect
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

import threestudio
from threestudio import register
from threestudio.utils.base import Updateable
from threestudio.utils.config import config_to_primitive, parse_structured
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix, get_ray_directions, get_rays

NEAR, FAR = 0.01, 100.0


@dataclass
class RandomCameraDataModuleConfig:
    # an int, or one per stage: resolution_milestones are the steps at which the next stage begins
    height: Any = 64
    width: Any = 64
    batch_size: Any = 1
    resolution_milestones: list[int] = field(default_factory=list)
    eval_height: int = 512
    eval_width: int = 512
    eval_batch_size: int = 1
    n_val_views: int = 1
    n_test_views: int = 120
    elevation_range: tuple[float, float] = (-10, 90)
    azimuth_range: tuple[float, float] = (-180, 180)
    camera_distance_range: tuple[float, float] = (1, 1.5)
    fovy_range: tuple[float, float] = (40, 70)
    camera_perturb: float = 0.1
    center_perturb: float = 0.2
    up_perturb: float = 0.02
    light_position_perturb: float = 1.0
    light_distance_range: tuple[float, float] = (0.8, 1.5)
    eval_elevation_deg: float = 15.0
    eval_camera_distance: float = 1.5
    eval_fovy_deg: float = 70.0
    light_sample_strategy: str = "dreamfusion"
    batch_uniform_azimuth: bool = True
    progressive_until: int = 0
    rays_d_normalize: bool = True


def stages(cfg: Any) -> tuple[list[int], list[int], list[int], list[int]]:
    """Heights, widths and batch sizes of the training stages, and the steps at which stages 2, 3, ... begin."""
    lists = []
    for name in ("height", "width", "batch_size"):
        value = config_to_primitive(cfg[name])
        value = [value] if isinstance(value, int) else list(value)
        if not value or not all(isinstance(v, int) and v > 0 for v in value):
            raise ValueError(f"{name} must be a positive int or a list of them, got {cfg[name]}")
        lists.append(value)
    heights, widths, batch_sizes = lists
    if not len(heights) == len(widths) == len(batch_sizes):
        raise ValueError(
            "height, width and batch_size must have the same number of stages, "
            f"got {len(heights)}, {len(widths)} and {len(batch_sizes)}"
        )
    milestones = [int(step) for step in cfg.resolution_milestones]
    if len(heights) == 1:
        if milestones:
            threestudio.warn("Ignoring resolution_milestones: there is only one resolution")
        return heights, widths, batch_sizes, []
    if len(milestones) != len(heights) - 1 or milestones != sorted(milestones):
        raise ValueError(
            f"resolution_milestones must be {len(heights) - 1} ascending steps for {len(heights)} stages, got {milestones}"
        )
    return heights, widths, batch_sizes, milestones


def check_config(cfg: Any) -> None:
    """Raise ValueError for stages or ranges that make no sense."""
    stages(cfg)
    for name in (
        "elevation_range",
        "azimuth_range",
        "camera_distance_range",
        "fovy_range",
        "light_distance_range",
    ):
        values = list(cfg[name])
        if len(values) != 2 or values[0] > values[1]:
            raise ValueError(f"{name} must be [low, high] with low <= high, got {values}")
    if cfg.light_sample_strategy not in ("dreamfusion", "magic3d"):
        raise ValueError(
            f"light_sample_strategy is {cfg.light_sample_strategy!r}, must be 'dreamfusion' or 'magic3d'"
        )


def spherical_to_cartesian(
    elevation_deg: Float[Tensor, "*batch"],
    azimuth_deg: Float[Tensor, "*batch"],
    distance: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch 3"]:
    elevation, azimuth = torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg)
    return torch.stack(
        [
            distance * torch.cos(elevation) * torch.cos(azimuth),
            distance * torch.cos(elevation) * torch.sin(azimuth),
            distance * torch.sin(elevation),
        ],
        dim=-1,
    )


def look_at(
    position: Float[Tensor, "*batch 3"], center: Float[Tensor, "*batch 3"], up: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """Camera-to-world matrices of cameras at `position` that look at `center`."""
    forward = F.normalize(center - position, dim=-1)
    right = F.normalize(torch.linalg.cross(forward, up, dim=-1), dim=-1)
    up = F.normalize(torch.linalg.cross(right, forward, dim=-1), dim=-1)
    top = torch.stack([right, up, -forward, position], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def scaled_directions(
    unit_focal: Float[Tensor, "H W 3"], fovy_rad: Float[Tensor, "B"]
) -> Float[Tensor, "B H W 3"]:
    """Ray directions in camera space for cameras of different fields of view."""
    focal = 0.5 * unit_focal.shape[0] / torch.tan(0.5 * fovy_rad)
    directions = unit_focal[None].repeat(fovy_rad.shape[0], 1, 1, 1)
    directions[..., :2] = directions[..., :2] / focal[:, None, None, None]
    return directions


def _uniform(low_high: Any, *size: int) -> Tensor:
    low, high = low_high
    return torch.rand(*size) * (high - low) + low


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """Endless; all the sampling happens in `collate`, at the current stage's resolution."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        check_config(cfg)
        self.heights, self.widths, self.batch_sizes, milestones = stages(cfg)
        self.resolution_milestones: list[int] = [-1, *milestones]
        self.directions_unit_focals = [
            get_ray_directions(H=height, W=width, focal=1.0)
            for height, width in zip(self.heights, self.widths, strict=True)
        ]
        self.height: int = self.heights[0]
        self.width: int = self.widths[0]
        self.batch_size: int = self.batch_sizes[0]
        self.directions_unit_focal = self.directions_unit_focals[0]
        self.elevation_range = list(cfg.elevation_range)
        self.azimuth_range = list(cfg.azimuth_range)
        self.camera_distance_range = list(cfg.camera_distance_range)
        self.fovy_range = list(cfg.fovy_range)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        stage = bisect.bisect_right(self.resolution_milestones, global_step) - 1
        self.height, self.width = self.heights[stage], self.widths[stage]
        self.batch_size = self.batch_sizes[stage]
        self.directions_unit_focal = self.directions_unit_focals[stage]
        self.progressive_view(global_step)

    def progressive_view(self, global_step: int) -> None:
        """Widen the elevation and azimuth ranges from the evaluation view to the full ranges."""
        until = self.cfg.progressive_until
        r = 1.0 if until <= 0 else min(1.0, global_step / (until + 1))
        low, high = self.cfg.elevation_range
        start = self.cfg.eval_elevation_deg
        self.elevation_range = [(1 - r) * start + r * low, (1 - r) * start + r * high]
        self.azimuth_range = [r * a for a in self.cfg.azimuth_range]

    def __iter__(self) -> Iterator[dict]:
        while True:
            yield {}

    def sample_elevation(self, size: int) -> Float[Tensor, "size"]:
        """Degrees; half of the time uniform in the angle, otherwise uniform on the sphere."""
        if random.random() < 0.5:
            return _uniform(self.elevation_range, size)
        sines = [math.sin(math.radians(e)) for e in self.elevation_range]
        return torch.rad2deg(torch.asin(_uniform(sines, size).clamp(-1, 1)))

    def sample_light_positions(self, camera_positions: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3"]:
        batch = camera_positions.shape[0]
        distance = _uniform(self.cfg.light_distance_range, batch)
        if self.cfg.light_sample_strategy == "dreamfusion":
            noise = torch.randn(batch, 3) * self.cfg.light_position_perturb
            return F.normalize(camera_positions + noise, dim=-1) * distance[:, None]
        # magic3d: within 60 degrees of the camera's direction
        local_z = F.normalize(camera_positions, dim=-1)
        local_x = F.normalize(
            torch.stack([local_z[:, 1], -local_z[:, 0], torch.zeros(batch)], dim=-1), dim=-1
        )
        local_y = F.normalize(torch.linalg.cross(local_z, local_x, dim=-1), dim=-1)
        rotation = torch.stack([local_x, local_y, local_z], dim=-1)
        azimuth_deg, elevation_deg = _uniform((-180, 180), batch), _uniform((30, 90), batch)
        local = spherical_to_cartesian(elevation_deg, azimuth_deg, distance)
        return (rotation @ local[:, :, None])[:, :, 0]

    def collate(self, batch: Any) -> dict[str, Any]:
        size = self.batch_size
        elevation = self.sample_elevation(size)
        if self.cfg.batch_uniform_azimuth:  # one in each of `size` equal sectors
            fraction = (torch.rand(size) + torch.arange(size)) / size
            azimuth = fraction * (self.azimuth_range[1] - self.azimuth_range[0]) + self.azimuth_range[0]
        else:
            azimuth = _uniform(self.azimuth_range, size)
        distance = _uniform(self.camera_distance_range, size)
        position = spherical_to_cartesian(elevation, azimuth, distance)
        position = position + (torch.rand(size, 3) * 2 - 1) * self.cfg.camera_perturb
        center = torch.randn(size, 3) * self.cfg.center_perturb
        up = torch.tensor([0.0, 0.0, 1.0]) + torch.randn(size, 3) * self.cfg.up_perturb
        fovy = torch.deg2rad(_uniform(self.fovy_range, size))
        lights = self.sample_light_positions(position)
        return make_batch(
            look_at(position, center, up),
            fovy,
            self.directions_unit_focal,
            normalize=self.cfg.rays_d_normalize,
            elevation=elevation,
            azimuth=azimuth,
            camera_distances=distance,
            light_positions=lights,
        )


def make_batch(
    c2w: Float[Tensor, "B 4 4"],
    fovy_rad: Float[Tensor, "B"],
    unit_focal: Float[Tensor, "H W 3"],
    *,
    normalize: bool = True,
    near: float = NEAR,
    far: float = FAR,
    **extra: Any,
) -> dict[str, Any]:
    """A batch of cameras under threestudio's keys; `extra` is added as it is."""
    height, width = unit_focal.shape[:2]
    rays_o, rays_d = get_rays(scaled_directions(unit_focal, fovy_rad), c2w, keepdim=True, normalize=normalize)
    projection = get_projection_matrix(fovy_rad, width / height, near, far)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, projection),
        "camera_positions": c2w[:, :3, 3],
        "c2w": c2w,
        "proj_mtx": projection,
        "fovy": fovy_rad,
        "height": height,
        "width": width,
        **extra,
    }


class RandomCameraDataset(Dataset):
    """Views on one circle: `val` n views evenly apart, `test` a closed turntable (first view = last view)."""

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        self.split = split
        self.n_views: int = cfg.n_val_views if split == "val" else cfg.n_test_views
        if split == "val":
            self.azimuth = torch.arange(self.n_views) * (360.0 / self.n_views)
        else:
            self.azimuth = torch.linspace(0.0, 360.0, self.n_views)
        self.elevation = torch.full_like(self.azimuth, cfg.eval_elevation_deg)
        self.elevation_deg, self.azimuth_deg = self.elevation, self.azimuth
        self.camera_distances = torch.full_like(self.azimuth, cfg.eval_camera_distance)
        self.fovy = torch.full_like(self.azimuth, math.radians(cfg.eval_fovy_deg))
        self.camera_positions = spherical_to_cartesian(self.elevation, self.azimuth, self.camera_distances)
        self.light_positions = self.camera_positions
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(self.camera_positions)
        self.c2w = look_at(self.camera_positions, torch.zeros_like(self.camera_positions), up)
        self.unit_focal = get_ray_directions(H=cfg.eval_height, W=cfg.eval_width, focal=1.0)

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        # rays are made one view at a time: a turntable's rays together would take hundreds of megabytes
        batch = make_batch(
            self.c2w[index : index + 1],
            self.fovy[index : index + 1],
            self.unit_focal,
            normalize=self.cfg.rays_d_normalize,
        )
        view = {key: value[0] if isinstance(value, Tensor) else value for key, value in batch.items()}
        return {
            **view,
            "index": index,
            "light_positions": self.light_positions[index],
            "elevation": self.elevation[index],
            "azimuth": self.azimuth[index],
            "camera_distances": self.camera_distances[index],
        }

    def collate(self, batch: list[dict]) -> dict[str, Any]:
        return {
            **default_collate(batch),
            "height": self.cfg.eval_height,
            "width": self.cfg.eval_width,
        }


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    cfg: RandomCameraDataModuleConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)
        check_config(self.cfg)

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def prepare_data(self) -> None:
        """Nothing to download."""

    def general_loader(self, dataset: Any, batch_size: int | None, collate_fn: Any = None) -> DataLoader:
        return DataLoader(dataset, num_workers=0, batch_size=batch_size, collate_fn=collate_fn)

    def train_dataloader(self) -> DataLoader:
        return self.general_loader(self.train_dataset, batch_size=None, collate_fn=self.train_dataset.collate)

    def val_dataloader(self) -> DataLoader:
        return self.general_loader(self.val_dataset, batch_size=1, collate_fn=self.val_dataset.collate)

    def test_dataloader(self) -> DataLoader:
        return self.general_loader(self.test_dataset, batch_size=1, collate_fn=self.test_dataset.collate)

    def predict_dataloader(self) -> DataLoader:
        return self.general_loader(self.test_dataset, batch_size=1, collate_fn=self.test_dataset.collate)
