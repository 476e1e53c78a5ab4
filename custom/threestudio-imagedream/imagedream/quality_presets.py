"""`preview`, `default` and `paper`: how long a 3D run takes and how good it gets, as overrides of any of our configs.

Steps are a fraction of the config's own, and everything that its config ties to a step is stretched with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 2**30

PAPER_STEPS = 12_500
"""arXiv 2312.02201, section 4."""

PREVIEW_LEARNING_RATE = 2.7
"""Times the config's: fewer steps have to go farther."""

SCHEDULES = ("system.guidance", "system.loss", "system.guidances", "system.material", "data", "trainer")
"""Where a config has values that are tied to steps."""

STEP_KEYS = ("resolution_milestones", "ambient_only_steps", "val_check_interval")
"""Keys whose numbers are steps; besides them, lists in threestudio's form of a schedule."""


@dataclass(frozen=True)
class Quality:
    """How long a run takes, and what for."""

    name: str
    reason: str
    steps: float | int
    """A fraction of the config's steps, or a number of them."""
    coarse: bool = False
    """First resolution only, one group of views a step, and a third to a half of everything around it."""


QUALITIES = {
    quality.name: quality
    for quality in (
        Quality(
            "preview",
            "a first look: a third of the steps, the first resolution only, a light mesh",
            1 / 3,
            True,
        ),
        Quality("default", "the config as it is", 1.0),
        Quality("paper", f"the paper's {PAPER_STEPS} steps, the schedules stretched to them", PAPER_STEPS),
    )
}

NEEDED_BYTES = {"default": int(2.0 * GIB), "preview": int(1.5 * GIB)}
"""Free memory on a CPU for the small model: the measured peaks of benchmarks/results/presets.md, and some room."""


def choose_for_cpu(free_bytes: int) -> tuple[Quality, str]:
    """The quality for a CPU with that much free memory, and the reason, in words.

    Raises:
        ValueError: if not even the preview fits.
    """
    free = f"no CUDA device; {free_bytes / GIB:.1f} GiB of memory are free"
    for name, needed in NEEDED_BYTES.items():
        if free_bytes >= needed:
            return QUALITIES[name], f"{free}, it needs {needed / GIB:.1f} with the small model"
    raise ValueError(f"--preset auto: {free}, the preview needs {NEEDED_BYTES['preview'] / GIB:.1f} GiB")


def free_memory_bytes() -> int:
    """Memory that programs can still get."""
    import psutil

    return psutil.virtual_memory().available


def quality_settings(quality: Quality, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config must say instead: keys with dots -> values.

    Args:
        quality: which.
        config: the whole config of a run, resolved.

    Raises:
        ValueError: if the config has no number of steps.
    """
    asked = config.get("trainer", {}).get("max_steps", -1)
    if asked < 1:
        raise ValueError(f"--preset {quality.name} needs trainer.max_steps of 1 or more, got {asked}")
    steps = quality.steps if isinstance(quality.steps, int) else max(round(quality.steps * asked), 1)
    settings: dict[str, Any] = {}
    if quality.coarse:
        settings |= _coarse(config)
    if steps != asked:
        settings["trainer.max_steps"] = steps
        every = config.get("checkpoint", {}).get("every_n_train_steps")
        if every:
            settings["checkpoint.every_n_train_steps"] = _stretched(every, steps / asked)
        for place in SCHEDULES:
            found = _stretched_keys(_at(config, place), place, steps / asked)
            settings |= {key: value for key, value in found.items() if key not in settings}
    return settings


def _coarse(config: Mapping[str, Any]) -> dict[str, Any]:
    data, system = config["data"], config["system"]
    exporter, views = system.get("exporter", {}), system.get("views", {})
    settings: dict[str, Any] = {}
    if not isinstance(data["batch_size"], int):
        settings |= {f"data.{side}": data[side][0] for side in ("height", "width")}
        settings["data.resolution_milestones"] = []
        settings["data.batch_size"] = min(data["batch_size"][0], data.get("n_view", 4))
    wanted = {
        "data.n_test_views": data.get("n_test_views", 120) // 2,
        "data.n_val_views": 1,
        "system.views.steps": min(views.get("steps", 50), 20),
        "system.renderer.num_samples_per_ray": max(
            system.get("renderer", {}).get("num_samples_per_ray", 512) * 2 // 3, 32
        ),
        "system.exporter.resolution": exporter.get("resolution", 128) * 2 // 3,
        "system.exporter.target_faces": max(exporter.get("target_faces", 10000) // 2, 1000),
        "system.exporter.texture_size": exporter.get("texture_size", 1024) // 2,
        "system.exporter.bake_views": 12,
        "system.exporter.normal_map": False,
    }
    for name, group in (system.get("optimizer", {}).get("params") or {}).items():
        if group.get("lr"):  # names of groups have dots in them
            wanted[f"system.optimizer.params[{name}].lr"] = round(group["lr"] * PREVIEW_LEARNING_RATE, 6)
    return settings | wanted


def _at(config: Mapping[str, Any], place: str) -> Any:
    for key in place.split("."):
        config = config.get(key) or {}
    return config


def _is_schedule(value: Any) -> bool:
    """`[v0, v1, end]`, `[start, v0, v1, end]`, ... as in `threestudio.utils.misc.C`, with ends in steps."""
    return len(value) in (3, 4, 6, 8, 10) and all(isinstance(v, int | float) for v in value)


def _stretched_keys(node: Any, place: str, ratio: float) -> dict[str, Any]:
    """All values below a node that are tied to steps."""
    found: dict[str, Any] = {}
    items = node.items() if isinstance(node, Mapping) else ()
    for key, value in items:
        name = f"{place}.{key}"
        if isinstance(value, Mapping):
            found |= _stretched_keys(value, name, ratio)
        elif key in STEP_KEYS:
            if isinstance(value, bool | float) or not value:
                continue
            found[name] = _stretched(value, ratio)
        elif place.startswith("system") and not isinstance(value, str) and hasattr(value, "__iter__"):
            values = list(value)
            if _is_schedule(values) and isinstance(values[-1], int) and values[-1] > 1:
                found[name] = _stretched_schedule(values, ratio)
    return found


def _stretched(value: Any, ratio: float) -> Any:
    if isinstance(value, int):
        return max(round(value * ratio), 1)
    return [max(round(step * ratio), 1) for step in value]


def _stretched_schedule(values: list[Any], ratio: float) -> list[Any]:
    """A schedule whose steps, the first and those after each value, are stretched."""
    items = values if len(values) > 3 else [0, *values]
    return [
        round(item * ratio) if number == 0 or (number >= 3 and number % 2) else item
        for number, item in enumerate(items)
    ]
