"""A loss that holds the render from the prompt's own camera against the picture itself."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

import threestudio
from imagedream.image_prompt.prompt_camera import PromptCamera
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
        certain = {"certainty": 1.0, "silhouette_iou": 1.0, "azimuth_probabilities": ()}
        return PromptCamera(azimuth_deg, cfg.elevation_deg, distance, cfg.fovy_deg, (0.0, 0.0), **certain)

    def camera_batch(self, prompt_utils: PromptOutput, *_: Any) -> dict[str, Any] | None:
        """A camera that looks at the origin from where the picture was taken and sees all of it; None if that is not known."""
        camera = self._camera(prompt_utils)
        if camera is None:
            return None
        half_frame = camera.relative_distance * _widening(camera)
        fovy_deg = 2 * math.degrees(math.atan(half_frame / camera.distance))
        values = camera.elevation_deg, camera.azimuth_deg, half_frame, fovy_deg
        batch = camera_batch(*(torch.tensor([value]) for value in values), self.cfg.size, self.cfg.size)
        return on_device(batch, self.device)

    def _framed(self, pictures: Tensor, camera: PromptCamera) -> Tensor:
        """Pictures (1, channel, height, width) framed like the prompt -> as the camera's frame shows them."""
        theta = pictures.new_zeros(1, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = _widening(camera)
        theta[:, :, 2] = 2 * pictures.new_tensor(camera.offset)
        places = affine_grid(theta, [1, 1, *pictures.shape[-2:]], align_corners=False)
        return grid_sample(pictures, places, align_corners=False)

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
        rgba = prompt_utils.images[self.cfg.picture].rgba[None].float()
        premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
        rgba = self._resized(self._framed(premultiplied, camera))
        mask = rgba[..., 3:]
        target = rgba[..., :3] + render["comp_rgb_bg"].detach() * (1 - mask)
        losses = {
            "loss_color": self.cfg.color_weight * (rgb - target).square().mean(),
            "loss_mask": self.cfg.mask_weight * (render["opacity"] - mask).square().mean(),
        }
        return {name: camera.certainty * loss for name, loss in losses.items()}


def _widening(camera: PromptCamera) -> float:
    """By how much a frame around the origin has to be larger than the picture's to hold all of that."""
    return 1 + 2 * max(abs(shift) for shift in camera.offset)
