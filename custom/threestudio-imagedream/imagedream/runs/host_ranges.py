"""Ranges of the keys that are threestudio's and Lightning's, whose own classes do not say them; the same in both hosts."""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

from annotated_types import Ge, Interval, Predicate

from imagedream.runs.ranges import (
    AscendingPair,
    Count,
    CountOrZero,
    FieldOfViewDeg,
    Fraction,
    Length,
    NotNegative,
    OneOf,
    Positive,
    Rate,
    Schedule,
    Seed,
    Size,
    check_finite,
    check_value,
)


def written_DD_HH_MM_SS(text: str) -> bool:
    """Whether it is a time as Lightning takes it, 00:01:30:00 for example."""
    return re.fullmatch(r"\d\d(:\d\d){3}", text) is not None


HOST_RANGES: dict[str, Any] = {
    "seed": Seed,
    "trainer.max_steps": CountOrZero,
    "trainer.min_steps": CountOrZero | None,
    "trainer.max_epochs": Annotated[int, Ge(-1)] | None,
    "trainer.min_epochs": CountOrZero | None,
    "trainer.accumulate_grad_batches": Count,
    "trainer.gradient_clip_val": NotNegative | None,
    "trainer.val_check_interval": Positive | Annotated[str, Predicate(written_DD_HH_MM_SS)] | None,
    "trainer.enable_*": bool | None,
    "trainer.check_val_every_n_epoch": Count | None,
    "trainer.log_every_n_steps": CountOrZero | None,
    "trainer.num_sanity_val_steps": Annotated[int, Ge(-1)] | None,
    "trainer.limit_*_batches": NotNegative | None,
    "trainer.overfit_batches": NotNegative,
    "trainer.num_nodes": Count,
    "trainer.reload_dataloaders_every_n_epochs": CountOrZero,
    "checkpoint.every_n_*": CountOrZero | None,
    "checkpoint.save_top_k": Annotated[int, Ge(-1)],
    "checkpoint.save_last": Annotated[Any, OneOf("link")] | bool | None,
    "data.n_*": Size,
    "data.eval_height": Size,
    "data.eval_width": Size,
    "data.eval_camera_distance": Length,
    "data.eval_fovy_deg": FieldOfViewDeg,
    "data.*_perturb": Rate,
    "data.azimuth_range": AscendingPair,
    "data.elevation_range": Annotated[AscendingPair, Interval(ge=-90, le=90)],
    "data.fovy_range": Annotated[AscendingPair, Interval(gt=0, lt=180)],
    "data.*distance_range": Annotated[AscendingPair, Interval(gt=0, le=10**4)],
    "system.loss.lambda_*": Annotated[Any, Schedule(NotNegative)],
    "system.guidance*_step_percent": Annotated[Any, Schedule(Fraction)],
    "system.guidance*.guidance_scale": Annotated[Any, Schedule(NotNegative)],
    "system.guidance*.n_view": Size,
    "system.optimizer.*lr": Rate,
    "system.optimizer.*eps": NotNegative,
    "system.optimizer.*fused": bool | None,
    "system.optimizer.*weight_decay": Rate,
    "system.optimizer.*betas": Annotated[tuple[float, float], Interval(ge=0, lt=1)],
    "system.*.radius": Length,
    "system.geometry.n_feature_dims": CountOrZero,
    "system.geometry.density_bias": float | str,
    "system.geometry.density_blob_scale": float,
    "system.geometry.density_blob_std": Positive,
    "system.geometry.finite_difference_normal_eps": Positive | str,
    "system.geometry.isosurface_resolution": Annotated[int, Interval(ge=1, le=2**10)],
    "system.*_encoding_config.n_levels": Annotated[int, Interval(ge=1, le=32)],
    "system.*_encoding_config.n_features_per_level": Annotated[int, Interval(ge=1, le=32)],
    "system.*_encoding_config.log2_hashmap_size": Annotated[int, Interval(ge=1, le=30)],
    "system.*_encoding_config.base_resolution": Annotated[int, Interval(ge=1, le=2**12)],
    "system.*_encoding_config.per_level_scale": Annotated[float, Interval(ge=1, le=8)],
    "system.*_encoding_config.degree": Annotated[int, Interval(ge=1, le=8)],
    "system.*_network_config.n_neurons": Annotated[int, Interval(ge=1, le=2**12)],
    "system.*_network_config.n_hidden_layers": Annotated[int, Interval(ge=0, le=2**6)],
    "system.*.n_output_dims": Annotated[int, Interval(ge=1, le=2**10)],
    "system.*_prob": Fraction,
    "system.material.ambient_only_steps": CountOrZero,
    "system.material.*_light_color": Annotated[list[float], Ge(0)],
    "system.renderer.num_samples_per_ray": Annotated[int, Interval(ge=1, le=2**14)],
    "system.renderer.eval_chunk_size": CountOrZero,
    "system.prompt_processor.*_threshold": Annotated[float, Interval(ge=0, le=180)],
}
"""By name, which may hold a `*`. Of keys that a class of the extension has too, that class says more."""


def check_experiment(cfg: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, if a number of an experiment's config is not what its key allows.

    Args:
        cfg: as plain mappings, interpolations resolved.
    """
    check_finite(cfg)
    for name, value in _named(cfg):
        for pattern, kind in HOST_RANGES.items():
            if fnmatchcase(name, pattern):
                check_value(name, value, kind)


def _named(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots and what they hold, mappings too: one may stand where a number should."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _named(value, f"{prefix}{key}.")
