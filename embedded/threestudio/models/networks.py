"""The encodings and the network that configs name, in plain PyTorch.

`HashGrid` follows Instant-NGP (Müller et al. 2022, §3) with tiny-cuda-nn's position convention and parameter layout, so
that one flat `params` vector means the same here and there.

Inside, features lie channel-first (feature, point) and are handed on as transposed views: BLAS multiplies the small
weight matrices with such long thin ones up to fifty times faster than with (point, feature).
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio.utils.ops import get_activation

_PRIMES = (1, 2654435761, 805459861)  # Instant-NGP eq. 4
_MAX_THREADS = 8


def _options(config: Mapping[str, Any], kind: str, **defaults: Any) -> dict[str, Any]:
    """The config's values over the defaults; an unknown key is an error that lists the known ones."""
    unknown = sorted(set(config) - set(defaults) - {"otype"})
    if unknown:
        raise ValueError(
            f"{kind} does not know the keys {unknown}; it knows {sorted(defaults)}, the rest is threestudio's"
        )
    return {key: config.get(key, default) for key, default in defaults.items()}


def _named(kind: str, known: Mapping[str, type], config: Mapping[str, Any]) -> type:
    """The class that `otype` names; otherwise an error that lists the known ones."""
    if config["otype"] not in known:
        raise ValueError(
            f"{kind} otype is {config['otype']!r}, known here are {', '.join(known)}; the rest is threestudio's"
        )
    return known[config["otype"]]


class GridLevel(NamedTuple):
    """One resolution of a `HashGrid`: where its rows lie in the table and how positions map to its cells."""

    scale: float
    resolution: int
    first_row: int
    rows: int

    @property
    def is_dense(self) -> bool:
        """Whether every grid vertex has a row of its own (otherwise vertices are hashed)."""
        return self.resolution**3 <= self.rows


def grid_levels(
    n_levels: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float
) -> list[GridLevel]:
    """Resolutions and table rows of all levels: scale = base·sˡ − 1, resolution = ⌈scale⌉ + 1, rows ≤ 2^log2_hashmap_size."""
    levels, first = [], 0
    # tiny-cuda-nn computes in float32: ⌈·⌉ of a scale that is a whole number in exact arithmetic depends on it
    log2_scale = torch.log2(torch.tensor(per_level_scale, dtype=torch.float32))
    for index in range(n_levels):
        scale = float(torch.exp2(index * log2_scale) * base_resolution - 1.0)
        resolution = math.ceil(scale) + 1
        rows = min((resolution**3 + 7) // 8 * 8, 2**log2_hashmap_size)
        levels.append(GridLevel(scale, resolution, first, rows))
        first += rows
    return levels


class HashGrid(nn.Module):
    """Multi-resolution feature grid, dense where a level fits into the table and hashed above.

    Twice differentiable in the positions (piecewise trilinear), as the orientation loss on analytic normals needs.
    Dense levels are read by `F.grid_sample`, about ten times faster on a CPU than gathering eight corners.
    Outside [0, 1] a dense level continues its border value.
    """

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        options = _options(
            config,
            "HashGrid",
            n_levels=16,
            n_features_per_level=2,
            log2_hashmap_size=19,
            base_resolution=16,
            per_level_scale=2.0,
        )
        self.n_features_per_level = int(options["n_features_per_level"])
        self.levels = grid_levels(
            int(options["n_levels"]),
            int(options["log2_hashmap_size"]),
            int(options["base_resolution"]),
            float(options["per_level_scale"]),
        )
        self.n_output_dims = len(self.levels) * self.n_features_per_level
        rows = self.levels[-1].first_row + self.levels[-1].rows
        self.params = nn.Parameter(torch.empty(rows * self.n_features_per_level).uniform_(-1e-4, 1e-4))

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point feature"]:
        """Features of all levels."""
        # one split, whose gradient is one concatenation; a slice a level would make a gradient of full size each
        tables = self.params.view(-1, self.n_features_per_level).split([level.rows for level in self.levels])
        features = [
            self.read_level(x, level, table).t() for level, table in zip(self.levels, tables, strict=True)
        ]
        return torch.cat(features).t()

    def read_level(
        self, x: Float[Tensor, "point 3"], level: GridLevel, table: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "point feature"]:
        """Interpolated features of one level, by the faster of the two ways.

        Not every release of torch can differentiate `F.grid_sample` twice, as analytic normals need.
        """
        sample = level.is_dense and not x.requires_grad
        return self._sample(x, level, table) if sample else self.gather(x, level, table)

    @staticmethod
    def _sample(
        x: Float[Tensor, "point 3"], level: GridLevel, table: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "point feature"]:
        size = level.resolution
        volume = table[: size**3].view(size, size, size, -1).permute(3, 0, 1, 2)[None]
        grid = (x * level.scale + 0.5) * (2 / max(size - 1, 1)) - 1  # (point, 3); x runs along the last axis
        # grid_sample on a CPU uses one thread an image: several images of the same volume use them all
        images = (
            min(torch.get_num_threads(), _MAX_THREADS) if x.device.type == "cpu" and len(x) >= 4096 else 1
        )
        padded = F.pad(grid, (0, 0, 0, -len(x) % images)) if len(x) % images else grid
        features = F.grid_sample(
            volume.expand(images, -1, -1, -1, -1),
            padded.view(images, -1, 1, 1, 3),
            padding_mode="border",
            align_corners=True,
        )  # (image, feature, point, 1, 1)
        return features.flatten(2).transpose(0, 1).flatten(1)[:, : len(x)].t()

    def gather(
        self, x: Float[Tensor, "point 3"], level: GridLevel, table: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "point feature"]:
        """The plain way: gather the cell's corners and weight them."""
        position = x * level.scale + 0.5
        corner = position.detach().floor()
        fraction = position - corner
        result = table.new_zeros(len(x), table.shape[1])
        for offset in itertools.product((0, 1), repeat=3):
            offset = torch.tensor(offset, device=x.device)
            weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=-1, keepdim=True)
            result = result + weight * table[self._rows_of(corner.long() + offset, level)]
        return result

    def _rows_of(self, vertex: Int[Tensor, "point 3"], level: GridLevel) -> Int[Tensor, " point"]:
        if level.is_dense:
            vertex = vertex.clamp(0, level.resolution - 1)
            strides = level.resolution ** torch.arange(3, device=vertex.device)
            return (vertex * strides).sum(dim=-1)
        row = vertex[:, 0]
        for axis in (1, 2):
            row = row ^ (vertex[:, axis] * _PRIMES[axis])
        return (
            row % level.rows
        )  # rows is a power of two here, so the upper bits of 64-bit products do not matter


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics (with Condon-Shortley sign) of the direction 2x − 1, degree d -> d² features."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.degree = int(_options(config, "SphericalHarmonics", degree=3)["degree"])
        if not 1 <= self.degree <= 3:
            raise ValueError(f"degree of SphericalHarmonics is {self.degree}, must be 1, 2 or 3 here")
        self.n_output_dims = self.degree**2
        self.params = nn.Parameter(torch.empty(0))

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point feature"]:
        x, y, z = (2 * x - 1).unbind(dim=-1)
        first = math.sqrt(3 / (4 * math.pi))
        second = math.sqrt(15 / (4 * math.pi))
        zonal = math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1)
        values = [torch.full_like(x, math.sqrt(1 / (4 * math.pi)))]
        values += [-first * y, first * z, -first * x]
        values += [second * x * y, -second * y * z, zonal, -second * x * z, second / 2 * (x * x - y * y)]
        return torch.stack(values[: self.n_output_dims], dim=-1)


class CompositeEncoding(nn.Module):
    """An encoding in a wrapper.

    threestudio has two of them around tiny-cuda-nn's, so there are two here: checkpoints of both hosts have the key
    `encoding.encoding.params`.
    """

    def __init__(self, encoding: nn.Module):
        super().__init__()
        self.encoding, self.n_output_dims = encoding, encoding.n_output_dims

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point feature"]:
        return self.encoding(x)


def get_encoding(n_input_dims: int, config: Mapping[str, Any]) -> CompositeEncoding:
    """The encoding that a config names; its 3 inputs are expected in [0, 1]."""
    known: dict[str, type] = {"HashGrid": HashGrid, "SphericalHarmonics": SphericalHarmonics}
    encoding = _named("encoding", known, config)(config)
    if n_input_dims != 3:
        raise ValueError(f"encodings have 3 inputs here, got {n_input_dims}; others are threestudio's")
    return CompositeEncoding(CompositeEncoding(encoding))


class VanillaMLP(nn.Module):
    """Linear layers without bias, computed in full precision whatever the autocast state."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]):
        super().__init__()
        options = _options(
            config,
            "VanillaMLP",
            activation="ReLU",
            output_activation=None,
            n_neurons=64,
            n_hidden_layers=1,
        )
        if str(options["activation"]).lower() != "relu":
            raise ValueError(f"activation of VanillaMLP is {options['activation']!r}, must be 'ReLU'")
        widths = [dim_in, *[int(options["n_neurons"])] * int(options["n_hidden_layers"]), dim_out]
        layers: list[nn.Module] = []
        for width, next_width in itertools.pairwise(widths):
            layers += [nn.Linear(width, next_width, bias=False), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_activation = get_activation(options["output_activation"])

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        with torch.autocast(device_type=x.device.type, enabled=False):
            hidden = x.to(self.layers[0].weight.dtype).reshape(-1, x.shape[-1]).t()  # (feature, point)
            for layer in self.layers:
                hidden = layer.weight @ hidden if isinstance(layer, nn.Linear) else layer(hidden)
            return self.output_activation(hidden.t()).view(*x.shape[:-1], -1)


def get_mlp(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> nn.Module:
    """The network that a config names."""
    return _named("network", {"VanillaMLP": VanillaMLP}, config)(n_input_dims, n_output_dims, config)
