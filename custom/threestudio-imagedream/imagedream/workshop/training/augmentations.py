"""Changes to objects' pictures that make a network take what real prompts are like. All are off by default.

Both are CRM's (Wang et al., arXiv 2403.05034, §3.2), which fine-tunes ImageDream. Single pictures, which fill their frame,
stay as they are.
"""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, pad

from imagedream.workshop.training.random_draws import uniform
from imagedream.workshop.training.train_config import AugmentationConfig

OPAQUE = 0.5
"""From this alpha on a pixel is inside the contour."""


def augment(batch: dict, config: AugmentationConfig, generator: torch.Generator) -> dict:
    """A batch with its pictures changed as the config says; nothing is drawn for what is off."""
    if "azimuths_deg" not in batch:
        return batch
    targets, prompts = batch["targets"], batch["prompts"]
    if config.object_scale != (1.0, 1.0):
        scales = uniform(config.object_scale, (len(prompts),), generator)
        targets, prompts = (
            torch.stack([shrink(rgba, float(scale)) for rgba, scale in zip(pictures, scales, strict=True)])
            for pictures in (targets, prompts)
        )
    if config.contour_probability:
        low, high = config.contour_px
        chosen = torch.rand(len(prompts), generator=generator) < config.contour_probability
        colours = torch.rand(len(prompts), 3, generator=generator)
        widths = torch.randint(low, high + 1, (len(prompts),), generator=generator)
        prompts = torch.stack(
            [
                draw_contour(rgba, colour, int(width)) if draw else rgba
                for rgba, draw, colour, width in zip(prompts, chosen, colours, widths, strict=True)
            ]
        )
    return {**batch, "targets": targets, "prompts": prompts}


def shrink(
    rgba: Float[Tensor, "*picture 4 size size"], scale: float
) -> Float[Tensor, "*picture 4 size size"]:
    """Pictures reduced around the middle of their frame, with nothing around them; straight alpha."""
    size = rgba.shape[-1]
    inner = max(1, round(size * scale))
    if inner == size:
        return rgba
    flat = rgba.reshape(-1, 4, size, size)
    premultiplied = torch.cat([flat[:, :3] * flat[:, 3:], flat[:, 3:]], dim=1)
    smaller = interpolate(premultiplied, (inner, inner), mode="bilinear", antialias=True)
    before = (size - inner) // 2
    after = size - inner - before
    framed = pad(smaller, (before, after, before, after))
    colour = (framed[:, :3] / framed[:, 3:].clamp_min(1e-4)).clamp(0, 1)
    return torch.cat([colour, framed[:, 3:].clamp(0, 1)], dim=1).reshape(rgba.shape)


def draw_contour(
    rgba: Float[Tensor, "4 size size"], colour: Float[Tensor, " 3"], width_px: int
) -> Float[Tensor, "4 size size"]:
    """A picture with an opaque line along the edge of its silhouette, holes included."""
    mask = (rgba[3] >= OPAQUE).numpy().astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    line = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, width_px)
    opaque = torch.cat([colour, colour.new_ones(1)])[:, None, None]
    return torch.where(torch.from_numpy(line).bool(), opaque, rgba)
