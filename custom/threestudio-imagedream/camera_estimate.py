"""Where the pictures of a run were taken from: what `imagedream.image_prompt.prompt_camera` needs of a host, and how it is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagedream.cameras import check_angles
from imagedream.image_prompt.prompt_camera import PromptCamera, clip_features, estimate_prompt_camera
from imagedream.mesh.field import ViewFunction

from .data import camera_batch

_RAYS_PER_CALL = 2**14

FAR_FROM_GIVEN_DEG = 45.0
"""An estimate this far from the side that a picture was given for is worth a warning."""


@dataclass(frozen=True)
class PromptCameraSettings:
    """Keys of `system.prompt_camera`."""

    enabled: bool = True
    """Estimate it from the four views before the optimisation, and from the field after it."""
    steps: list[int] = field(default_factory=list)
    """Training steps at which it is estimated from the field as well, for `imagedream-reference-guidance`."""
    relative_distance: float = 0.7
    """Half the height of the four views' frames at the object, in world units: the middle of `data.relative_distance_range`."""
    fovy_deg: float = 47.5
    """Field of view that pictures are taken to have."""

    def __post_init__(self) -> None:
        check_angles(0.0, self.fovy_deg)
        if not self.relative_distance > 0:
            raise ValueError(
                f"system.prompt_camera.relative_distance is {self.relative_distance}, must be greater than 0"
            )


def object_views(render: Callable[[dict[str, Any]], dict[str, Tensor]], device: Any) -> ViewFunction:
    """A host's renderer as a function of cameras that look at the origin; without the background.

    Args:
        render: from a batch of cameras to threestudio's `comp_rgb`, `comp_rgb_bg` and `opacity`.
        device: where the batch has to be.
    """

    def views(camera_to_world: Tensor, fov_y_deg: Tensor, size: int) -> Tensor:
        at_once = max(1, _RAYS_PER_CALL // size**2)
        position = camera_to_world[:, :3, 3]
        distance = position.norm(dim=-1)
        elevation_deg = torch.rad2deg(torch.asin(position[:, 2] / distance))
        azimuth_deg = torch.rad2deg(torch.atan2(position[:, 1], position[:, 0]))
        relative_distance = distance * torch.tan(torch.deg2rad(fov_y_deg) / 2)
        rows = torch.stack([elevation_deg, azimuth_deg, relative_distance, fov_y_deg])
        pictures = []
        for part in rows.split(at_once, dim=1):
            batch = camera_batch(*part, size, size)
            batch = {key: one.to(device) if isinstance(one, Tensor) else one for key, one in batch.items()}
            out = render(batch)
            colour = out["comp_rgb"] - out["comp_rgb_bg"] * (1 - out["opacity"])
            pictures.append(torch.cat([colour, out["opacity"]], dim=-1).permute(0, 3, 1, 2).float().cpu())
        return torch.cat(pictures)

    return views


def of_four_views(path: Path, settings: PromptCameraSettings) -> Callable[[Tensor, Any], PromptCamera]:
    """Looks for a prompt (RGBA; and the pipeline, if its encoder shall help) in the visual hull of a `views.npz`."""
    from imagedream.mesh.visual_hull import hull_renderer
    from imagedream.metrics import silhouette

    with np.load(path) as stored:
        images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2) / 255
        azimuths, elevation = stored["azimuths_deg"].tolist(), float(stored["elevation_deg"])
    hull = hull_renderer(images, silhouette(images), azimuths, elevation, settings.fovy_deg)
    scale = settings.relative_distance

    def views(camera_to_world: Tensor, fov_y_deg: Tensor, size: int) -> Tensor:
        """The hull, as large as the object is going to be."""
        poses = camera_to_world.clone()
        poses[:, :3, 3] /= scale
        return hull(poses, fov_y_deg, size)

    return partial(_estimate, views, settings)


def of_field(system: Any, settings: PromptCameraSettings) -> Callable[[Tensor, Any], PromptCamera]:
    """Looks for a prompt in what a system renders."""

    def render(batch: dict[str, Any]) -> dict[str, Tensor]:
        training = system.training
        system.eval()
        try:
            with torch.no_grad():
                return system(batch)
        finally:
            system.train(training)

    return partial(_estimate, object_views(render, system.device), settings)


def _estimate(
    views: ViewFunction, settings: PromptCameraSettings, rgba: Tensor, pipeline: Any
) -> PromptCamera:
    features = None
    if pipeline is not None and pipeline.encoder.reads_images:
        features = clip_features(pipeline.encoder, pipeline.device)
    return estimate_prompt_camera(rgba, views, settings.relative_distance, settings.fovy_deg, features)


def turned_warning(camera: PromptCamera, given_deg: float | None) -> str | None:
    """What to say of a picture whose camera is not where it was given for; None where it fits, or is not certain."""
    if given_deg is None:
        return None
    away = abs((camera.azimuth_deg - given_deg + 180) % 360 - 180)
    if away < FAR_FROM_GIVEN_DEG or camera.certainty < 0.5:
        return None
    return (
        f"the model is turned: the picture given for azimuth {given_deg:.0f}° is seen from {camera.azimuth_deg:.0f}° "
        f"({100 * camera.certainty:.0f}% certain), so its front may not face forward"
    )
