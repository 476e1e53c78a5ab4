"""Where to put samples along rays (occupancy grid) and how to add them up (packed volume rendering).

Samples are packed: those of all rays lie in one axis, sorted by ray, and `ray_indices` names each one's ray. Formulas,
constants and names of buffers are nerfacc's, as threestudio uses it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

DensityFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(t_starts, t_ends, ray_indices) of packed samples -> their densities."""

_LATTICE_CHUNK = 2**21
"""Lattice points (ray × step) that the marcher looks at in one go; bounds memory to some tens of MB."""

_FIRST_SAMPLES = 16
"""Samples of each ray whose densities are looked at before those behind them."""

LEAST_TRANSMITTANCE, LEAST_ALPHA = 1e-4, 0.01
"""Of samples that are kept: those behind opaque ones, and transparent ones, are left out."""

UPDATE_EVERY, WARM_UP_STEPS, DECAY, OCCUPIED = 16, 256, 0.95, 0.01
"""Of the grid: steps between updates; steps in which all cells are looked at; of the running maxima; density × step of
an occupied cell."""


def render_weight_from_density(
    t_starts: Float[Tensor, " sample"],
    t_ends: Float[Tensor, " sample"],
    density: Float[Tensor, " sample"],
    ray_indices: Int[Tensor, " sample"],
    n_rays: int,
) -> tuple[Float[Tensor, " sample"], Float[Tensor, " sample"], Float[Tensor, " sample"]]:
    """Volume rendering weights w = T·α with T = exp(−Σ_before σδ) and α = 1 − exp(−σδ) (Mildenhall et al. 2020, eq. 3).

    Args:
        t_starts: where each sample's interval starts on its ray, in world units.
        t_ends: where it ends.
        density: per world unit.
        ray_indices: sorted.
        n_rays: number of rays, of which some may have no sample.

    Returns:
        Weights, transmittances and alphas of the samples.
    """
    optical_depth = density * (t_ends - t_starts)
    transmittance = torch.exp(-_sum_before_on_ray(optical_depth, ray_indices, n_rays))
    alpha = -torch.expm1(-optical_depth)
    return transmittance * alpha, transmittance, alpha


def _sum_before_on_ray(
    values: Float[Tensor, " sample"], ray_indices: Int[Tensor, " sample"], n_rays: int
) -> Float[Tensor, " sample"]:
    # One running sum over all rays, less its value where the sample's ray begins; in double precision, because that
    # difference of large numbers would lose the small ones.
    before = values.double().cumsum(0) - values
    counts = torch.bincount(ray_indices, minlength=n_rays)
    first = (counts.cumsum(0) - counts).clamp_(max=max(len(values) - 1, 0))
    return (before - before[first].repeat_interleave(counts)).to(values.dtype)


def accumulate_along_rays(
    weights: Float[Tensor, " sample"],
    values: Float[Tensor, "sample channel"] | None,
    ray_indices: Int[Tensor, " sample"],
    n_rays: int,
) -> Float[Tensor, "ray channel"]:
    """Sum of weights × values over each ray's samples; without values, of the weights alone (one channel)."""
    weighted = weights[:, None] if values is None else weights[:, None] * values
    result = weighted.new_zeros(n_rays, weighted.shape[1])
    return result.scatter_add(0, ray_indices[:, None].expand_as(weighted), weighted)


class OccGridEstimator(nn.Module):
    """A grid of running density maxima that tells which cells of the box are worth sampling (Instant-NGP, appendix C).

    Buffers: `occs` the running maxima of density × step, `binaries` which cells are occupied.
    """

    def __init__(self, roi_aabb: Float[Tensor, " 6"], resolution: int = 32):
        super().__init__()
        self.cells_per_level = resolution**3
        self.register_buffer("resolution", torch.full((3,), resolution, dtype=torch.int32))
        self.register_buffer("aabbs", torch.as_tensor(roi_aabb, dtype=torch.float32).reshape(1, 6))
        self.register_buffer("occs", torch.zeros(self.cells_per_level))
        self.register_buffer("binaries", torch.zeros(1, *[resolution] * 3, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self, step: int, occupancy: Callable[[Float[Tensor, "point 3"]], Float[Tensor, "point 1"]]
    ) -> None:
        """Every 16 steps: look at one random point of each cell and update the maxima and the occupied cells.

        From step 256 on a random quarter of the cells and up to as many occupied ones are looked at. Occupied are cells
        above min(0.01, the mean).

        Args:
            step: the training step.
            occupancy: density × step size at world points.
        """
        if step % UPDATE_EVERY != 0:
            return
        resolution, device = int(self.resolution[0]), self.occs.device
        cells = torch.arange(self.cells_per_level, device=device)
        if step >= WARM_UP_STEPS:
            quarter = self.cells_per_level // 4
            occupied = self.binaries.flatten().nonzero()[:, 0]
            if len(occupied) > quarter:
                occupied = occupied[torch.randperm(len(occupied), device=device)[:quarter]]
            cells = torch.cat([torch.randint(self.cells_per_level, (quarter,), device=device), occupied])
        corner = torch.stack(
            [cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=-1
        )
        low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
        points = low + (corner + torch.rand_like(corner, dtype=torch.float32)) / resolution * (high - low)
        decayed = self.occs.clone()
        decayed[cells] *= DECAY  # a cell drawn twice decays once
        self.occs.copy_(decayed.scatter_reduce(0, cells, occupancy(points)[:, 0], "amax"))
        self.binaries.copy_((self.occs > self.occs.mean().clamp(max=OCCUPIED)).view_as(self.binaries))

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Float[Tensor, "ray 3"],
        rays_d: Float[Tensor, "ray 3"],
        step: float,
        density: DensityFunction | None = None,
        jitter: bool = False,
    ) -> tuple[Int[Tensor, " sample"], Float[Tensor, " sample"], Float[Tensor, " sample"]]:
        """Fixed steps from the origin on; a step counts when its midpoint lies in an occupied cell.

        Args:
            rays_o: origins in world units.
            rays_d: directions; step sizes are in their length.
            step: length of a step.
            density: where given, samples too transparent or behind too opaque ones are left out.
            jitter: shift the steps of each ray by a random part of a step.

        Returns:
            Ray indices (sorted), starts and ends of the samples' intervals.
        """
        origin_t = torch.zeros_like(rays_o[:, 0])
        if jitter:
            origin_t += torch.rand_like(origin_t) * step
        entry, leave = self._occupied_span(rays_o, rays_d)
        first = ((entry - origin_t) / step - 0.5).floor().clamp(min=0)
        steps = torch.where(leave > entry, ((leave - origin_t) / step - 0.5).ceil() - first + 1, 0).clamp(
            min=0
        )

        marched = []
        for begin, end in self._ray_chunks(steps):
            index = slice(begin, end)
            ray, number = self._occupied_steps(
                rays_o[index], rays_d[index], origin_t[index], first[index], steps[index], step
            )
            start = origin_t[index][ray] + number * step
            marched.append((ray + begin, start, start + step))
        ray_indices, t_starts, t_ends = (torch.cat(parts) for parts in zip(*marched, strict=True))

        if density is None:
            return ray_indices, t_starts, t_ends
        keep = self._visible(ray_indices, t_starts, t_ends, density, len(rays_o))
        return ray_indices[keep], t_starts[keep], t_ends[keep]

    def _visible(self, ray_indices, t_starts, t_ends, density_at, n_rays) -> Int[Tensor, " kept"]:
        """Which samples are opaque enough and not hidden.

        Looks at each ray's first samples first, then at twice as many, and nowhere behind what is opaque.
        """
        least_alpha = min(LEAST_ALPHA, self.occs.mean().item())
        counts = torch.bincount(ray_indices, minlength=n_rays)
        every = torch.arange(len(ray_indices), device=ray_indices.device)
        rank = every - (counts.cumsum(0) - counts).repeat_interleave(counts)
        transmitted = t_starts.new_ones(n_rays)
        waiting, reach, kept = every, _FIRST_SAMPLES, [every[:0]]
        while len(waiting):
            near = rank[waiting] < reach
            now, waiting = waiting[near], waiting[~near]
            rays, starts, ends = ray_indices[now], t_starts[now], t_ends[now]
            density = density_at(starts, ends, rays).view(-1)
            _, transmittance, alpha = render_weight_from_density(starts, ends, density, rays, n_rays)
            is_lit = transmittance * transmitted[rays] >= LEAST_TRANSMITTANCE
            kept.append(now[is_lit & (alpha >= least_alpha)])
            optical_depth = accumulate_along_rays(density * (ends - starts), None, rays, n_rays)[:, 0]
            transmitted = transmitted * torch.exp(-optical_depth)
            waiting = waiting[transmitted[ray_indices[waiting]] >= LEAST_TRANSMITTANCE]
            reach *= 2
        return torch.cat(kept).sort().values

    def _occupied_span(
        self, rays_o: Float[Tensor, "ray 3"], rays_d: Float[Tensor, "ray 3"]
    ) -> tuple[Float[Tensor, " ray"], Float[Tensor, " ray"]]:
        """Where rays enter and leave the bounding box of the occupied cells; leave < entry for those that miss it."""
        low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
        occupied = self.binaries[0].nonzero()
        if len(occupied) == 0:
            return rays_o.new_ones(len(rays_o)), rays_o.new_zeros(len(rays_o))
        cell = (high - low) / self.resolution
        box_low, box_high = low + occupied.amin(0) * cell, low + (occupied.amax(0) + 1) * cell
        direction = torch.where(rays_d.abs() < 1e-10, 1e-10, rays_d)
        to_low, to_high = (box_low - rays_o) / direction, (box_high - rays_o) / direction
        return torch.minimum(to_low, to_high).amax(1).clamp(min=0), torch.maximum(to_low, to_high).amin(1)

    @staticmethod
    def _ray_chunks(steps: Float[Tensor, " ray"]) -> list[tuple[int, int]]:
        rays = max(_LATTICE_CHUNK // max(int(steps.max()), 1), 1) if len(steps) else 1
        return [(begin, min(begin + rays, len(steps))) for begin in range(0, max(len(steps), 1), rays)]

    def _occupied_steps(self, rays_o, rays_d, origin_t, first, steps, step):
        """(ray, step number) pairs of one chunk whose midpoints lie in occupied cells, on the (ray, step) lattice."""
        low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
        resolution = self.binaries.shape[1]
        per_unit = resolution / (high - low)
        count = int(steps.max()) if len(steps) else 0
        number = torch.arange(count, device=rays_o.device, dtype=rays_o.dtype)
        # position of step k in cells = start + k · advance
        start = (rays_o + rays_d * (origin_t + (first + 0.5) * step)[:, None] - low) * per_unit
        advance = rays_d * step * per_unit
        inside = number < steps[:, None]
        cell = torch.zeros_like(inside, dtype=torch.int32)
        for axis in range(3):
            position = torch.addcmul(start[:, axis, None], advance[:, axis, None], number)
            inside &= (position >= 0) & (position < resolution)
            cell = cell * resolution + position.to(torch.int32).clamp_(0, resolution - 1)
        inside &= self.binaries.flatten()[cell]
        ray, number = inside.nonzero(as_tuple=True)
        return ray, first[ray] + number
