"""Captions and their view-dependent variants as text embeddings, cached on disk."""

import hashlib
import json
import os
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
from threestudio.utils.ops import shifted_expotional_decay

PROMPT_LIBRARY = Path("load/prompt_library.json")


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
    """Embeddings of the prompt, and of its variants for the directions side, front, back, overhead."""

    text_embeddings: Float[Tensor, "N Nf"]
    uncond_text_embeddings: Float[Tensor, "N Nf"]
    text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    uncond_text_embeddings_vd: Float[Tensor, "Nv N Nf"]
    directions: list[DirectionConfig]
    direction2idx: dict[str, int]
    use_perp_neg: bool
    perp_neg_f_sb: tuple[float, float, float]
    perp_neg_f_fsb: tuple[float, float, float]
    perp_neg_f_fs: tuple[float, float, float]
    perp_neg_f_sf: tuple[float, float, float]
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

    def get_text_embeddings_perp_neg(
        self,
        elevation: Float[Tensor, "B"],
        azimuth: Float[Tensor, "B"],
        camera_distances: Float[Tensor, "B"],
        view_dependent_prompting: bool = True,
    ) -> tuple[Float[Tensor, "BBBB N Nf"], Float[Tensor, "B 2"]]:
        """Positive, unconditional and two negative embeddings per view, and the negatives' weights (Perp-Neg)."""
        if not view_dependent_prompting:
            raise ValueError("Perp-Neg only works with view-dependent prompting")
        batch = elevation.shape[0]
        order = [self.direction2idx[name] for name in ("side", "front", "back", "overhead")]
        side, front, back, overhead = (self.text_embeddings_vd[i] for i in order)
        positive, negative, weights, unconditional = [], [], [], []
        for elevation_deg, azimuth_deg, distance in zip(elevation, azimuth, camera_distances, strict=True):
            azimuth_deg = shift_azimuth_deg(azimuth_deg)
            unconditional.append(self.uncond_text_embeddings_vd[0])
            overhead_direction = self.directions[order[3]]
            if overhead_direction.condition(elevation_deg, azimuth_deg, distance):
                positive.append(overhead)
                negative += [self.uncond_text_embeddings_vd[0]] * 2
                weights += [0.0, 0.0]
            elif azimuth_deg.abs() < 90:  # between front (r = 1) and side (r = 0)
                r = 1 - azimuth_deg.abs() / 90
                positive.append(r * front + (1 - r) * side)
                negative += [front, side]
                weights += [
                    -shifted_expotional_decay(*self.perp_neg_f_fs, r),
                    -shifted_expotional_decay(*self.perp_neg_f_sf, 1 - r),
                ]
            else:  # between side (r = 1) and back (r = 0)
                r = 2.0 - azimuth_deg.abs() / 90
                positive.append(r * side + (1 - r) * back)
                negative += [side, front]
                weights += [
                    -shifted_expotional_decay(*self.perp_neg_f_sb, r),
                    -shifted_expotional_decay(*self.perp_neg_f_fsb, r),
                ]
        embeddings = torch.cat(
            [torch.stack(positive), torch.stack(unconditional), torch.stack(negative)], dim=0
        )
        return embeddings, torch.as_tensor(weights, device=elevation.device).reshape(batch, 2)


class PromptProcessor(BaseObject):
    """Embeds the prompt and its view-dependent variants, or reads them from the cache.

    A subclass gives `spawn_func(model, prompts, cache_dir)`, which writes one embedding a prompt to
    `cache_dir/<hash_prompt(model, prompt)>.pt`. Here it always runs in this process: `spawn` has no effect.
    """

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = "a hamburger"
        prompt_front: str | None = None
        prompt_side: str | None = None
        prompt_back: str | None = None
        prompt_overhead: str | None = None
        negative_prompt: str = ""
        pretrained_model_name_or_path: str = "runwayml/stable-diffusion-v1-5"
        overhead_threshold: float = 60.0
        front_threshold: float = 45.0
        back_threshold: float = 45.0
        view_dependent_prompt_front: bool = False
        use_cache: bool = True
        spawn: bool = True
        use_perp_neg: bool = False
        perp_neg_f_sb: tuple[float, float, float] = (1, 0.5, -0.606)
        perp_neg_f_fsb: tuple[float, float, float] = (1, 0.5, +0.967)
        perp_neg_f_fs: tuple[float, float, float] = (4, 0.5, -2.426)
        perp_neg_f_sf: tuple[float, float, float] = (4, 0.5, -2.426)
        use_prompt_debiasing: bool = False
        pretrained_model_name_or_path_prompt_debiasing: str = "bert-base-uncased"
        prompt_debiasing_mask_ids: list[int] | None = None

    cfg: Config
    cache_dir: ClassVar[str] = ".threestudio_cache/text_embeddings"

    @staticmethod
    def spawn_func(pretrained_model_name_or_path: str, prompts: list[str], cache_dir: str) -> None:
        raise NotImplementedError

    def configure(self) -> None:
        cfg = self.cfg
        if cfg.use_prompt_debiasing:
            raise ValueError("use_prompt_debiasing is not supported by the embedded host; set it to false")
        self.directions = self._make_directions()
        self.direction2idx = {direction.name: i for i, direction in enumerate(self.directions)}
        self.prompt = self.preprocess_prompt(cfg.prompt)
        self.negative_prompt = cfg.negative_prompt
        given = {d.name: getattr(cfg, f"prompt_{d.name}") for d in self.directions}
        self.prompts_vd = [given[d.name] or d.prompt(self.prompt) for d in self.directions]
        self.negative_prompts_vd = [d.negative_prompt(self.negative_prompt) for d in self.directions]
        threestudio.info(f"Using prompt [{self.prompt}] and negative prompt [{self.negative_prompt}]")
        self.prepare_text_embeddings()
        self.load_text_embeddings()

    def _make_directions(self) -> list[DirectionConfig]:
        cfg = self.cfg
        conditions: dict[str, Callable] = {
            "side": lambda e, a, d: torch.ones_like(e, dtype=torch.bool),
            "front": lambda e, a, d: shift_azimuth_deg(a).abs() < cfg.front_threshold,
            "back": lambda e, a, d: shift_azimuth_deg(a).abs() > 180 - cfg.back_threshold,
            "overhead": lambda e, a, d: e > cfg.overhead_threshold,
        }

        def wording(name: str) -> Callable[[str], str]:
            if cfg.view_dependent_prompt_front:
                return lambda s: f"{'backside' if name == 'back' else name} view of {s}"
            return lambda s: f"{s}, {name} view"

        return [DirectionConfig(n, wording(n), lambda s: s, condition) for n, condition in conditions.items()]

    def preprocess_prompt(self, prompt: str) -> str:
        """The prompt; or for `lib:some_words`, the library's only one with all these words."""
        if not prompt.startswith("lib:"):
            return prompt
        if not PROMPT_LIBRARY.is_file():
            raise FileNotFoundError(f"prompt {prompt!r} needs the prompt library {PROMPT_LIBRARY}")
        words = prompt.removeprefix("lib:").lower().split("_")
        library = json.loads(PROMPT_LIBRARY.read_text(encoding="utf-8"))["dreamfusion"]
        matching = [entry for entry in library if all(word in entry.lower() for word in words)]
        if len(matching) != 1:
            raise ValueError(f"{prompt!r} matches {len(matching)} prompts of the library, must match one")
        return matching[0]

    def _cache_path(self, prompt: str) -> str:
        return os.path.join(
            self.cache_dir, f"{hash_prompt(self.cfg.pretrained_model_name_or_path, prompt)}.pt"
        )

    def prepare_text_embeddings(self) -> None:
        """Write the embeddings that the cache lacks."""
        os.makedirs(self.cache_dir, exist_ok=True)
        every = dict.fromkeys(
            [self.prompt, self.negative_prompt, *self.prompts_vd, *self.negative_prompts_vd]
        )
        missing = [p for p in every if not self.cfg.use_cache or not os.path.exists(self._cache_path(p))]
        if missing:
            self.spawn_func(self.cfg.pretrained_model_name_or_path, missing, self.cache_dir)
            cleanup()

    def load_text_embeddings(self) -> None:
        barrier()
        self.text_embeddings = self.load_from_cache(self.prompt)[None]
        self.uncond_text_embeddings = self.load_from_cache(self.negative_prompt)[None]
        self.text_embeddings_vd = torch.stack([self.load_from_cache(p) for p in self.prompts_vd])
        self.uncond_text_embeddings_vd = torch.stack(
            [self.load_from_cache(p) for p in self.negative_prompts_vd]
        )

    def load_from_cache(self, prompt: str) -> Float[Tensor, "N Nf"]:
        path = self._cache_path(prompt)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"no text embedding of {prompt!r} for {self.cfg.pretrained_model_name_or_path}: {path}"
            )
        return torch.load(path, map_location=self.device, weights_only=True)

    def __call__(self, *args: Any, **kwargs: Any) -> PromptProcessorOutput:
        cfg = self.cfg
        return PromptProcessorOutput(
            text_embeddings=self.text_embeddings,
            uncond_text_embeddings=self.uncond_text_embeddings,
            text_embeddings_vd=self.text_embeddings_vd,
            uncond_text_embeddings_vd=self.uncond_text_embeddings_vd,
            directions=self.directions,
            direction2idx=self.direction2idx,
            use_perp_neg=cfg.use_perp_neg,
            perp_neg_f_sb=tuple(cfg.perp_neg_f_sb),
            perp_neg_f_fsb=tuple(cfg.perp_neg_f_fsb),
            perp_neg_f_fs=tuple(cfg.perp_neg_f_fs),
            perp_neg_f_sf=tuple(cfg.perp_neg_f_sf),
            prompt=self.prompt,
            prompts_vd=self.prompts_vd,
        )
