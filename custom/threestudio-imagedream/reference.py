"""A loss that holds the render from the prompt's own camera against the picture itself."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, normalize

import threestudio
from imagedream.cameras import check_angles
from imagedream.image_prompt.prompt import open_picture
from imagedream.image_prompt.prompt_camera import PromptCamera
from threestudio.utils.base import BaseObject
from threestudio.utils.config import parse_structured

from .data import camera_batch
from .prompt_processor import PromptOutput


@threestudio.register("imagedream-reference-guidance")
class ReferenceGuidance(BaseObject):
    """Colour, silhouette and, where given, depth and normals of a picture, seen from where it was taken.

    It is a member of `system.guidances`: it brings its own camera and needs no network.
    """

    @dataclass
    class Config:
        """Keys of the entry's `guidance`."""

        picture: int = 0
        """Which of the prompt's pictures."""
        camera: str = "given"
        """`given`: the next four keys say where the picture was taken from. `estimate`: that is found out at
        `system.prompt_camera.steps`; from the first of these on there are losses, times the estimate's certainty."""
        azimuth_deg: float | None = None
        """Counted from the object's front; None: the side the picture was given for."""
        elevation_deg: float = 0.0
        relative_distance: float = 0.6
        """Half the frame's height at the object, in world units."""
        fovy_deg: float = 47.5
        size: int = 64
        """Side of the render in pixels."""
        color_weight: float = 1.0
        """Of the mean squared difference of colours, the picture shown on the render's background."""
        mask_weight: float = 1.0
        """Of the mean squared difference between opacity and the picture's cut-out."""
        depth_weight: float = 0.1
        """Of 1 − correlation of depths inside the cut-out, where `depth_path` is given."""
        depth_path: Any = None
        """A grey picture of the same framing, the brighter the farther, in any unit."""
        normal_weight: float = 0.1
        """Of 1 − cosine of normals inside the cut-out, where `normal_path` is given."""
        normal_path: Any = None
        """A picture of the same framing: (normal + 1) / 2 as RGB; x right, y up, z towards the camera."""

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the settings or the picture files."""
        cfg = parse_structured(cls.Config, cfg)
        check_angles(cfg.elevation_deg, cfg.fovy_deg)
        if cfg.camera not in ("given", "estimate"):
            raise ValueError(f"camera is {cfg.camera!r}, must be 'given' or 'estimate'")
        for path in (cfg.depth_path, cfg.normal_path):
            if path is not None:
                open_picture(path)

    def configure(self) -> None:
        """Read the pictures of depth and normals."""
        self.preflight(self.cfg)
        self.depth, self.normals = None, None
        if self.cfg.depth_path is not None:
            self.depth = self._read(self.cfg.depth_path, "F")
        if self.cfg.normal_path is not None:
            self.normals = normalize(self._read(self.cfg.normal_path, "RGB") / 255 * 2 - 1, dim=-1)

    def _read(self, path: str, mode: str) -> Tensor:
        import numpy as np

        picture = open_picture(path).convert(mode)
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).reshape(
            1, picture.height, picture.width, -1
        )
        return self._resized(pixels.permute(0, 3, 1, 2))

    def _resized(self, pixels: Tensor) -> Tensor:
        """(1, channel, height, width) -> (1, size, size, channel)."""
        size = (self.cfg.size, self.cfg.size)
        pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
        return pixels.permute(0, 2, 3, 1).to(self.device)

    def camera_batch(self, prompt_utils: PromptOutput) -> dict[str, Any] | None:
        """The camera of the picture; None as long as it has not been estimated."""
        if self.cfg.picture >= len(prompt_utils.images):
            raise ValueError(
                f"picture is {self.cfg.picture}, but the prompt has {len(prompt_utils.images)} pictures"
            )
        if self.cfg.camera == "given":
            values = self._given(prompt_utils)
        elif prompt_utils.cameras:
            values = self._estimated(prompt_utils)
        else:
            return None
        size = self.cfg.size
        batch = camera_batch(*(torch.tensor([float(value)]) for value in values), size, size)
        return {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in batch.items()
        }

    def _estimated(self, prompt_utils: PromptOutput) -> tuple[float, float, float, float]:
        """Elevation, azimuth, relative distance and field of view of a frame that looks at the origin and holds the picture's."""
        camera = prompt_utils.cameras[self.cfg.picture]
        widened = _widening(camera)
        fovy_deg = 2 * math.degrees(math.atan(camera.relative_distance * widened / camera.distance))
        return camera.elevation_deg, camera.azimuth_deg, camera.relative_distance * widened, fovy_deg

    def _given(self, prompt_utils: PromptOutput) -> tuple[float, float, float, float]:
        cfg = self.cfg
        azimuth_deg = cfg.azimuth_deg
        if azimuth_deg is None:
            azimuth_deg = prompt_utils.images[cfg.picture].azimuth_deg
        if azimuth_deg is None:
            raise ValueError(
                "where the picture was taken from is not known: give azimuth_deg, or name its side "
                "(system.prompt_processor.front_path instead of image_path)"
            )
        return cfg.elevation_deg, azimuth_deg, cfg.relative_distance, cfg.fovy_deg

    def _framed(self, pictures: Tensor, prompt_utils: PromptOutput) -> Tensor:
        """Pictures (1, channel, height, width) framed like the prompt -> as the camera's frame shows them."""
        if self.cfg.camera == "given":
            return pictures
        camera = prompt_utils.cameras[self.cfg.picture]
        widened = _widening(camera)
        theta = pictures.new_zeros(1, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = widened
        theta[:, :, 2] = 2 * pictures.new_tensor(camera.offset)
        places = affine_grid(theta, [1, 1, *pictures.shape[-2:]], align_corners=False)
        return grid_sample(pictures, places, align_corners=False)

    def __call__(
        self, rgb: Tensor, prompt_utils: PromptOutput, render: dict[str, Tensor], c2w: Tensor, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Differences between the render and the picture.

        Args:
            rgb: the render `(1, size, size, 3)` from `camera_batch`.
            prompt_utils: what `imagedream-prompt-processor` returned.
            render: all that the renderer returned.
            c2w: the camera's matrix `(1, 4, 4)`.
            **kwargs: the rest of the camera's batch, not needed.

        Returns:
            `loss_color`, `loss_mask`, and `loss_depth` and `loss_normal` where there is a picture of them.
        """
        rgba = prompt_utils.images[self.cfg.picture].rgba[None].float()
        premultiplied = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
        rgba = self._resized(self._framed(premultiplied, prompt_utils))
        mask = rgba[..., 3:]
        target = rgba[..., :3] + render["comp_rgb_bg"].detach() * (1 - mask)
        inside = mask[..., 0] > 0.5
        losses = {
            "loss_color": self.cfg.color_weight * (rgb - target).square().mean(),
            "loss_mask": self.cfg.mask_weight * (render["opacity"] - mask).square().mean(),
        }
        if self.depth is not None:
            depth = render["depth"] / render["opacity"].clamp_min(1e-5)
            given = self._framed(self.depth.permute(0, 3, 1, 2), prompt_utils).permute(0, 2, 3, 1)
            pair = torch.stack([depth[inside][:, 0], given[inside][:, 0]])
            losses["loss_depth"] = self.cfg.depth_weight * (1 - torch.corrcoef(pair)[0, 1])
        if self.normals is not None:
            if "comp_normal" not in render:
                raise ValueError(
                    "normal_path needs rendered normals: a material with requires_normal (such as "
                    "diffuse-with-point-light-material) and system.renderer.return_comp_normal=true"
                )
            normals = render["comp_normal"] / render["opacity"].clamp_min(1e-5) * 2 - 1
            normals = normalize(normals, dim=-1) @ c2w[0, :3, :3].to(normals)
            given = self._framed(self.normals.permute(0, 3, 1, 2), prompt_utils).permute(0, 2, 3, 1)
            losses["loss_normal"] = self.cfg.normal_weight * (1 - (normals * given).sum(-1)[inside].mean())
        trust = prompt_utils.cameras[self.cfg.picture].certainty if self.cfg.camera == "estimate" else 1.0
        return {name: trust * loss for name, loss in losses.items()}


def _widening(camera: PromptCamera) -> float:
    """By how much a frame around the origin has to be larger than the picture's to hold all of that."""
    return 1 + 2 * max(abs(shift) for shift in camera.offset)
