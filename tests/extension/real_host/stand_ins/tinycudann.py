"""Stand-in for tiny-cuda-nn on a machine without CUDA: the encodings the tests need, and a host that stays on the CPU.

threestudio imports this module before anything of its own that asks for a device, which makes it the place to say
that there is only the CPU. The hash grid is written from Instant-NGP (Müller et al. 2022, §3), not from the embedded
host's, so that comparing the two means something.
"""

import contextlib
import itertools
import math
import sys
import types

import nerfacc
import pytorch_lightning
import torch
from torch import nn

# --------------------------------------------------------------------------------------------------------- devices


class _OnlyCpu(types.ModuleType):
    @property
    def get_device(self):  # wins over the function that the module defines after importing us
        return lambda: torch.device("cpu")


sys.modules["threestudio.utils.misc"].__class__ = _OnlyCpu
torch.cuda.device = lambda index: contextlib.nullcontext()
_trainer_init = pytorch_lightning.Trainer.__init__


def _cpu_trainer(self, **options):
    _trainer_init(self, **{**options, "accelerator": "cpu", "devices": 1})


pytorch_lightning.Trainer.__init__ = _cpu_trainer


def free_temporary_memory():
    pass


# ------------------------------------------------------------------------------------------------------- encodings


class Encoding(nn.Module):
    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=torch.float32):
        super().__init__()
        self.config, kind = encoding_config, encoding_config["otype"]
        self.encode = {"HashGrid": self.hash_grid, "SphericalHarmonics": self.harmonics}[kind]
        generator = torch.Generator().manual_seed(seed)
        if kind == "HashGrid":
            self.levels, rows = [], 0
            for level in range(encoding_config["n_levels"]):
                # in single precision, where a whole number may come out a bit above itself
                growth = torch.log2(torch.tensor(encoding_config["per_level_scale"])) * level
                scale = (torch.exp2(growth) * encoding_config["base_resolution"] - 1).item()
                side = math.ceil(scale) + 1
                size = min(-(-(side**3) // 8) * 8, 2 ** encoding_config["log2_hashmap_size"])
                self.levels.append((scale, side, rows, size))
                rows += size
            features = encoding_config["n_features_per_level"]
            self.n_output_dims = features * len(self.levels)
            values = (torch.rand(rows * features, generator=generator) * 2 - 1) * 1e-4
        else:
            assert encoding_config["degree"] == 3
            self.n_output_dims, values = 9, torch.zeros(0)
        self.params = nn.Parameter(values)

    def forward(self, x):
        return self.encode(x)

    def hash_grid(self, x):
        table = self.params.view(-1, self.config["n_features_per_level"])
        result = []
        for scale, side, first, size in self.levels:
            position = x * scale + 0.5
            corner = position.floor().detach()
            fraction, corner, total = position - corner, corner.long(), 0
            for offset in itertools.product((0, 1), repeat=3):
                cx, cy, cz = (corner + torch.tensor(offset)).unbind(-1)
                if side**3 <= size:
                    row = cx + side * cy + side**2 * cz
                else:
                    row = (cx ^ cy * 2654435761 ^ cz * 805459861) & 0xFFFFFFFF
                near = torch.where(torch.tensor(offset) == 1, fraction, 1 - fraction).prod(-1, keepdim=True)
                total = total + near * table[first + row % size]
            result.append(total)
        return torch.cat(result, -1)

    def harmonics(self, x):
        x, y, z = (2 * x - 1).unbind(-1)
        one, two, r3 = math.sqrt(3 / math.pi) / 2, math.sqrt(15 / math.pi) / 2, math.sqrt(5 / math.pi) / 4
        bands = [
            torch.full_like(x, math.sqrt(1 / math.pi) / 2),
            *(-one * y, one * z, -one * x),
            *(two * x * y, -two * y * z, r3 * (3 * z**2 - 1), -two * x * z, two / 2 * (x**2 - y**2)),
        ]
        return torch.stack(bands, -1)


# ------------------------------------------------------------- what nerfacc can do with packed samples on CUDA only


def _sum_before(values, ray_indices, n_rays):
    """Exclusive running sum within each ray, by a table (ray, sample of the ray)."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    rank = torch.arange(len(values)) - (counts.cumsum(0) - counts)[ray_indices]
    table = values.new_zeros(n_rays, int(counts.max()) if len(values) else 1)
    table = table.index_put((ray_indices, rank), values)
    return (table.cumsum(1) - table)[ray_indices, rank]


def render_weight_from_density(t_starts, t_ends, sigmas, *, ray_indices, n_rays):
    depth = sigmas * (t_ends - t_starts)
    transmittance, alpha = torch.exp(-_sum_before(depth, ray_indices, n_rays)), 1 - torch.exp(-depth)
    return transmittance * alpha, transmittance, alpha


def _sampling(
    self,
    rays_o,
    rays_d,
    sigma_fn=None,
    near_plane=0.0,
    far_plane=1e10,
    render_step_size=1e-3,
    early_stop_eps=1e-4,
    alpha_thre=0.0,
    stratified=False,
    cone_angle=0.0,
):
    low, high = self.aabbs[0, :3], self.aabbs[0, 3:]
    reach = rays_o.norm(dim=-1).max() + torch.maximum(low.abs(), high.abs()).norm()
    origin = near_plane + render_step_size * torch.rand(len(rays_o)) * float(stratified)
    start = origin[:, None] + render_step_size * torch.arange(math.ceil(reach / render_step_size))
    middle = start + render_step_size / 2
    cell = (rays_o[:, None] + rays_d[:, None] * middle[..., None] - low) / (high - low) * self.resolution
    inside = ((cell >= 0) & (cell < self.resolution)).all(-1) & (middle < far_plane)
    x, y, z = cell.long().clamp(torch.tensor(0), self.resolution - 1).unbind(-1)
    ray, step = (inside & self.binaries[0][x, y, z]).nonzero(as_tuple=True)
    start = start[ray, step]
    end = start + render_step_size
    if sigma_fn is not None and len(ray):
        density = sigma_fn(start, end, ray)
        _, transmittance, alpha = render_weight_from_density(
            start, end, density, ray_indices=ray, n_rays=len(rays_o)
        )
        keep = (transmittance >= early_stop_eps) & (alpha >= min(alpha_thre, self.occs.mean().item()))
        ray, start, end = ray[keep], start[keep], end[keep]
    return ray, start, end


nerfacc.render_weight_from_density = render_weight_from_density
nerfacc.OccGridEstimator.sampling = torch.no_grad()(_sampling)
