"""Where the pictures of a run were taken from: what `imagedream.image_prompt.prompt_camera` needs of a host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor

from imagedream import checkpoints
from imagedream.image_prompt.picture_projection import LEAST_CERTAINTY, EmbedFunction
from imagedream.image_prompt.prompt import ImagePrompt
from imagedream.image_prompt.prompt_camera import PromptCamera, clip_features, estimate_prompt_camera
from imagedream.mesh.field import ViewFunction
from imagedream.metrics import clip_unavailable
from imagedream.runs.ranges import FieldOfViewDeg, Length, check_ranges
from threestudio.utils.config import parse_structured

from .data import camera_batch, on_device

_RAYS_PER_CALL = 2**14

FAR_FROM_GIVEN_DEG = 45.0
"""An estimate this far from the side that a picture was given for is worth a warning."""


@dataclass(frozen=True)
class PromptCameraSettings:
    """Keys of `system.prompt_camera`."""

    enabled: bool = True
    """Estimate it from the field after the optimisation."""
    steps: Annotated[list[int], Ge(0)] = field(default_factory=list)
    """Training steps at which it is estimated as well, for `imagedream-reference-guidance`."""
    relative_distance: Length = 0.7
    """Half the height of the frames at the object, in world units: the middle of `data.relative_distance_range`."""
    fovy_deg: FieldOfViewDeg = 47.5
    """Field of view that pictures are taken to have."""

    def __post_init__(self) -> None:
        check_ranges(self, "system.prompt_camera")


def check_prompt_camera(cfg: Any) -> None:
    """Raise ValueError if a guidance of `system` needs an estimate during the optimisation, and none is made."""
    settings = parse_structured(PromptCameraSettings, cfg.get("prompt_camera", {}))
    entries = cfg.get("guidances") or []
    for entry in entries.values() if hasattr(entries, "values") else entries:
        needs = (entry.get("guidance") or {}).get("camera") == "estimate"
        if needs and not (settings.enabled and settings.steps):
            raise ValueError(
                f"camera is 'estimate', but system.prompt_camera.enabled is {settings.enabled} and its steps are "
                f"{list(settings.steps)}: give steps at which it is estimated, such as "
                "system.prompt_camera.steps=[60,120,180], or azimuth_deg"
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
            out = render(on_device(camera_batch(*part, size, size), device))
            colour = out["comp_rgb"] - out["comp_rgb_bg"] * (1 - out["opacity"])
            pictures.append(torch.cat([colour, out["opacity"]], dim=-1).permute(0, 3, 1, 2).float().cpu())
        return torch.cat(pictures)

    return views


@torch.no_grad()
def estimate_cameras(
    system: Any, images: Sequence[ImagePrompt], settings: PromptCameraSettings, encoder: Any = None
) -> list[PromptCamera]:
    """Looks for pictures in what a system renders, with the help of an `ImageTextEncoder` that reads images.

    Raises:
        ValueError: nothing of the object is to be seen.
    """
    features = None
    if encoder is not None and encoder.reads_images:
        features = clip_features(encoder, system.device)
    training = system.training
    system.eval()
    try:
        views = object_views(system, system.device)
        distance, fov = settings.relative_distance, settings.fovy_deg
        return [estimate_prompt_camera(image.rgba, views, distance, fov, features) for image in images]
    finally:
        system.train(training)


def sharp_pictures(
    processor: Any, cfg: Any, cameras: Sequence[PromptCamera], size: int
) -> list[tuple[Tensor, PromptCamera]]:
    """The prompt's pictures with more pixels, and their cameras; none if these are not known.

    Args:
        processor: class of the prompt processor.
        cfg: its settings.
        cameras: as estimated in the run; they are of other pictures if there are not as many.
        size: side in pixels.
    """
    if not cameras or len(processor.given(cfg)) != len(cameras):
        return []
    return [(image.rgba, camera) for image, camera in zip(processor.read(cfg, size), cameras, strict=True)]


def clip_embedding(weights: str, device: Any) -> EmbedFunction | None:
    """The joint embedding of pictures by the encoder of a model; None where it has none."""
    encoder, _ = checkpoints.load_part(weights, "encoder")
    if clip_unavailable(encoder) is not None:
        return None
    encoder = encoder.to(device)
    return lambda pictures: encoder.encode_image(pictures.to(device)).embedding


def turned_warnings(cameras: Sequence[PromptCamera], given: Sequence[tuple[str, float | None]]) -> list[str]:
    """What to say of pictures (path, azimuth) whose cameras are, for certain, not where they were given for."""
    return [
        f"the model is turned: the picture given for azimuth {given_deg:.0f}° is seen from {camera.azimuth_deg:.0f}° "
        f"({100 * camera.certainty:.0f}% certain), so its front may not face forward"
        for camera, (_, given_deg) in zip(cameras, given, strict=False)
        if given_deg is not None
        and abs((camera.azimuth_deg - given_deg + 180) % 360 - 180) >= FAR_FROM_GIVEN_DEG
        and camera.certainty >= LEAST_CERTAINTY
    ]
