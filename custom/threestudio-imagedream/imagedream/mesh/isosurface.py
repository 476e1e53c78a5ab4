"""Which isosurface of a density field is its surface: the one whose silhouettes agree best with the rendered field."""

import logging
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from imagedream.mesh.field import (
    DensityFunction,
    DensityGrid,
    render_field,
    sample_box,
    sphere_views,
    visible_density,
)
from imagedream.mesh.raycast import render
from imagedream.mesh.surface import EmptyFieldError, clean_surface, extract_surface
from imagedream.pictures import stack_under_headings, to_pil

logger = logging.getLogger(__name__)
_MARGIN_PX = 8
_DISTINCT = 0.2  # levels whose logarithms are closer give surfaces that look the same


@dataclass(frozen=True)
class LevelChoice:
    """The isosurface level that won, with what every level that was tried scored."""

    level: float
    iou: float
    tried: dict[float, float]
    """Silhouette IoU by level."""


@torch.no_grad()
def sample_density(
    density_fn: DensityFunction,
    resolution: int,
    radius: float,
    level: float | None = None,
    min_piece: float = 0.02,
    device: torch.device | str = "cpu",
) -> DensityGrid:
    """Sample a density field on a fine grid around the object in it.

    A coarse pass over the whole cube finds the box of the object, so that the resolution is not spent on air or haze.

    Args:
        density_fn: the field.
        resolution: samples along the longest side of that box.
        radius: half side of the cube around the origin, in world units.
        level: isosurface level of the object; None estimates it with `choose_level`.
        min_piece: as in `clean_surface`; pieces far below it do not widen the box.
        device: where the field wants its points; the grid itself stays on the CPU.

    Raises:
        EmptyFieldError: no density is large enough to be seen.
        ValueError: the density is not finite.
    """
    corner = torch.full((3,), float(radius))
    coarse = sample_box(density_fn, -corner, corner, min(64, resolution), device=device)
    highest, visible = float(coarse.density.max()), visible_density(radius)
    if highest <= visible:
        raise EmptyFieldError(
            f"the field is empty: its largest density is {highest:.3g} per unit length, but nothing is visible "
            f"below {visible:.3g} (half opacity through the whole cube of half side {radius})"
        )
    if level is None:
        camera_to_world, fov_y_deg = sphere_views(radius * 3**0.5, count=4)
        opacity = render_field(coarse, None, camera_to_world, fov_y_deg, 64)[:, 3]
        level = choose_level(coarse, opacity, camera_to_world, fov_y_deg, visible, candidates=6).level
    # thin parts are fainter and more broken on the coarse grid than they are: be generous
    surface, _ = clean_surface(extract_surface(coarse, min(level, highest) / 2), min_piece / 2)
    lower, upper = torch.tensor(surface.bounds, dtype=torch.float32)
    margin = 2 * coarse.spacing
    air = functional.max_pool3d(coarse.density[None, None], 3, stride=1, padding=1)[0, 0]
    return sample_box(
        density_fn,
        (lower - margin).clamp_min(-radius),
        (upper + margin).clamp_max(radius),
        resolution,
        DensityGrid(air, coarse.lower, coarse.spacing),
        device,
    )


def silhouette_iou(
    alpha: Float[Tensor, "view height width"], opacity: Float[Tensor, "view height width"]
) -> float:
    """Intersection over union of a mesh's silhouettes and a field's: where its rendered opacity exceeds ½.

    That outline is the opaque shape with the least squared error. A field that is never half opaque is cut at half
    of its largest opacity.
    """
    field, mesh = opacity > min(0.5, float(opacity.max()) / 2), alpha > 0.5
    return float((field & mesh).sum() / (field | mesh).sum().clamp_min(1))


def choose_level(
    grid: DensityGrid,
    opacity: Float[Tensor, "view height height"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    lowest: float,
    min_piece: float = 0.02,
    candidates: int = 7,
) -> LevelChoice:
    """Find the isosurface level whose silhouettes agree best with the field's rendered opacity.

    Logarithmically spaced levels first, then the neighbourhood of the best one at a quarter of that spacing.

    Args:
        grid: the density.
        opacity: of the field, rendered from the cameras.
        camera_to_world: OpenGL cameras.
        fov_y_deg: vertical fields of view.
        lowest: lowest level worth trying, such as `visible_density`.
        min_piece: as in `clean_surface`, so that dropped pieces count as missing.
        candidates: levels in the first pass.

    Returns:
        The best level, its IoU, and the IoU of all levels tried.
    """
    grid = _for_silhouettes(grid)
    highest = 0.9 * float(grid.density.max())
    lowest = min(lowest, 0.5 * highest)
    tried: dict[float, float] = {}

    def score(level: float) -> None:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece)
        silhouette = render(
            surface, camera_to_world, fov_y_deg, opacity.shape[-1], light=None, supersample=1
        ).rgba[:, 3]
        tried[level] = silhouette_iou(silhouette, opacity)

    levels = np.geomspace(lowest, highest, candidates)
    for level in levels:
        score(float(level))
    ratio = float(levels[1] / levels[0])
    best = max(tried, key=tried.__getitem__)
    for exponent in (-0.5, -0.25, 0.25, 0.5):
        if best * ratio**exponent < highest:
            score(best * ratio**exponent)
    best = max(tried, key=tried.__getitem__)
    for level in sorted(tried):
        logger.info(
            "level %8.3f: silhouette IoU %.3f%s", level, tried[level], "  <- chosen" if level == best else ""
        )
    return LevelChoice(best, tried[best], dict(sorted(tried.items())))


def _for_silhouettes(grid: DensityGrid) -> DensityGrid:
    while max(grid.density.shape) > 80:
        grid = grid.halved()  # silhouettes of a few dozen pixels need no more
    return grid


def level_thumbnails(
    grid: DensityGrid, choice: LevelChoice, min_piece: float = 0.02, runners_up: int = 3, size: int = 200
) -> PIL.Image.Image:
    """What other levels would have given: the chosen surface and the next best distinct ones, best first, four views each.

    Args:
        grid: the density.
        choice: of `choose_level`.
        min_piece: as in `clean_surface`.
        runners_up: how many rows below the chosen one.
        size: side of a view in pixels, before its empty margin is cut off.
    """
    grid = _for_silhouettes(grid)
    half_extent = float(torch.stack([grid.lower, grid.upper]).abs().amax(0).norm())
    camera_to_world, fov_y_deg = sphere_views(half_extent, count=4)
    scores = {choice.level: choice.iou, **choice.tried}
    shown: list[float] = []
    for level in sorted(scores, key=scores.__getitem__, reverse=True):
        if all(abs(np.log(level / other)) > _DISTINCT for other in shown):
            shown.append(level)
    shown = shown[: runners_up + 1]
    views = []
    for level in shown:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece, smoothing=2)
        views.append(render(surface, camera_to_world, fov_y_deg, size).rgba)
    # the same frame for all, without the empty margin
    filled = torch.stack(views)[:, :, 3].amax((0, 1)) > 0
    rows, columns = filled.any(1).nonzero()[:, 0], filled.any(0).nonzero()[:, 0]
    top, left = max(0, int(rows[0]) - _MARGIN_PX), max(0, int(columns[0]) - _MARGIN_PX)
    pictures = []
    for level, rgba in zip(shown, views, strict=True):
        rgba = rgba[..., top : int(rows[-1]) + _MARGIN_PX, left : int(columns[-1]) + _MARGIN_PX]
        white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
        heading = f"isosurface_threshold {level:.4g}: silhouette IoU {scores[level]:.3f}"
        heading += " (chosen)" if level == choice.level else ""
        pictures.append((heading, to_pil(torch.cat(list(white), dim=-1))))
    return stack_under_headings(pictures)
