"""Cameras in canonical groups: the views of a group lie evenly around the object and share everything else."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Interval, Predicate
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset, IterableDataset

import threestudio
from imagedream.cameras import framing_distance, look_at_origin, orthogonal_azimuths, rays
from imagedream.runs.ranges import (
    AscendingPair,
    ElevationDeg,
    FieldOfViewDeg,
    Length,
    PerStage,
    Rate,
    Size,
    ascending,
    check_ranges,
)
from imagedream.runs.seeds import step_generator
from threestudio.utils.config import parse_structured
from threestudio.utils.ops import get_mvp_matrix, get_projection_matrix

NEAR, FAR = 0.01, 100.0
STREAM = 0


@dataclass
class CameraDataModuleConfig:
    """What is drawn for a training batch, and the turntable of validation and test."""

    batch_size: Annotated[Any, PerStage, Interval(ge=1, le=2**14)] = 4
    """Images, a multiple of n_view; like height and width a number, or a list with one entry per stage."""
    height: Annotated[Any, PerStage, Interval(ge=1, le=2**14)] = 64
    width: Annotated[Any, PerStage, Interval(ge=1, le=2**14)] = 64
    resolution_milestones: Annotated[list[int], Ge(0), Predicate(ascending)] = field(default_factory=list)
    """Steps at which the next stage begins; one less than there are stages."""
    n_view: Size = 4
    """Views in a group."""
    elevation_range: Annotated[AscendingPair, Interval(gt=-90, lt=90)] = (0.0, 5.0)
    """Degrees; uniform, one per group."""
    fovy_range: Annotated[AscendingPair, Interval(gt=0, lt=180)] = (45.0, 50.0)
    """Vertical field of view in degrees; uniform, one per group."""
    relative_distance_range: Annotated[AscendingPair, Interval(gt=0, le=10**4)] = (0.6, 0.75)
    """Half the frame's height at the object, in world units (the distance is this over tan(fovy / 2))."""
    light_position_perturb: Rate = 1.0
    """Standard deviation, in world units, of the light's offset from its camera; one per group."""
    light_distance_range: Annotated[AscendingPair, Interval(gt=0, le=10**4)] = (0.8, 1.5)
    n_val_views: Size = 4
    n_test_views: Size = 120
    eval_height: Size = 256
    eval_width: Size = 256
    eval_elevation_deg: ElevationDeg = 5.0
    eval_fovy_deg: FieldOfViewDeg = 47.5
    eval_relative_distance: Length = 0.7

    def __post_init__(self) -> None:
        check_ranges(self, "data")


def camera_batch(
    elevation_deg: Tensor,
    azimuth_deg: Tensor,
    relative_distance: Tensor,
    fovy_deg: Tensor,
    height: int,
    width: int,
    light_offset: Tensor | None = None,
    light_distance: Tensor | None = None,
) -> dict[str, Any]:
    """Everything threestudio's renderers, materials and guidances read of cameras, one row each.

    Args:
        elevation_deg: one per camera, like the other angles.
        azimuth_deg: from the front, counter-clockwise seen from above.
        relative_distance: half the frame's height at the object, in world units.
        fovy_deg: vertical field of view.
        height: of the images in pixels.
        width: of the images in pixels.
        light_offset: (camera, 3), added to the camera's position for the light's direction; None: light at the camera.
        light_distance: of the light from the origin, one per camera; needed with light_offset.
    """
    distance = framing_distance(relative_distance, fovy_deg)
    c2w = look_at_origin(elevation_deg, azimuth_deg, distance)
    rays_o, rays_d = rays(c2w, fovy_deg, height, width)
    positions = c2w[:, :3, 3]
    lights = positions
    if light_offset is not None and light_distance is not None:
        lights = normalize(positions + light_offset, dim=-1) * light_distance[:, None]
    fovy = torch.deg2rad(fovy_deg)
    projection = get_projection_matrix(fovy, width / height, NEAR, FAR)
    return {
        "rays_o": rays_o,
        "rays_d": rays_d,
        "c2w": c2w,
        "proj_mtx": projection,
        "mvp_mtx": get_mvp_matrix(c2w, projection),
        "camera_positions": positions,
        "light_positions": lights,
        "elevation": elevation_deg,
        "azimuth": azimuth_deg,
        "camera_distances": distance,
        "fovy": fovy,
        "height": height,
        "width": width,
    }


def on_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    """The same batch elsewhere."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}


def stages(cfg: CameraDataModuleConfig) -> list[tuple[int, int, int]]:
    """(batch size, height, width) of every stage.

    Raises:
        ValueError: if their numbers, the milestones or the group size do not fit together.
    """
    columns = {name: getattr(cfg, name) for name in ("batch_size", "height", "width")}
    columns = {name: [value] if isinstance(value, int) else list(value) for name, value in columns.items()}
    count = len(columns["height"])
    if any(len(values) != count for values in columns.values()):
        lengths = ", ".join(f"{name} {len(values)}" for name, values in columns.items())
        raise ValueError(f"batch_size, height and width need one entry per stage, got {lengths}")
    milestones = list(cfg.resolution_milestones)
    if len(milestones) != count - 1:
        raise ValueError(f"{count} stages need {count - 1} resolution_milestones, got {milestones}")
    for size in columns["batch_size"]:
        if size % cfg.n_view:
            raise ValueError(f"batch_size is {size} images, must be a multiple of n_view, {cfg.n_view}")
    return list(zip(*columns.values(), strict=True))


class CanonicalCameras(IterableDataset):
    """Endless training batches; rows g · n_view ... g · n_view + n_view − 1 are group g.

    A batch depends on the seed and its number alone, so a run that goes on from a checkpoint sees the cameras it would
    have seen.
    """

    def __init__(
        self, cfg: CameraDataModuleConfig, seed: int, first: int = 0, batches_per_step: int = 1
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.seed = seed
        self.first = first
        self.batches_per_step = batches_per_step
        self.stages = stages(cfg)

    def stage(self, step: int) -> tuple[int, int, int]:
        """(batch size, height, width) at a training step."""
        return self.stages[bisect_right(list(self.cfg.resolution_milestones), step)]

    def __iter__(self) -> Iterator[int]:
        return count(self.first)

    def collate(self, number: int) -> dict[str, Any]:
        """The batch of that number: random groups."""
        batch_size, height, width = self.stage(number // self.batches_per_step)
        generator = step_generator(self.seed, number, STREAM)
        views = self.cfg.n_view
        groups = batch_size // views

        def uniform(name: str) -> Tensor:
            low, high = getattr(self.cfg, name)
            drawn = low + (high - low) * torch.rand(groups, generator=generator)
            return drawn.repeat_interleave(views)

        start = 360 * torch.rand(groups, generator=generator)
        azimuth = (orthogonal_azimuths(start, views) + 180) % 360 - 180
        offset = self.cfg.light_position_perturb * torch.randn(groups, 3, generator=generator)
        return camera_batch(
            uniform("elevation_range"),
            azimuth.flatten(),
            uniform("relative_distance_range"),
            uniform("fovy_range"),
            height,
            width,
            offset.repeat_interleave(views, dim=0),
            uniform("light_distance_range"),
        )


class TurntableCameras(Dataset):
    """Cameras evenly around the object, the front first; each item is a batch of one."""

    def __init__(self, cfg: CameraDataModuleConfig, views: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.azimuths_deg = orthogonal_azimuths(0.0, views)

    def __len__(self) -> int:
        return len(self.azimuths_deg)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cfg = self.cfg
        angles = [torch.tensor([v]) for v in (cfg.eval_relative_distance, cfg.eval_fovy_deg)]
        elevation = torch.tensor([float(cfg.eval_elevation_deg)])
        azimuth = self.azimuths_deg[index : index + 1]
        batch = camera_batch(elevation, azimuth, *angles, cfg.eval_height, cfg.eval_width)
        return {"index": torch.tensor([index]), **batch}


@threestudio.register("imagedream-camera-datamodule")
class CameraDataModule(pl.LightningDataModule):
    """Canonical groups for training, a turntable for validation, test and prediction."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__()
        self.cfg = parse_structured(CameraDataModuleConfig, cfg)
        stages(self.cfg)

    def setup(self, stage: str | None = None) -> None:
        """Make the datasets of a stage."""
        if stage in (None, "fit"):
            self.train_dataset = CanonicalCameras(self.cfg, torch.initial_seed())
        if stage in (None, "fit", "validate"):
            self.val_dataset = TurntableCameras(self.cfg, self.cfg.n_val_views)
        if stage in (None, "test", "predict"):
            self.test_dataset = TurntableCameras(self.cfg, self.cfg.n_test_views)

    def train_dataloader(self) -> DataLoader:
        """Batches made by `CanonicalCameras.collate`, from the one on that a resumed run has not seen."""
        if self.trainer is not None:
            self.train_dataset.first = self.trainer.fit_loop.total_batch_idx + 1
            self.train_dataset.batches_per_step = self.trainer.accumulate_grad_batches
        return DataLoader(
            self.train_dataset, batch_size=None, num_workers=0, collate_fn=self.train_dataset.collate
        )

    def val_dataloader(self) -> DataLoader:
        """A few views."""
        return DataLoader(self.val_dataset, batch_size=None, num_workers=0)

    def test_dataloader(self) -> DataLoader:
        """The turntable."""
        return DataLoader(self.test_dataset, batch_size=None, num_workers=0)

    def predict_dataloader(self) -> DataLoader:
        """The turntable again: exporters may save a video."""
        return DataLoader(self.test_dataset, batch_size=None, num_workers=0)
