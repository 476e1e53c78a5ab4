"""Encodings and small networks by the names and keys that threestudio's configs use, in plain PyTorch.

`HashGrid` follows Instant-NGP (Müller et al. 2022, §3) with tiny-cuda-nn's position convention and parameter layout, so
that one flat `params` vector means the same here and there. Where `tinycudann` can be imported and CUDA is there, its
encodings and networks are used.

Inside, features lie channel-first (feature, point) and are handed on as transposed views: BLAS multiplies the small
weight matrices with such long thin ones up to fifty times faster than with (point, feature).
"""

import importlib.util
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio.utils.base import Updateable
from threestudio.utils.ops import get_activation

_PRIMES = (1, 2654435761, 805459861, 3674653429)  # Instant-NGP eq. 4
_MAX_THREADS = 8


def _tinycudann() -> Any | None:
    """The tinycudann module where it is installed and a CUDA device is there, else None."""
    if torch.cuda.is_available() and importlib.util.find_spec("tinycudann") is not None:
        import tinycudann

        return tinycudann
    return None


def _options(config: Mapping[str, Any], kind: str, **defaults: Any) -> dict[str, Any]:
    """The config's values over the defaults; an unknown key is an error that lists the known ones."""
    unknown = sorted(set(config) - set(defaults) - {"otype", "include_xyz"})
    if unknown:
        raise ValueError(f"{kind} does not know the keys {unknown}; it knows {sorted(defaults)}")
    return {key: config.get(key, default) for key, default in defaults.items()}


class GridLevel(NamedTuple):
    """One resolution of a `HashGrid`: where its rows lie in the table and how positions map to its cells."""

    scale: float
    resolution: int
    first_row: int
    rows: int

    def is_dense(self, n_dims: int) -> bool:
        """Whether every grid vertex has a row of its own (otherwise vertices are hashed)."""
        return self.resolution**n_dims <= self.rows


def grid_levels(
    n_dims: int, n_levels: int, log2_hashmap_size: int, base_resolution: int, per_level_scale: float
) -> list[GridLevel]:
    """Resolutions and table rows of all levels: scale = base·sˡ − 1, resolution = ⌈scale⌉ + 1, rows ≤ 2^log2_hashmap_size."""
    levels, first = [], 0
    # tiny-cuda-nn computes in float32: ⌈·⌉ of a scale that is a whole number in exact arithmetic depends on it
    log2_scale = torch.log2(torch.tensor(per_level_scale, dtype=torch.float32))
    for index in range(n_levels):
        scale = float(torch.exp2(index * log2_scale) * base_resolution - 1.0)
        resolution = math.ceil(scale) + 1
        rows = min((resolution**n_dims + 7) // 8 * 8, 2**log2_hashmap_size)
        levels.append(GridLevel(scale, resolution, first, rows))
        first += rows
    return levels


class HashGrid(nn.Module):
    """Multi-resolution feature grid, dense where a level fits into the table and hashed above.

    Twice differentiable in the positions (piecewise trilinear), as the orientation loss on analytic normals needs.
    Dense 3-D levels are read by `F.grid_sample`, about ten times faster on a CPU than gathering eight corners.
    Outside [0, 1] a dense level continues its border value.
    """

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]):
        super().__init__()
        options = _options(
            config,
            "HashGrid",
            n_levels=16,
            n_features_per_level=2,
            log2_hashmap_size=19,
            base_resolution=16,
            per_level_scale=2.0,
            type="Hash",
        )
        if options["type"] != "Hash":
            raise ValueError(f"grid type is {options['type']!r}, must be 'Hash'")
        self.n_input_dims = n_input_dims
        self.n_features_per_level = int(options["n_features_per_level"])
        self.levels = grid_levels(
            n_input_dims,
            int(options["n_levels"]),
            int(options["log2_hashmap_size"]),
            int(options["base_resolution"]),
            float(options["per_level_scale"]),
        )
        self.n_output_dims = len(self.levels) * self.n_features_per_level
        rows = self.levels[-1].first_row + self.levels[-1].rows
        self.params = nn.Parameter(torch.empty(rows * self.n_features_per_level).uniform_(-1e-4, 1e-4))

    def forward(
        self, x: Float[Tensor, "point dim"], active_levels: int | None = None
    ) -> Float[Tensor, "point feature"]:
        """Features of all levels; those from `active_levels` on are zero and cost nothing."""
        active = self.levels[:active_levels]
        # one split, whose gradient is one concatenation; a slice a level would make a gradient of full size each
        tables = self.params.view(-1, self.n_features_per_level).split([level.rows for level in self.levels])
        features = [
            self.read_level(x, level, table).t() for level, table in zip(active, tables, strict=False)
        ]
        silent = (len(self.levels) - len(active)) * self.n_features_per_level
        if silent:
            features.append(x.new_zeros(silent, len(x)))
        return torch.cat(features).t()

    def read_level(
        self, x: Float[Tensor, "point dim"], level: GridLevel, table: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "point feature"]:
        """Interpolated features of one level, by the faster of the two ways."""
        if self.n_input_dims == 3 and level.is_dense(3):
            return self._sample(x, level, table)
        return self.gather(x, level, table)

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
        self, x: Float[Tensor, "point dim"], level: GridLevel, table: Float[Tensor, "row feature"]
    ) -> Float[Tensor, "point feature"]:
        """The plain way, for any number of dimensions: gather the cell's corners and weight them."""
        position = x * level.scale + 0.5
        corner = position.detach().floor()
        fraction = position - corner
        result = table.new_zeros(len(x), table.shape[1])
        for offset in itertools.product((0, 1), repeat=self.n_input_dims):
            offset = torch.tensor(offset, device=x.device)
            weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=-1, keepdim=True)
            result = result + weight * table[self._rows_of(corner.long() + offset, level)]
        return result

    def _rows_of(self, vertex: Int[Tensor, "point dim"], level: GridLevel) -> Int[Tensor, " point"]:
        if level.is_dense(self.n_input_dims):
            vertex = vertex.clamp(0, level.resolution - 1)
            strides = level.resolution ** torch.arange(self.n_input_dims, device=vertex.device)
            return (vertex * strides).sum(dim=-1)
        row = vertex[:, 0]
        for axis in range(1, self.n_input_dims):
            row = row ^ (vertex[:, axis] * _PRIMES[axis])
        return (
            row % level.rows
        )  # rows is a power of two here, so the upper bits of 64-bit products do not matter


class Frequency(nn.Module):
    """sin and cos of 2ˡ·π·x, for every input dimension one after the other."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]):
        super().__init__()
        n_frequencies = int(_options(config, "Frequency", n_frequencies=12)["n_frequencies"])
        self.n_output_dims = n_input_dims * n_frequencies * 2
        self.params = nn.Parameter(torch.empty(0))
        self.register_buffer("factors", math.pi * 2.0 ** torch.arange(n_frequencies), persistent=False)

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        phase = x[:, :, None] * self.factors
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1)


class SphericalHarmonics(nn.Module):
    """Real spherical harmonics (with Condon-Shortley sign) of the direction 2x − 1, degree d -> d² features."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]):
        super().__init__()
        self.degree = int(_options(config, "SphericalHarmonics", degree=4)["degree"])
        if n_input_dims != 3 or self.degree < 1:
            raise ValueError(
                f"SphericalHarmonics got {n_input_dims} inputs and degree {self.degree}, wants 3 and at least 1"
            )
        self.n_output_dims = self.degree**2
        self.params = nn.Parameter(torch.empty(0))

    def forward(self, x: Float[Tensor, "point 3"]) -> Float[Tensor, "point feature"]:
        x, y, z = (2 * x - 1).unbind(dim=-1)
        values: dict[tuple[int, int], Tensor] = {}
        cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # real and imaginary part of (x + iy)ᵐ
        diagonal = 1.0  # Legendre polynomial of degree m and order m, without its (x² + y²) part
        for m in range(self.degree):
            legendre = {m: torch.full_like(z, diagonal), m - 1: torch.zeros_like(z)}
            for n in range(m, self.degree):
                if n > m:
                    legendre[n] = ((2 * n - 1) * z * legendre[n - 1] - (n + m - 1) * legendre[n - 2]) / (
                        n - m
                    )
                norm = math.sqrt((2 * n + 1) / (4 * math.pi) * math.factorial(n - m) / math.factorial(n + m))
                norm *= math.sqrt(2) if m else 1.0
                values[n, m] = norm * legendre[n] * cosine
                if m:
                    values[n, -m] = norm * legendre[n] * sine
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
            diagonal *= -(2 * m + 1)
        return torch.stack([values[n, m] for n in range(self.degree) for m in range(-n, n + 1)], dim=-1)


class Identity(nn.Module):
    """The input times `scale` plus `offset`."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]):
        super().__init__()
        options = _options(config, "Identity", scale=1.0, offset=0.0)
        self.scale, self.offset, self.n_output_dims = options["scale"], options["offset"], n_input_dims
        self.params = nn.Parameter(torch.empty(0))

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point dim"]:
        return x * self.scale + self.offset


_PLAIN_ENCODINGS = {
    "HashGrid": HashGrid,
    "Grid": HashGrid,
    "Frequency": Frequency,
    "SphericalHarmonics": SphericalHarmonics,
    "Identity": Identity,
}


class TCNNEncoding(nn.Module):
    """An encoding of tiny-cuda-nn: the library's own where it runs, its plain counterpart elsewhere."""

    def __init__(self, n_input_dims: int, config: Mapping[str, Any]):
        super().__init__()
        library = _tinycudann()
        if library is not None:
            self.encoding = library.Encoding(n_input_dims, dict(config), dtype=torch.float32)
        elif config["otype"] in _PLAIN_ENCODINGS:
            self.encoding = _PLAIN_ENCODINGS[config["otype"]](n_input_dims, config)
        else:
            known = sorted([*_PLAIN_ENCODINGS, "ProgressiveBandFrequency", "ProgressiveBandHashGrid"])
            raise ValueError(f"encoding otype is {config['otype']!r}, known here are {known}")
        self.n_input_dims, self.n_output_dims = n_input_dims, self.encoding.n_output_dims

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        return self.encoding(x)


class ProgressiveBandFrequency(nn.Module, Updateable):
    """sin and cos of 2ˡ·x, whose higher bands fade in over `n_masking_step` steps (SAPE-like cosine window)."""

    def __init__(self, in_channels: int, config: Mapping[str, Any]):
        super().__init__()
        options = _options(config, "ProgressiveBandFrequency", n_frequencies=12, n_masking_step=0)
        self.N_freqs, self.n_masking_step = int(options["n_frequencies"]), int(options["n_masking_step"])
        self.n_input_dims, self.n_output_dims = in_channels, in_channels * 2 * self.N_freqs
        self.update_step(None, None)

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        bands = [
            function(2.0**band * x) * float(mask)
            for band, mask in enumerate(self.mask)
            for function in (torch.sin, torch.cos)
        ]
        return torch.cat(bands, dim=-1)

    def update_step(self, epoch, global_step, on_load_weights: bool = False) -> None:
        if self.n_masking_step <= 0 or global_step is None:
            self.mask = torch.ones(self.N_freqs)
        else:
            progress = global_step / self.n_masking_step * self.N_freqs - torch.arange(self.N_freqs)
            self.mask = (1 - torch.cos(math.pi * progress.clamp(0, 1))) / 2


class ProgressiveBandHashGrid(nn.Module, Updateable):
    """A `HashGrid` whose finer levels join one by one: `start_level` at once, one more every `update_steps` steps."""

    def __init__(self, in_channels: int, config: Mapping[str, Any]):
        super().__init__()
        progressive = {key: int(config[key]) for key in ("start_level", "start_step", "update_steps")}
        grid = {key: value for key, value in config.items() if key not in progressive}
        self.encoding = TCNNEncoding(in_channels, {**grid, "otype": "HashGrid"}).encoding
        self.n_input_dims, self.n_output_dims = in_channels, self.encoding.n_output_dims
        self.n_level, self.n_features_per_level = int(config["n_levels"]), int(config["n_features_per_level"])
        self.start_level, self.start_step, self.update_steps = progressive.values()
        self.current_level = min(self.start_level, self.n_level)

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        if isinstance(self.encoding, HashGrid):
            return self.encoding(x, self.current_level)
        features = self.encoding(x)
        mask = (
            torch.arange(features.shape[-1], device=x.device) < self.current_level * self.n_features_per_level
        )
        return features * mask

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        joined = max(global_step - self.start_step, 0) // self.update_steps
        self.current_level = min(self.start_level + joined, self.n_level)


class CompositeEncoding(nn.Module, Updateable):
    """An encoding, with the input mapped to [−1, 1] put before it when `include_xyz` is set."""

    def __init__(
        self, encoding: nn.Module, include_xyz: bool = False, xyz_scale: float = 2.0, xyz_offset: float = -1.0
    ):
        super().__init__()
        self.encoding = encoding
        self.include_xyz, self.xyz_scale, self.xyz_offset = include_xyz, xyz_scale, xyz_offset
        self.n_output_dims = int(include_xyz) * encoding.n_input_dims + encoding.n_output_dims

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        features = self.encoding(x)
        return (
            torch.cat([x * self.xyz_scale + self.xyz_offset, features], dim=-1)
            if self.include_xyz
            else features
        )


def get_encoding(n_input_dims: int, config: Mapping[str, Any]) -> CompositeEncoding:
    """The encoding that a config names; its input is expected in [0, 1]."""
    kinds = {
        "ProgressiveBandFrequency": ProgressiveBandFrequency,
        "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
    }
    encoding = kinds.get(config["otype"], TCNNEncoding)(n_input_dims, config)
    return CompositeEncoding(encoding, include_xyz=bool(config.get("include_xyz", False)))


class VanillaMLP(nn.Module):
    """Linear layers without bias, computed in full precision whatever the autocast state."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]):
        super().__init__()
        options = _options(
            config,
            str(config["otype"]),
            activation="ReLU",
            output_activation=None,
            n_neurons=64,
            n_hidden_layers=1,
        )
        if str(options["activation"]).lower() != "relu":
            raise ValueError(f"activation of {config['otype']} is {options['activation']!r}, must be 'ReLU'")
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


class TCNNNetwork(nn.Module):
    """A fused network of tiny-cuda-nn, its output cast to float32."""

    def __init__(self, dim_in: int, dim_out: int, config: Mapping[str, Any]):
        super().__init__()
        self.network = _tinycudann().Network(dim_in, dim_out, dict(config))

    def forward(self, x: Float[Tensor, "*batch feature"]) -> Float[Tensor, "*batch output"]:
        return self.network(x.flatten(0, -2)).float().view(*x.shape[:-1], -1)


def get_mlp(n_input_dims: int, n_output_dims: int, config: Mapping[str, Any]) -> nn.Module:
    """The network that a config names; fused ones are plain ones without bias where tiny-cuda-nn cannot run."""
    known = ("VanillaMLP", "FullyFusedMLP", "CutlassMLP")
    if config["otype"] not in known:
        raise ValueError(f"network otype is {config['otype']!r}, known here are {list(known)}")
    if config["otype"] != "VanillaMLP" and _tinycudann() is not None:
        return TCNNNetwork(n_input_dims, n_output_dims, config)
    return VanillaMLP(n_input_dims, n_output_dims, config)


class NetworkWithInputEncoding(nn.Module, Updateable):
    """An encoding followed by a network."""

    def __init__(self, encoding: nn.Module, network: nn.Module):
        super().__init__()
        self.encoding, self.network = encoding, network

    def forward(self, x: Float[Tensor, "point dim"]) -> Float[Tensor, "point output"]:
        return self.network(self.encoding(x))


def create_network_with_input_encoding(
    n_input_dims: int,
    n_output_dims: int,
    encoding_config: Mapping[str, Any],
    network_config: Mapping[str, Any],
) -> NetworkWithInputEncoding:
    """`get_encoding` followed by `get_mlp`."""
    encoding = get_encoding(n_input_dims, encoding_config)
    return NetworkWithInputEncoding(encoding, get_mlp(encoding.n_output_dims, n_output_dims, network_config))


class ToDTypeWrapper(nn.Module):
    """A module whose output is cast to `dtype`."""

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.module(x).to(self.dtype)
