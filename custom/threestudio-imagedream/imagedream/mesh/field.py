"""A radiance field: sampled on a grid, and rendered by the usual quadrature of emission and absorption."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from imagedream import cameras

_POINTS_PER_CALL = 2**18
_RAYS_PER_CALL = 2**13
_AIR = 0.03  # density per unit length: 3% opacity over one unit

DensityFunction = Callable[[Tensor], Tensor]
"""World points (point, 3) -> density per unit length (point,)."""

ColourFunction = Callable[[Tensor], Tensor]
"""World points (point, 3) -> sRGB colour in [0, 1] (point, 3)."""

ViewFunction = Callable[[Tensor, Tensor, int], Tensor]
"""Cameras (view, 4, 4), fields of view in degrees (view,), size -> premultiplied sRGB and opacity (view, 4, size, size)."""


@dataclass(frozen=True)
class DensityGrid:
    """Density sampled at the corners of cubic cells, read back by trilinear interpolation."""

    density: Float[Tensor, "x y z"]
    lower: Float[Tensor, "3"]
    """World position of the first sample."""
    spacing: float
    """Distance between neighbouring samples in world units."""

    @property
    def upper(self) -> Float[Tensor, "3"]:
        """World position of the last sample."""
        return self.lower + self.spacing * (self.lower.new_tensor(self.density.shape) - 1)

    @property
    def half_extent(self) -> float:
        """Radius of the sphere around the origin in which the grid lies."""
        return float(torch.stack([self.lower, self.upper]).abs().amax(0).norm())

    def halved(self) -> "DensityGrid":
        """Every second sample of this grid."""
        return DensityGrid(self.density[::2, ::2, ::2].contiguous(), self.lower, 2 * self.spacing)

    def __call__(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density at world points; 0 outside the grid."""
        return self._read(self.density[None], points)[0]

    def normals(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Unit normals of the isosurfaces at world points: against the gradient. 0 where there is none."""
        gradient = torch.stack(torch.gradient(self.density, spacing=self.spacing))
        return -functional.normalize(self._read(gradient, points).movedim(0, -1), dim=-1)

    def _read(self, values: Float[Tensor, "channel x y z"], points: Float[Tensor, "*batch 3"]) -> Tensor:
        """Values at the samples, interpolated at world points: (channel, *batch)."""
        unit = (points - self.lower) / (self.upper - self.lower) * 2 - 1
        # grid_sample counts (x, y, z) from the last axis to the first
        read = functional.grid_sample(
            values[None],
            unit.flip(-1).reshape(1, -1, 1, 1, 3),
            align_corners=True,
            padding_mode="zeros",
        )
        return read.reshape(len(values), *points.shape[:-1])


def visible_density(radius: float) -> float:
    """The density at which the longest axis-parallel ray through a cube of half side `radius` is half opaque."""
    return float(np.log(2) / (2 * radius))


@torch.no_grad()
def query(
    function: DensityFunction | ColourFunction,
    points: Float[Tensor, "point 3"],
    device: torch.device | str = "cpu",
) -> Float[Tensor, "point *channel"]:
    """Values of a function at many points, some at a time on the device where it wants them; they come back to the CPU."""
    return torch.cat([function(part.to(device)).float().cpu() for part in points.split(_POINTS_PER_CALL)])


def sample_box(
    density_fn: DensityFunction,
    lower: Float[Tensor, "3"],
    upper: Float[Tensor, "3"],
    resolution: int,
    bound: DensityGrid | None = None,
    device: torch.device | str = "cpu",
) -> DensityGrid:
    """Sample a density field in a box, `resolution` times along its longest side; see `sample_density`.

    Args:
        density_fn: the field.
        lower: first corner.
        upper: opposite corner.
        resolution: samples along the longest side.
        bound: a rough upper bound of the density; where it says air, the field is not asked and taken as 0.
        device: where the field wants its points.
    """
    spacing = float((upper - lower).max()) / (resolution - 1)
    counts = [int(n) for n in ((upper - lower) / spacing).round().long() + 1]
    axes = [lower[i] + spacing * torch.arange(counts[i]) for i in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    asked = torch.arange(len(points)) if bound is None else (bound(points) > _AIR).nonzero()[:, 0]
    values = torch.zeros(len(points))
    for part in asked.split(_POINTS_PER_CALL):
        values[part] = query(density_fn, points[part], device).reshape(-1)
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"the density is not finite at {bad} of {len(values)} sampled points")
    return DensityGrid(values.reshape(*counts), lower, spacing)


def sphere_views(
    half_extent: float, count: int = 8, fov_y_deg: float = 40.0
) -> tuple[Float[Tensor, "{count} 4 4"], Float[Tensor, "{count}"]]:
    """Camera-to-world matrices around a sphere of radius `half_extent` that fills them, and their fields of view."""
    elevation_deg = torch.tensor([10.0, 40.0, -25.0, 25.0]).repeat(count // 4 + 1)[:count]
    return _framed(half_extent, elevation_deg, cameras.orthogonal_azimuths(0.0, count), fov_y_deg)


def spread_views(
    half_extent: float, count: int, fov_y_deg: float = 40.0
) -> tuple[Float[Tensor, "{count} 4 4"], Float[Tensor, "{count}"]]:
    """As `sphere_views`, but spread evenly over the whole sphere, top and bottom too (a golden spiral)."""
    height = 1 - (2 * torch.arange(count) + 1) / count
    golden_deg = 180 * (3 - 5**0.5)
    azimuth_deg = torch.arange(count) * golden_deg % 360
    return _framed(half_extent, torch.rad2deg(torch.asin(height)).clamp(-80, 80), azimuth_deg, fov_y_deg)


def _framed(half_extent: float, elevation_deg: Tensor, azimuth_deg: Tensor, fov_y_deg: float):
    fov = torch.full_like(elevation_deg, fov_y_deg)
    distance = half_extent / torch.sin(torch.deg2rad(fov) / 2)
    return cameras.look_at_origin(elevation_deg, azimuth_deg, distance), fov


@torch.no_grad()
def render_field(
    grid: DensityGrid,
    colour_fn: ColourFunction | None,
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    size: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "view 4 {size} {size}"]:
    """Volume-render a field: premultiplied sRGB and opacity.

    Args:
        grid: the density.
        colour_fn: the colour; None leaves the colour channels black.
        camera_to_world: OpenGL cameras.
        fov_y_deg: vertical fields of view.
        size: side of the square views in pixels.
        device: where `colour_fn` wants its points.
    """
    views = []
    for origins, directions in zip(*cameras.rays(camera_to_world, fov_y_deg, size, size), strict=True):
        origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
        safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
        ends = torch.stack([(grid.lower - origins) / safe, (grid.upper - origins) / safe])
        near, far = ends.amin(0).amax(-1).clamp_min(0), ends.amax(0).amin(-1)
        length = far - near
        hit = (length > 0).nonzero()[:, 0]
        # rays of similar length share their number of steps
        hit = hit[length[hit].argsort()]
        out = torch.zeros(len(origins), 4)
        for part in hit.split(_RAYS_PER_CALL):
            steps = int((length[part].max() / grid.spacing).ceil())
            out[part] = composite(
                grid, colour_fn, origins[part], directions[part], near[part], far[part], steps, device
            )
        views.append(out.T.reshape(4, size, size))
    return torch.stack(views)


def composite(
    grid: DensityGrid,
    colour_fn: ColourFunction | None,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    near: Float[Tensor, " ray"],
    far: Float[Tensor, " ray"],
    steps: int,
    device: torch.device | str = "cpu",
    colours_per_ray: int = 4,
) -> Float[Tensor, "ray 4"]:
    """Premultiplied colour and opacity of rays through a field, by the usual quadrature of emission and absorption.

    The colour is asked for only `colours_per_ray` times, at evenly spaced quantiles of where the light comes from.
    """
    delta = (far - near) / steps
    middles = near[:, None] + delta[:, None] * (torch.arange(steps) + 0.5)  # (ray, step)
    tau = grid(origins[:, None] + directions[:, None] * middles[..., None]) * delta[:, None]
    arrived = 1 - torch.exp(-tau.cumsum(-1))  # light stopped up to the end of each step
    out = torch.zeros(len(tau), 4)
    out[:, 3] = arrived[:, -1]
    lit = (out[:, 3] > 1e-4).nonzero()[:, 0]
    if colour_fn is None or len(lit) == 0:
        return out
    arrived = functional.pad(arrived[lit], (1, 0))  # (ray, step + 1)
    targets = arrived[:, -1:] * (torch.arange(colours_per_ray) + 0.5) / colours_per_ray
    step = torch.searchsorted(arrived, targets).clamp(1, steps) - 1
    before, after = arrived.gather(1, step), arrived.gather(1, step + 1)
    inside = ((targets - before) / (after - before).clamp_min(1e-12)).clamp(0, 1)
    depth = near[lit, None] + delta[lit, None] * (step + inside)
    points = origins[lit, None] + directions[lit, None] * depth[..., None]
    colours = query(colour_fn, points.reshape(-1, 3), device).clamp(0, 1)
    out[lit, :3] = colours.reshape(len(lit), -1, 3).mean(1) * out[lit, 3:]
    return out
