"""The visual hull of views from several sides: whether they can be those of one object, and what it looks like between them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_fill_holes
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, max_pool2d

from imagedream.cameras import framing_distance, look_at_origin, project, rays
from imagedream.mesh import DensityGrid, render_field
from imagedream.mesh.field import ViewFunction

LIKELY_FOV_Y_DEG = 47.5
"""Vertical field of view that views are taken to have: the network is told of none; middle of the paper's [45, 50] (§4)."""

_SIZE_PX = 64
_SAMPLES = 96
_REACH = 1.5  # half diagonal of what a frame shows at the origin, in half frames, generously
_OPAQUE = 200.0  # density that stops light within a sample of the hull


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


def hull_renderer(
    images: Float[Tensor, "view 3 height width"],
    silhouettes: Bool[Tensor, "view height width"],
    azimuths_deg: Sequence[float],
    elevation_deg: float,
    fov_y_deg: float = LIKELY_FOV_Y_DEG,
    resolution: int = 64,
) -> ViewFunction:
    """A rough coloured object that four views show: their visual hull, painted with them, ready to be seen from anywhere.

    Each point takes the colours of the views that it faces and that nothing hides it from. The silhouettes are widened by
    a pixel, since made-up views never quite agree, and their holes are filled: on a plain background they are most often
    light parts of the object. World units are half a frame of the views at the origin, so a camera at
    `framing_distance(1, fov_y_deg)` sees the object at their size.

    Args:
        images: views on a plain background, pixels in [0, 1]; square.
        silhouettes: where they show the object.
        azimuths_deg: of the views' cameras, which look at the origin.
        elevation_deg: of all cameras.
        fov_y_deg: vertical field of view of all cameras.
        resolution: samples along each axis.

    Returns:
        A function of cameras, fields of view in degrees and size: premultiplied sRGB and opacity.

    Raises:
        ValueError: nothing lies inside all silhouettes.
    """
    filled = torch.from_numpy(np.stack([binary_fill_holes(one) for one in silhouettes.cpu().numpy()]))
    masks = filled[:, None].float()
    widened, core = max_pool2d(masks, 3, 1, 1), -max_pool2d(-masks, 3, 1, 1)
    fov = torch.full((len(images),), float(fov_y_deg))
    distance = framing_distance(1.0, fov)
    poses = look_at_origin(torch.tensor(float(elevation_deg)), torch.tensor(list(azimuths_deg)), distance)
    axis = torch.linspace(-1, 1, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    pixels, depths = project(points.expand(len(images), -1, -1), poses, fov, 2, 2)
    places = pixels[:, None] - 1  # [-1, 1] over the frame, as grid_sample counts
    inside = grid_sample(widened, places, align_corners=False)[:, 0, 0].amin(dim=0)
    if not (inside > 0.5).any():
        raise ValueError("the views have no visual hull: no point lies inside all of their silhouettes")

    def grid(values: Tensor) -> DensityGrid:
        return DensityGrid(values.reshape((resolution,) * 3), points[0], 2 / (resolution - 1))

    hull = grid(_OPAQUE * (inside * 2 - 1).clamp(0, 1))
    # where the hull begins in each view: its positions painted on it and seen from there
    seen = render_field(hull, lambda place: place / 2 + 0.5, poses, fov, _SIZE_PX)
    position = (seen[:, :3] / seen[:, 3:].clamp_min(1e-4) * 2 - 1).permute(0, 2, 3, 1).flatten(1, 2)
    _, first_depth = project(position, poses, fov, 2, 2)
    first_depth = first_depth.unflatten(1, (_SIZE_PX, _SIZE_PX))[:, None]
    hidden = depths - grid_sample(first_depth, places, align_corners=False)[:, 0, 0]
    normals = grid(inside).normals(points)
    facing = (normals * poses[:, None, :3, 2]).sum(-1).clamp_min(0.02) ** 2
    weights = facing * torch.exp(-((hidden.clamp_min(0) / (3 * hull.spacing)) ** 2)) + 1e-6
    # colours from within the silhouettes: their rims show the background too
    spread = torch.cat([images.cpu().float() * core, core + 1e-6], dim=1)
    spread = sum(4.0**-reach * avg_pool2d(spread, 2 * reach + 1, 1, reach) for reach in range(5))
    colours = grid_sample(spread, places, align_corners=False, padding_mode="border")[:, :, 0]
    paint = (colours[:, :3] / colours[:, 3:].clamp_min(1e-9) * weights[:, None]).sum(0) / weights.sum(0)
    paint = [grid(channel) for channel in paint.clamp(0, 1)]

    def render(camera_to_world: Tensor, fov_y_deg: Tensor, size: int) -> Tensor:
        return render_field(
            hull,
            lambda place: torch.stack([channel(place) for channel in paint], -1),
            camera_to_world,
            fov_y_deg,
            size,
        )

    return render
