"""The visual hull of views from several sides: whether they can be those of one object."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from imagedream.cameras import framing_distance, look_at_origin, project, rays

LIKELY_FOV_Y_DEG = 47.5
"""Vertical field of view that views are taken to have: the network is told of none; middle of the paper's [45, 50] (§4)."""

_SIZE_PX = 64
_SAMPLES = 96
_REACH = 1.5  # half diagonal of what a frame shows at the origin, in half frames, generously


def hull_agreement(
    silhouettes: Bool[Tensor, "view height width"],
    azimuths_deg: Sequence[float],
    elevation_deg: float,
    fov_y_deg: float = LIKELY_FOV_Y_DEG,
) -> Float[Tensor, " view"]:
    """Share of each silhouette that the visual hull of all of them still covers.

    The visual hull is the largest object that no silhouette contradicts (Laurentini 1994); seen from the same cameras it
    never covers more than the silhouettes. True views of any object score 1. Where a view shows something that the
    others leave no room for, that part of its silhouette is lost. What is wrong in the same way in all views, or hidden
    inside the silhouettes, is not found.

    A pixel is covered when some point on its ray lies inside all other silhouettes, which are widened by one pixel of
    64 × 64 against rounding.

    Args:
        silhouettes: where each view shows the object; square.
        azimuths_deg: of the views' cameras, which look at the origin from distances that show it at one scale.
        elevation_deg: of all cameras.
        fov_y_deg: vertical field of view of all cameras.

    Returns:
        Values in [0, 1]; 0 for an empty silhouette.

    Raises:
        ValueError: fewer than two views, views that are not square, or not an azimuth for each.
    """
    views, height, width = silhouettes.shape
    if views < 2 or views != len(azimuths_deg) or height != width:
        raise ValueError(
            f"{views} silhouettes of {height} x {width} pixels with {len(azimuths_deg)} azimuths; "
            "needed are two or more square ones with an azimuth each"
        )
    shown = interpolate(silhouettes[:, None].float(), (_SIZE_PX, _SIZE_PX), mode="area")[:, 0] > 0.5
    widened = max_pool2d(shown[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    fov = torch.full((views,), float(fov_y_deg))
    # in units of half a frame at the origin, so that the distance follows from the field of view
    distance = framing_distance(1.0, fov)
    poses = look_at_origin(torch.tensor(float(elevation_deg)), torch.tensor(azimuths_deg), distance)
    origins, directions = rays(poses, fov, _SIZE_PX, _SIZE_PX)
    depths = distance[0] + torch.linspace(-_REACH, _REACH, _SAMPLES)
    covered = []
    for view in range(views):
        start, along = origins[view][shown[view]], directions[view][shown[view]]
        points = start[:, None] + depths[:, None] * along[:, None]  # (pixel, sample, 3)
        inside = torch.ones(points.shape[:2], dtype=torch.bool)
        for other in range(views):
            if other != view:
                pixels, _ = project(points.flatten(0, 1), poses[other], fov[other], _SIZE_PX, _SIZE_PX)
                inside &= _look_up(widened[other], pixels).view_as(inside)
        covered.append(inside.any(dim=1).float().mean() if len(points) else torch.tensor(0.0))
    return torch.stack(covered)


def _look_up(
    silhouette: Bool[Tensor, "height width"], pixels: Float[Tensor, "point 2"]
) -> Bool[Tensor, " point"]:
    """Whether points of the frame lie in the silhouette; outside of the frame nothing does."""
    height, width = silhouette.shape
    column, row = pixels.floor().long().unbind(-1)
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return within & silhouette[row.clamp(0, height - 1), column.clamp(0, width - 1)]
