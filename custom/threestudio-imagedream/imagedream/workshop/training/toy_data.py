"""Toys rendered once into a cache of tensors.

A sample is an object with several groups of four target views (one elevation, field of view and distance a group, a
random start azimuth) and several prompt views from the front half circle, each with its own camera and light. The
cache holds RGBA with straight alpha, so that every batch can choose its own backgrounds.
"""

import json
import math
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import Integer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import default_collate

from imagedream.cameras import framing_distance, look_at_origin, orthogonal_azimuths
from imagedream.image_prompt.prompt import place
from imagedream.mesh.raycast import Light, Raycaster
from imagedream.runs.files import atomic_path
from imagedream.toybox import make_toy
from imagedream.workshop.training.random_draws import uniform
from imagedream.workshop.training.train_config import VIEWS, SampleConfig
from imagedream.workshop.workers import do_all

FORMAT = 2
"""Of the files; another number lets them be made again."""


def render_sample(seed: int, config: SampleConfig) -> dict[str, Tensor | str]:
    """One object's sample, fully determined by its seed.

    Returns:
        `targets` uint8 (group, 4, 4, size, size), `azimuths_deg` (group, 4), `elevations_deg` (group,), `prompts`
        uint8 (prompt, 4, size, size), `prompt_azimuths_deg` (prompt,), `caption`.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = config.kinds[int(torch.randint(len(config.kinds), (), generator=generator))]
    groups = (config.groups,)
    azimuths_deg = orthogonal_azimuths(uniform((0.0, 360.0), groups, generator))
    elevations_deg = uniform(config.elevation_deg, groups, generator)
    fov_y_deg = uniform(config.fov_y_deg, groups, generator)
    distance = framing_distance(uniform(config.relative_distance, groups, generator), fov_y_deg)

    toy = make_toy(seed, kind)
    raycaster = Raycaster(toy.mesh)
    cameras = look_at_origin(elevations_deg[:, None], azimuths_deg, distance[:, None]).flatten(0, 1)
    targets = raycaster.render(cameras, fov_y_deg.repeat_interleave(VIEWS), config.image_size).rgba
    prompts, prompt_azimuths_deg = [], []
    for _ in range(config.prompts):
        picture, azimuth_deg = _render_prompt(raycaster, config, generator)
        prompts.append(picture)
        prompt_azimuths_deg.append(azimuth_deg)
    return {
        "targets": _to_bytes(targets).unflatten(0, (-1, VIEWS)),
        "azimuths_deg": azimuths_deg,
        "elevations_deg": elevations_deg,
        "prompts": _to_bytes(torch.stack(prompts)),
        "prompt_azimuths_deg": torch.cat(prompt_azimuths_deg),
        "caption": toy.caption,
    }


def _render_prompt(
    raycaster: Raycaster, config: SampleConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A prompt view and its azimuth."""
    fov_y_deg = uniform(config.prompt_fov_y_deg, (1,), generator)
    elevation_deg = uniform(config.prompt_elevation_deg, (1,), generator)
    azimuth_deg = uniform(config.prompt_azimuth_deg, (1,), generator)
    light = Light.random(generator) if config.prompt_light == "random" else Light()
    fraction = float(uniform(config.prompt_fraction, (), generator))
    camera = look_at_origin(elevation_deg, azimuth_deg, framing_distance(0.75, fov_y_deg))
    # larger and without supersampling: placing the object in the frame filters it anyway
    view = raycaster.render(camera, fov_y_deg, config.image_size * 2, light, supersample=1).rgba[0]
    return place(view, config.image_size, fraction), azimuth_deg


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().to(torch.uint8)


def _render_shard(task: tuple[Path, range], config: SampleConfig) -> None:
    path, seeds = task
    samples = default_collate([render_sample(seed, config) for seed in seeds])
    captions = json.dumps(samples.pop("caption"))
    with atomic_path(path) as temporary:
        save_file(samples, temporary, metadata={"captions": captions})


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
        settings = json.dumps({"format": FORMAT, **asdict(config)}, sort_keys=True)
        digest = sha256(settings.encode()).hexdigest()[:12]
        self.folder = Path(folder) / f"toybox-{config.image_size}-{digest}"
        self._shards: dict[int, tuple[dict[str, Tensor], list[str]]] = {}

    def __len__(self) -> int:
        return self.objects

    def build(self, workers: int | None = None) -> None:
        """Render the shards that are missing, over so many processes; all cores when None."""
        shards = [self._seeds(shard) for shard in range(math.ceil(self.objects / self.SHARD))]
        missing = [(self._path(seeds), seeds) for seeds in shards if not self._path(seeds).exists()]
        do_all(partial(_render_shard, config=self.config), missing, workers, "rendering toys", "shard")

    def _seeds(self, shard: int) -> range:
        start, end = self.first_seed + shard * self.SHARD, self.first_seed + self.objects
        return range(start, min(start + self.SHARD, end))

    def _path(self, seeds: range) -> Path:
        return self.folder / f"{seeds.start:08d}-{len(seeds)}.safetensors"

    def _shard(self, shard: int) -> tuple[dict[str, Tensor], list[str]]:
        if shard not in self._shards:
            with safe_open(self._path(self._seeds(shard)), framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                self._shards[shard] = tensors, json.loads(file.metadata()["captions"])
        return self._shards[shard]

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """Samples of the given objects, one random group and one random prompt each, as floats in [0, 1].

        Returns:
            See `Source`.
        """
        groups = torch.randint(self.config.groups, indices.shape, generator=generator).tolist()
        prompts = torch.randint(self.config.prompts, indices.shape, generator=generator).tolist()
        rows = []
        for index, group, prompt in zip(indices.tolist(), groups, prompts, strict=True):
            tensors, captions = self._shard(index // self.SHARD)
            row = index % self.SHARD
            rows.append(
                {
                    "targets": tensors["targets"][row, group].float() / 255,
                    "azimuths_deg": tensors["azimuths_deg"][row, group],
                    "elevations_deg": tensors["elevations_deg"][row, group],
                    "prompts": tensors["prompts"][row, prompt].float() / 255,
                    "prompt_azimuths_deg": tensors["prompt_azimuths_deg"][row, prompt],
                    "captions": captions[row],
                    "objects": f"toy of seed {self.first_seed + index}",
                }
            )
        return default_collate(rows)
