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

from threestudio import register
from threestudio.utils.base import Updateable
from threestudio.utils.config import parse_structured
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


def check_config(cfg: Any) -> list[tuple[int, int, int]]:
    """(height, width, batch size) of the training stages; ValueError for stages or ranges that make no sense."""
    columns = []
    for name in ("height", "width", "batch_size"):
        values = [cfg[name]] if isinstance(cfg[name], int) else cfg[name]
        if not values or not all(isinstance(value, int) and value > 0 for value in values):
            raise ValueError(f"{name} must be a positive int or a list of them, got {cfg[name]}")
        columns.append(list(values))
    counts = [len(column) for column in columns]
    if len(set(counts)) > 1:
        raise ValueError(f"height, width and batch_size must have the same number of stages, got {counts}")
    milestones = list(cfg.resolution_milestones)
    if len(milestones) != counts[0] - 1 or milestones != sorted(milestones):
        raise ValueError(
            f"resolution_milestones must be {counts[0] - 1} ascending steps for {counts[0]} stages, got {milestones}"
        )
    for name in cfg:
        if name.endswith("_range") and (len(cfg[name]) != 2 or cfg[name][0] > cfg[name][1]):
            raise ValueError(f"{name} must be [low, high] with low <= high, got {list(cfg[name])}")
    return list(zip(*columns, strict=True))


def make_batch(
    elevation_deg: Float[Tensor, "B"],
    azimuth_deg: Float[Tensor, "B"],
    distance: Float[Tensor, "B"],
    fovy_rad: Float[Tensor, "B"],
    unit_focal: Float[Tensor, "H W 3"],
    moved: Float[Tensor, "3 B 3"] | None = None,
) -> dict[str, Any]:
    """A batch of cameras under threestudio's keys, without lights.

    Args:
        elevation_deg: one a camera.
        azimuth_deg: one a camera.
        distance: from the origin, in world units.
        fovy_rad: vertical fields of view.
        unit_focal: ray directions of a camera of focal length 1 pixel.
        moved: what is added to position, centre of view and up.
    """
    height, width = unit_focal.shape[:2]
    elevation, azimuth = torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg)
    flat = elevation.cos()
    toward = torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), elevation.sin()], dim=-1)
    moved = torch.zeros(3, *toward.shape) if moved is None else moved
    position, up = toward * distance[:, None] + moved[0], torch.tensor([0.0, 0.0, 1.0]) + moved[2]
    backward = F.normalize(position - moved[1], dim=-1)
    right = F.normalize(torch.linalg.cross(up, backward, dim=-1), dim=-1)
    up = torch.linalg.cross(backward, right, dim=-1)
    c2w = torch.eye(4).repeat(len(position), 1, 1)
    c2w[:, :3] = torch.stack([right, up, backward, position], dim=-1)

    directions = unit_focal.repeat(len(position), 1, 1, 1)
    directions[..., :2] /= (0.5 * height / torch.tan(0.5 * fovy_rad))[:, None, None, None]
    rays_o, rays_d = get_rays(directions, c2w, keepdim=True)
    projection = get_projection_matrix(fovy_rad, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "mvp_mtx": get_mvp_matrix(c2w, projection),
        "camera_positions": position,
        "c2w": c2w,
        "proj_mtx": projection,
        "elevation": elevation_deg,
        "azimuth": azimuth_deg,
        "camera_distances": distance,
        "fovy": fovy_rad,
        "height": height,
        "width": width,
    }


def _uniform(low_high: Any, size: int) -> Tensor:
    low, high = low_high
    return torch.rand(size) * (high - low) + low


class RandomCameraIterableDataset(IterableDataset, Updateable):
    """Endless; all the sampling happens in `collate`, at the current stage's resolution."""

    def __init__(self, cfg: Any) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        self.stages = check_config(cfg)
        self.elevation_range = list(cfg.elevation_range)
        self.azimuth_range = list(cfg.azimuth_range)
        self.camera_distance_range = list(cfg.camera_distance_range)
        self.fovy_range = list(cfg.fovy_range)
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        stage = bisect.bisect_right(list(self.cfg.resolution_milestones), global_step)
        self.height, self.width, self.batch_size = self.stages[stage]
        self.directions_unit_focal = get_ray_directions(H=self.height, W=self.width, focal=1.0)

    def __iter__(self) -> Iterator[dict]:
        while True:
            yield {}

    def sample_elevation(self, size: int) -> Float[Tensor, "size"]:
        """Degrees; half of the time uniform in the angle, otherwise uniform on the sphere."""
        if random.random() < 0.5:
            return _uniform(self.elevation_range, size)
        sines = [math.sin(math.radians(e)) for e in self.elevation_range]
        return torch.rad2deg(torch.asin(_uniform(sines, size).clamp(-1, 1)))

    def collate(self, batch: Any) -> dict[str, Any]:
        cfg, size = self.cfg, self.batch_size
        elevation = self.sample_elevation(size)
        fraction = (torch.rand(size) + torch.arange(size)) / size  # one in each of `size` equal sectors
        azimuth = fraction * (self.azimuth_range[1] - self.azimuth_range[0]) + self.azimuth_range[0]
        distance = _uniform(self.camera_distance_range, size)
        moved = torch.stack([torch.rand(size, 3) * 2 - 1, torch.randn(size, 3), torch.randn(size, 3)])
        moved *= torch.tensor([cfg.camera_perturb, cfg.center_perturb, cfg.up_perturb])[:, None, None]
        fovy = torch.deg2rad(_uniform(self.fovy_range, size))
        views = make_batch(elevation, azimuth, distance, fovy, self.directions_unit_focal, moved)
        offset = torch.randn(size, 3) * cfg.light_position_perturb
        toward = F.normalize(views["camera_positions"] + offset, dim=-1)
        return {**views, "light_positions": toward * _uniform(cfg.light_distance_range, size)[:, None]}


class RandomCameraDataset(Dataset):
    """Views on one circle: `val` n views evenly apart, `test` a closed turntable (first view = last view)."""

    def __init__(self, cfg: Any, split: str) -> None:
        super().__init__()
        self.cfg: RandomCameraDataModuleConfig = cfg
        self.n_views: int = cfg.n_val_views if split == "val" else cfg.n_test_views
        step = 360.0 / (self.n_views if split == "val" else max(self.n_views - 1, 1))
        self.azimuth = torch.arange(self.n_views) * step
        self.unit_focal = get_ray_directions(H=cfg.eval_height, W=cfg.eval_width, focal=1.0)

    def __len__(self) -> int:
        return self.n_views

    def __getitem__(self, index: int) -> dict[str, Any]:
        cfg = self.cfg
        elevation, distance, fovy_deg = torch.tensor(
            [[cfg.eval_elevation_deg], [cfg.eval_camera_distance], [cfg.eval_fovy_deg]]
        )
        # rays are made one view at a time: a turntable's rays together would take hundreds of megabytes
        azimuth = self.azimuth[index : index + 1]
        batch = make_batch(elevation, azimuth, distance, torch.deg2rad(fovy_deg), self.unit_focal)
        view = {key: value[0] if isinstance(value, Tensor) else value for key, value in batch.items()}
        return {**view, "index": index, "light_positions": view["camera_positions"]}

    def collate(self, batch: list[dict]) -> dict[str, Any]:
        size = {"height": self.cfg.eval_height, "width": self.cfg.eval_width}
        return {**default_collate(batch), **size}


@register("random-camera-datamodule")
class RandomCameraDataModule(pl.LightningDataModule):
    cfg: RandomCameraDataModuleConfig

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(RandomCameraDataModuleConfig, cfg)
        check_config(self.cfg)
        if self.cfg.light_sample_strategy != "dreamfusion":
            raise ValueError(
                f"light_sample_strategy is {self.cfg.light_sample_strategy!r}, here it can be 'dreamfusion'; the rest "
                "is threestudio's"
            )

    def setup(self, stage: str | None = None) -> None:
        if stage in (None, "fit"):
            self.train_dataset = RandomCameraIterableDataset(self.cfg)
        if stage in (None, "fit", "validate"):
            self.val_dataset = RandomCameraDataset(self.cfg, "val")
        if stage in (None, "test", "predict"):
            self.test_dataset = RandomCameraDataset(self.cfg, "test")

    def train_dataloader(self) -> DataLoader:
        return _loader(self.train_dataset, None)

    def val_dataloader(self) -> DataLoader:
        return _loader(self.val_dataset, 1)

    def test_dataloader(self) -> DataLoader:
        return _loader(self.test_dataset, 1)

    def predict_dataloader(self) -> DataLoader:
        return _loader(self.test_dataset, 1)


def _loader(dataset: Any, batch_size: int | None) -> DataLoader:
    return DataLoader(dataset, num_workers=0, batch_size=batch_size, collate_fn=dataset.collate)
