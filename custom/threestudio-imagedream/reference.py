"""A loss that holds the render from the prompt's own camera against the picture itself."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import interpolate

import threestudio
from imagedream.image_prompt.picture_projection import Placement
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.pictures import premultiplied
from imagedream.runs.ranges import (
    ElevationDeg,
    FieldOfViewDeg,
    Length,
    NotNegative,
    OneOf,
    Size,
    check_ranges,
)
from threestudio.utils.base import BaseObject

from .data import camera_batch, on_device
from .prompt_processor import PromptOutput


@threestudio.register("imagedream-reference-guidance")
class ReferenceGuidance(BaseObject):
    """Colour and silhouette of a picture, seen from where it was taken.

    It is a member of `system.guidances`: it brings its own camera and needs no network.
    """

    @dataclass
    class Config:
        """Keys of the entry's `guidance`."""

        picture: Annotated[int, Ge(0)] = 0
        """Which of the prompt's pictures."""
        camera: Annotated[str, OneOf("given", "estimate")] = "given"
        """`given`: the next four keys say where the picture was taken from. `estimate`: that is found out at
        `system.prompt_camera.steps`; from the first of these on there are losses, times the estimate's certainty."""
        azimuth_deg: float | None = None
        """Counted from the object's front; None: the side the picture was given for."""
        elevation_deg: ElevationDeg = 0.0
        relative_distance: Length = 0.6
        """Half the frame's height at the object, in world units."""
        fovy_deg: FieldOfViewDeg = 47.5
        size: Size = 64
        """Side of the render in pixels."""
        color_weight: NotNegative = 1.0
        """Of the mean squared difference of colours, the picture shown on the render's background."""
        mask_weight: NotNegative = 1.0
        """Of the mean squared difference between opacity and the picture's cut-out."""

        def __post_init__(self) -> None:
            check_ranges(self)

    cfg: Config

    def _resized(self, pixels: Tensor) -> Tensor:
        """(1, channel, height, width) -> (1, size, size, channel)."""
        size = (self.cfg.size, self.cfg.size)
        pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return pixels.permute(0, 2, 3, 1).to(self.device)

    def _camera(self, prompt: PromptOutput) -> PromptCamera | None:
        """Where the picture was taken from; None as long as it has not been estimated."""
        cfg = self.cfg
        if cfg.picture >= len(prompt.images):
            raise ValueError(f"picture is {cfg.picture}, but the prompt has {len(prompt.images)} pictures")
        if cfg.camera == "estimate":
            return prompt.cameras[cfg.picture] if prompt.cameras else None
        azimuth_deg = prompt.images[cfg.picture].azimuth_deg if cfg.azimuth_deg is None else cfg.azimuth_deg
        if azimuth_deg is None:
            raise ValueError(
                "where the picture was taken from is not known: give azimuth_deg, or name its side "
                "(system.prompt_processor.front_path instead of image_path)"
            )
        distance = cfg.relative_distance / math.tan(math.radians(cfg.fovy_deg) / 2)
        certain = {"certainty": 1.0, "silhouette_iou": 1.0}
        return PromptCamera(azimuth_deg, cfg.elevation_deg, distance, cfg.fovy_deg, (0.0, 0.0), **certain)

    def camera_batch(self, prompt_utils: PromptOutput, *_: Any) -> dict[str, Any] | None:
        """A camera that looks at the origin from where the picture was taken and sees all of it; None if that is not known."""
        camera = self._camera(prompt_utils)
        if camera is None:
            return None
        placement = Placement(camera, margin=0.0)
        half_frame = camera.relative_distance * placement.widening
        places = (torch.tensor([value]) for value in (camera.elevation_deg, camera.azimuth_deg, half_frame))
        batch = camera_batch(*places, placement.fov_y_deg, self.cfg.size, self.cfg.size)
        return on_device(batch, self.device)

    def __call__(
        self, rgb: Tensor, prompt_utils: PromptOutput, render: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Differences between the render and the picture.

        Args:
            rgb: the render `(1, size, size, 3)` from `camera_batch`.
            prompt_utils: what `imagedream-prompt-processor` returned.
            render: all that the renderer returned.
            **kwargs: the rest of the camera's batch, not needed.

        Returns:
            `loss_color` and `loss_mask`.
        """
        camera = self._camera(prompt_utils)
        rgba = premultiplied(prompt_utils.images[self.cfg.picture].rgba[None].float().cpu())
        rgba = self._resized(Placement(camera, margin=0.0).lay(rgba, rgba.shape[-1]))
        mask = rgba[..., 3:]
        target = rgba[..., :3] + render["comp_rgb_bg"].detach() * (1 - mask)
        losses = {
            "loss_color": self.cfg.color_weight * (rgb - target).square().mean(),
            "loss_mask": self.cfg.mask_weight * (render["opacity"] - mask).square().mean(),
        }
        return {name: camera.certainty * loss for name, loss in losses.items()}
