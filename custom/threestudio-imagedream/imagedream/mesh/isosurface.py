"""Which isosurface of a density field is its surface: the one whose silhouettes agree best with the rendered field."""

import logging

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
from imagedream.mesh.raycast import Raycaster
from imagedream.mesh.surface import EmptyFieldError, clean_surface, extract_surface
from imagedream.metrics import silhouette_iou
from imagedream.pictures import stack_under_headings, to_pil

logger = logging.getLogger(__name__)
_MARGIN_PX = 8
_DISTINCT = 0.2  # levels whose logarithms are closer give surfaces that look the same


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
        level, _ = choose_level(coarse, opacity, camera_to_world, fov_y_deg, visible, candidates=6)
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


def outline_iou(
    alpha: Float[Tensor, "view height width"], opacity: Float[Tensor, "view height width"]
) -> float:
    """Intersection over union of a mesh's silhouettes and a field's, all views together.

    The field's silhouette is where its rendered opacity exceeds ½, the opaque shape with the least squared error; a field
    that is never half opaque is cut at half of its largest opacity.
    """
    field, mesh = opacity > min(0.5, float(opacity.max()) / 2), alpha > 0.5
    return silhouette_iou(mesh.flatten(0, 1)[None], field.flatten(0, 1)[None]).item()


def choose_level(
    grid: DensityGrid,
    opacity: Float[Tensor, "view height height"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    lowest: float,
    min_piece: float = 0.02,
    candidates: int = 7,
) -> tuple[float, dict[float, float]]:
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
        The best level, and the silhouette IoU by level of all that were tried.
    """
    grid = _for_silhouettes(grid)
    highest = 0.9 * float(grid.density.max())
    levels = np.geomspace(min(lowest, 0.5 * highest), highest, candidates)
    tried: dict[float, float] = {}

    def score(level: float) -> None:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece)
        shown = Raycaster(surface).depth(camera_to_world, fov_y_deg, opacity.shape[-1]).isfinite()
        tried[level] = outline_iou(shown.float(), opacity)

    for level in levels.tolist():
        score(level)
    ratio = float(levels[1] / levels[0])
    best = max(tried, key=tried.__getitem__)
    for exponent in (-0.5, -0.25, 0.25, 0.5):
        if best * ratio**exponent < highest:
            score(best * ratio**exponent)
    best = max(tried, key=tried.__getitem__)
    tried = dict(sorted(tried.items()))
    for level, iou in tried.items():
        chosen = "  <- chosen" if level == best else ""
        logger.info("level %8.3f: silhouette IoU %.3f%s", level, iou, chosen)
    return best, tried


def _for_silhouettes(grid: DensityGrid) -> DensityGrid:
    while max(grid.density.shape) > 80:
        grid = grid.halved()  # silhouettes of a few dozen pixels need no more
    return grid


def level_thumbnails(
    grid: DensityGrid,
    chosen: float,
    tried: dict[float, float],
    min_piece: float = 0.02,
    rows: int = 4,
    size: int = 200,
) -> PIL.Image.Image:
    """What the best levels give, those left out that look like a better one: four views each, best first.

    Args:
        grid: the density.
        chosen: the best level.
        tried: silhouette IoU by level, of `choose_level`.
        min_piece: as in `clean_surface`.
        rows: how many levels.
        size: side of a view in pixels, before its empty margin is cut off.
    """
    grid = _for_silhouettes(grid)
    camera_to_world, fov_y_deg = sphere_views(grid.half_extent, count=4)
    shown: list[float] = []
    for level in sorted(tried, key=lambda level: (level == chosen, tried[level]), reverse=True):
        if all(abs(np.log(level / other)) > _DISTINCT for other in shown):
            shown.append(level)
    views = []
    for level in shown[:rows]:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece, smoothing=2)
        views.append(Raycaster(surface).render(camera_to_world, fov_y_deg, size))
    # the same frame for all, without the empty margin
    filled = torch.stack([view.rgba[:, 3] for view in views]).amax((0, 1)) > 0
    left, top, right, bottom = PIL.Image.fromarray(filled.numpy()).getbbox()
    pictures = []
    for level, view in zip(shown, views, strict=False):
        heading = f"isosurface_threshold {level:.4g}: silhouette IoU {tried[level]:.3f}"
        cut = view.over_white[..., top:bottom, left:right]
        row = torch.cat(list(functional.pad(cut, (_MARGIN_PX,) * 4, value=1.0)), dim=-1)
        pictures.append((f"{heading} (chosen)" if level == chosen else heading, to_pil(row)))
    return stack_under_headings(pictures)
