"""Toys rendered once into a cache of tensors.

A sample is an object with several groups of four target views (one elevation, field of view and distance a group, a
random start azimuth) and several prompt views from the front half circle, each with its own camera and light. The
cache holds RGBA with straight alpha, so that every batch can choose its own backgrounds.
"""

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Float, Integer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from imagedream.cameras import framing_distance, look_at_origin, orthogonal_azimuths
from imagedream.image_prompt.prompt import place
from imagedream.mesh.raycast import Light, Raycaster
from imagedream.runs.files import atomic_path
from imagedream.toybox import FIRST_KINDS, KINDS, make_toy
from imagedream.workshop.workers import do_all

VIEWS = 4


@dataclass(frozen=True)
class SampleConfig:
    """What one object's training sample looks like. Ranges are uniform."""

    kinds: list[str] = field(default_factory=lambda: list(FIRST_KINDS))
    """Kinds of toys, drawn evenly; one that is named twice is drawn twice as often."""
    image_size: int = 64
    """Side of all views in pixels."""
    groups: int = 2
    """Groups of four target views an object."""
    prompts: int = 2
    """Prompt views an object."""
    elevation_deg: tuple[float, float] = (0.0, 20.0)
    """Target cameras."""
    fov_y_deg: tuple[float, float] = (45.0, 50.0)
    """Target cameras; the network is not told, so keep it narrow."""
    relative_distance: tuple[float, float] = (0.71, 0.75)
    """Target cameras: half the frame's height at the origin, in world units."""
    prompt_azimuth_deg: tuple[float, float] = (-90.0, 90.0)
    """Prompt cameras: the front half circle (paper §4)."""
    prompt_elevation_deg: tuple[float, float] = (0.0, 25.0)
    """Prompt cameras."""
    prompt_fov_y_deg: tuple[float, float] = (25.0, 55.0)
    """Prompt cameras."""
    prompt_fraction: tuple[float, float] = (0.8, 0.95)
    """The prompt object's longest side over the frame's; image_prompt.py prepares pictures at 0.90."""
    prompt_light: str = "random"
    """`random`: each prompt view has a light of its own (ImageDream's future work, paper §5); `fixed`: all have the
    targets'."""

    def __post_init__(self):
        unknown = set(self.kinds) - set(KINDS)
        if unknown or not self.kinds:
            raise ValueError(f"kinds has unknown {sorted(unknown)}; the toybox knows {', '.join(KINDS)}")
        for name in ("image_size", "groups", "prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.prompt_light not in ("random", "fixed"):
            raise ValueError(f"prompt_light is {self.prompt_light!r}, must be random or fixed")

    @property
    def digest(self) -> str:
        """A name for samples made like this.

        Options that came later count where they differ from what was there before, so that older caches stay good.
        """
        settings = asdict(self)
        if self.prompt_light == "random":
            del settings["prompt_light"]
        return sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def uniform(low_high: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform draws from a range."""
    low, high = low_high
    return low + (high - low) * torch.rand(shape, generator=generator)


@dataclass(frozen=True)
class PromptDraw:
    """How one prompt view is taken."""

    fov_y_deg: Float[Tensor, " 1"]
    elevation_deg: Float[Tensor, " 1"]
    azimuth_deg: Float[Tensor, " 1"]
    light: Light
    fraction: float
    """See `SampleConfig.prompt_fraction`."""


@dataclass(frozen=True)
class SampleDraws:
    """All that is random in a sample, besides the toy itself."""

    kind: str
    azimuths_deg: Float[Tensor, "group view"]
    elevations_deg: Float[Tensor, " group"]
    fov_y_deg: Float[Tensor, " group"]
    relative_distance: Float[Tensor, " group"]
    prompts: tuple[PromptDraw, ...]


def draw_sample(seed: int, config: SampleConfig) -> SampleDraws:
    """Kind, cameras and lights of the sample of a seed; takes no time, so the cache need not hold all of it."""
    generator = torch.Generator().manual_seed(seed)
    kind = config.kinds[int(torch.randint(len(config.kinds), (), generator=generator))]
    groups = (config.groups,)
    azimuths = orthogonal_azimuths(uniform((0.0, 360.0), groups, generator))
    elevations = uniform(config.elevation_deg, groups, generator)
    fov = uniform(config.fov_y_deg, groups, generator)
    distance = uniform(config.relative_distance, groups, generator)
    prompts = []
    for _ in range(config.prompts):
        camera = [
            uniform(low_high, (1,), generator)
            for low_high in (
                config.prompt_fov_y_deg,
                config.prompt_elevation_deg,
                config.prompt_azimuth_deg,
            )
        ]
        light = Light.random(generator) if config.prompt_light == "random" else Light()
        fraction = float(uniform(config.prompt_fraction, (), generator))
        prompts.append(PromptDraw(*camera, light, fraction))
    return SampleDraws(kind, azimuths, elevations, fov, distance, tuple(prompts))


def render_sample(seed: int, config: SampleConfig) -> dict[str, Tensor | str]:
    """One object's sample, fully determined by its seed.

    Returns:
        `targets` uint8 (group, 4, 4, size, size), `azimuths_deg` (group, 4), `elevations_deg` (group,), `prompts`
        uint8 (prompt, 4, size, size), `caption`.
    """
    draws = draw_sample(seed, config)
    toy = make_toy(seed, draws.kind)
    raycaster = Raycaster(toy.mesh)

    fov, distance = draws.fov_y_deg, framing_distance(draws.relative_distance, draws.fov_y_deg)
    cameras = look_at_origin(draws.elevations_deg[:, None], draws.azimuths_deg, distance[:, None])
    targets = raycaster.render(
        cameras.flatten(0, 1), fov[:, None].expand(-1, VIEWS).flatten(), config.image_size
    ).rgba.unflatten(0, (-1, VIEWS))

    prompts = []
    for prompt in draws.prompts:
        fov = prompt.fov_y_deg
        camera = look_at_origin(prompt.elevation_deg, prompt.azimuth_deg, framing_distance(0.75, fov))
        # larger and without supersampling: placing the object in the frame filters it anyway
        view = raycaster.render(camera, fov, config.image_size * 2, prompt.light, supersample=1).rgba[0]
        prompts.append(place(view, config.image_size, prompt.fraction))
    to_bytes = lambda image: (image * 255).round().to(torch.uint8)  # noqa: E731
    return {
        "targets": to_bytes(targets),
        "azimuths_deg": draws.azimuths_deg,
        "elevations_deg": draws.elevations_deg,
        "prompts": to_bytes(torch.stack(prompts)),
        "caption": toy.caption,
    }


def _render_shard(task: tuple[Path, range], config: SampleConfig) -> None:
    path, seeds = task
    samples = [render_sample(seed, config) for seed in seeds]
    captions = [sample.pop("caption") for sample in samples]
    tensors = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"captions": json.dumps(captions)})


class SampleCache:
    """Rendered samples on disk, made once by several processes and memory-mapped afterwards.

    Args:
        folder: parent of one folder a configuration; what is there is used again.
        objects: how many objects.
        config: how they are rendered.
        first_seed: seed of the first object.
    """

    SHARD = 128

    def __init__(self, folder: Path, objects: int, config: SampleConfig, first_seed: int = 0) -> None:
        self.config, self.objects, self.first_seed = config, objects, first_seed
        self.folder = Path(folder) / f"toybox-{config.image_size}-{config.digest}"
        self._shards: dict[int, tuple[dict[str, Tensor], list[str]]] = {}

    def __len__(self) -> int:
        return self.objects

    def _shard_path(self, shard: int) -> Path:
        return self.folder / f"{self.first_seed + shard * self.SHARD:08d}.safetensors"

    def build(self, workers: int | None = None) -> None:
        """Render the shards that are missing, over so many processes; all cores when None."""
        starts = range(self.first_seed, self.first_seed + self.objects, self.SHARD)
        missing = [
            (path, range(start, start + self.SHARD))
            for shard, start in enumerate(starts)
            if not (path := self._shard_path(shard)).exists()
        ]
        do_all(partial(_render_shard, config=self.config), missing, workers, "rendering toys", "shard")

    def _shard(self, shard: int) -> tuple[dict[str, Tensor], list[str]]:
        if shard not in self._shards:
            with safe_open(self._shard_path(shard), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                self._shards[shard] = tensors, json.loads(file.metadata()["captions"])
        return self._shards[shard]

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """Samples of the given objects, one random group and one random prompt each, as floats in [0, 1].

        Returns:
            `targets` (batch, 4, 4, size, size), `azimuths_deg` (batch, 4), `elevations_deg` (batch,), `prompts`
            (batch, 4, size, size), `prompt_azimuths_deg` (batch,), `captions`, `objects`.
        """
        groups = torch.randint(self.config.groups, indices.shape, generator=generator)
        prompts = torch.randint(self.config.prompts, indices.shape, generator=generator)
        rows = []
        for index, group, prompt in zip(indices.tolist(), groups.tolist(), prompts.tolist(), strict=True):
            tensors, captions = self._shard(index // self.SHARD)
            row = index % self.SHARD
            rows.append(
                {
                    "targets": tensors["targets"][row, group].float() / 255,
                    "azimuths_deg": tensors["azimuths_deg"][row, group],
                    "elevations_deg": tensors["elevations_deg"][row, group],
                    "prompts": tensors["prompts"][row, prompt].float() / 255,
                    "prompt_azimuths_deg": draw_sample(self.first_seed + index, self.config)
                    .prompts[prompt]
                    .azimuth_deg[0],
                    "captions": captions[row],
                    "objects": f"toy of seed {self.first_seed + index}",
                }
            )
        return {
            key: [row[key] for row in rows]
            if isinstance(rows[0][key], str)
            else torch.stack([row[key] for row in rows])
            for key in rows[0]
        }
