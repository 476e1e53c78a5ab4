"""A caption and its wordings for the sides of the object as text embeddings, cached on disk."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject
from threestudio.utils.misc import barrier, cleanup


def hash_prompt(model: str, prompt: str) -> str:
    """Name of the cache file of a model's embedding of a prompt."""
    return hashlib.md5(f"{model}-{prompt}".encode()).hexdigest()


def shift_azimuth_deg(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Degrees, wrapped to [−180, 180)."""
    return (azimuth + 180) % 360 - 180


@dataclass
class DirectionConfig:
    """A side of the object: what is said of it, and which cameras (elevation, azimuth, distance) see it."""

    name: str
    prompt: Callable[[str], str]
    negative_prompt: Callable[[str], str]
    condition: Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class PromptProcessorOutput:
    """Embeddings of the prompt, and of its wordings for side, front, back and overhead."""

    text_embeddings: Float[Tensor, "N Nf"]
    uncond_text_embeddings: Float[Tensor, "N Nf"]
    text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    prompt: str
    prompts_vd: list[str]

    def get_text_embeddings(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> Float[Tensor, "BB N Nf"]:
        """Conditional embeddings of all views, then the unconditional ones; angles in degrees."""
        batch = elevation.shape[0]
        if view_dependent_prompting:
            index = torch.zeros_like(elevation, dtype=torch.long)
            for direction in self.directions:  # later ones win
                seen = direction.condition(elevation, azimuth, camera_distances)
                index[seen] = self.direction2idx[direction.name]
            conditional, unconditional = self.text_embeddings_vd[index], self.uncond_text_embeddings_vd[index]
        else:
            conditional = self.text_embeddings.expand(batch, -1, -1)
            unconditional = self.uncond_text_embeddings.expand(batch, -1, -1)
        return torch.cat([conditional, unconditional], dim=0)


class PromptProcessor(BaseObject):
    """Embeds the prompt and its wordings, or reads them from the cache.

    A subclass gives `spawn_func(model, prompts, cache_dir)`, which writes one embedding a prompt to
    `cache_dir/<hash_prompt(model, prompt)>.pt`.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"
        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        use_cache: bool = True
        spawn: bool = True
        """Without effect: embeddings are made in this process."""

    cfg: Config
    cache_dir: ClassVar[str] = ".threestudio_cache/text_embeddings"

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        raise NotImplementedError

    def configure(self) -> None:
        self.prompt, self.negative_prompt = self.cfg.prompt, self.cfg.negative_prompt
        threestudio.info(f"Using prompt [{self.prompt}] and negative prompt [{self.negative_prompt}]")
        directions = self._make_directions()
        worded = [direction.prompt(self.prompt) for direction in directions]
        negative = [direction.negative_prompt(self.negative_prompt) for direction in directions]
        self.prepare_text_embeddings([self.prompt, self.negative_prompt, *worded, *negative])
        barrier()
        load = self.load_from_cache
        self.output = PromptProcessorOutput(
            text_embeddings=load(self.prompt)[None],
            uncond_text_embeddings=load(self.negative_prompt)[None],
            text_embeddings_vd=torch.stack([load(prompt) for prompt in worded]),
            uncond_text_embeddings_vd=torch.stack([load(prompt) for prompt in negative]),
            directions=directions,
            direction2idx={direction.name: index for index, direction in enumerate(directions)},
            prompt=self.prompt,
            prompts_vd=worded,
        )

    def _make_directions(self) -> list[DirectionConfig]:
        cfg = self.cfg
        conditions: dict[str, Callable] = {
            "side": lambda e, a, d: torch.ones_like(e, dtype=torch.bool),
            "front": lambda e, a, d: shift_azimuth_deg(a).abs() < cfg.front_threshold,
            "back": lambda e, a, d: shift_azimuth_deg(a).abs() > 180 - cfg.back_threshold,
            "overhead": lambda e, a, d: e > cfg.overhead_threshold,
        }
        return [
            DirectionConfig(name, lambda s, name=name: f"{s}, {name} view", lambda s: s, condition)
            for name, condition in conditions.items()
        ]

    def _cache_path(self, prompt: str) -> Path:
        return Path(self.cache_dir, f"{hash_prompt(self.cfg.pretrained_model_name_or_path, prompt)}.pt")

    def prepare_text_embeddings(self, prompts: list[str]) -> None:
        """Write the embeddings that the cache lacks."""
        Path(self.cache_dir).mkdir(parents=True, exist_ok=True)
        missing = [
            prompt
            for prompt in dict.fromkeys(prompts)
            if not self.cfg.use_cache or not self._cache_path(prompt).exists()
        ]
        if missing:
            self.spawn_func(self.cfg.pretrained_model_name_or_path, missing, self.cache_dir)
            cleanup()

    def load_from_cache(self, prompt: str) -> Float[Tensor, "N Nf"]:
        return torch.load(self._cache_path(prompt), map_location=self.device, weights_only=True)

    def __call__(self, *args: Any, **kwargs: Any) -> PromptProcessorOutput:
        return self.output
