"""`--estimate`: tries a few steps of a run, and says what the whole of it would take. Leaves nothing behind."""

import json
import logging
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict
from pytorch_lightning.callbacks import Callback

import threestudio
from threestudio.launching.arguments import Arguments
from threestudio.launching.messages import Quit
from threestudio.launching.space import checkpoint_count

STEPS = 5
"""Tried at each resolution; the first of them warms up and does not count."""

VIEWS = 4
"""Of the turntable that are rendered."""


class Stopwatch(Callback):
    """When each step and each view of the turntable was done."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.steps: list[float] = []
        self.validation = 0.0
        self.views: list[float] = []

    def on_train_start(self, *_: Any) -> None:
        self.begun["train"] = time.time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(time.time())

    def on_validation_start(self, *_: Any) -> None:
        self.begun["validation"] = time.time()

    def on_validation_end(self, *_: Any) -> None:
        self.validation += time.time() - self.begun["validation"]

    def on_test_start(self, *_: Any) -> None:
        self.views.append(time.time())

    def on_test_batch_end(self, *_: Any) -> None:
        self.views.append(time.time())


@dataclass(frozen=True)
class Plan:
    """How much there is to do in a run, or in the trial of it."""

    stages: list[int]
    """Steps at each resolution."""
    validations: int
    validation_views: int
    test_views: int

    @classmethod
    def of(cls, cfg: Any) -> "Plan":
        """The plan of an experiment's config."""
        data, steps = cfg.data, cfg.trainer.get("max_steps", -1)
        if steps < 1:
            raise ValueError(
                f"--estimate needs to know how long: trainer.max_steps is {steps}, must be 1 or more"
            )
        milestones = [step for step in data.get("resolution_milestones") or [] if step < steps]
        edges = [0, *milestones, steps]
        every = cfg.trainer.get("val_check_interval") or 0
        validations = steps // every if isinstance(every, int) and every else 0
        return cls(
            [end - begin for begin, end in pairwise(edges)],
            validations,
            data.get("n_val_views", 0),
            data.get("n_test_views", 0),
        )

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return sum(self.stages)


def probe_config(cfg: Any, plan: Plan, folder: str) -> Any:
    """The config of the trial: a few steps of each stage, one validation, some views of the turntable, the export."""
    probe = OmegaConf.create(OmegaConf.to_container(cfg))
    steps = STEPS * len(plan.stages)
    with open_dict(probe):
        probe.exp_root_dir, probe.tag, probe.use_timestamp = folder, "probe", False
        probe.timestamp = probe.resume = None
        probe.system.pop("loggers", None)
        if len(plan.stages) > 1:
            later = [10**9] * (len(probe.data.resolution_milestones) - len(plan.stages) + 1)
            probe.data.resolution_milestones = [*range(STEPS, steps, STEPS), *later]
        probe.data.n_val_views = min(1, plan.validation_views)
        probe.data.n_test_views = min(VIEWS, plan.test_views)
        probe.trainer |= {"max_steps": steps, "val_check_interval": steps, "enable_progress_bar": False}
        probe.checkpoint = {"every_n_train_steps": steps, "every_n_minutes": None}
    return probe


def estimate(arguments: Arguments, cfg: Any, system_class: type, data_class: type, started: float) -> str:
    """What a run would take, as text.

    Args:
        arguments: of the run.
        cfg: its config.
        system_class: what the config names.
        data_class: likewise.
        started: when the program was started, in seconds since the epoch.
    """
    from threestudio.launcher import run_phases

    plan = Plan.of(cfg)
    threestudio.info(f"Trying {STEPS} steps at each resolution and the export; nothing of it is kept")
    threestudio.logger.setLevel(logging.DEBUG if arguments.verbose else logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        probe = probe_config(cfg, plan, folder)
        watch = Stopwatch()
        trial = Path(
            run_phases(arguments, probe, system_class, data_class, started, more_callbacks=[watch]).trial_dir
        )
        record = json.loads((trial / "save" / "timings.json").read_text(encoding="utf-8"))
        if record["interrupted"]:
            raise Quit
        seconds = _seconds(plan, Plan.of(probe), watch, record["seconds"])
        checkpoints = checkpoint_count(cfg) - 1 - _never_written(cfg, seconds)
        sizes = _bytes(plan, Plan.of(probe), trial, checkpoints)
    return _text(plan, seconds, sizes, record["peak_memory_bytes"])


def _seconds(plan: Plan, probe: Plan, watch: Stopwatch, measured: dict[str, float]) -> dict[str, float]:
    """Seconds of each part of the whole run."""
    durations = [end - begin for begin, end in pairwise(watch.steps)]
    steps = 0.0
    for number, count in enumerate(plan.stages):
        # duration i is that of step i + 1; the first step of a stage is left out
        counted = durations[STEPS * number : STEPS * number + STEPS - 1]
        steps += count * sum(counted) / len(counted)
    before_and_after = measured["fit"] - (watch.steps[-1] - watch.begun["train"]) - watch.validation
    a_view = (watch.views[-1] - watch.views[0]) / max(probe.test_views, 1)
    validation = watch.validation * plan.validations * plan.validation_views / max(probe.validation_views, 1)
    return {
        "setting up": measured["setup"],
        "loading the model and four views": before_and_after,
        f"{plan.steps} steps": steps,
        "validation": validation,
        "turntable": measured["test"] + a_view * (plan.test_views - probe.test_views),
        "export": measured["export"],
    }


def _never_written(cfg: Any, seconds: dict[str, float]) -> int:
    """Of the checkpoints kept by the clock, those that a run is too short for."""
    options = cfg.get("checkpoint") or {}
    keep, minutes = options.get("keep", 2), options.get("every_n_minutes", 10)
    written = int(sum(seconds.values()) // (60 * minutes)) if minutes else 0
    return max(keep - written, 0)


def _bytes(plan: Plan, probe: Plan, trial: Path, checkpoints: int) -> dict[str, int]:
    """Bytes on disk of each part of the whole run."""
    sizes = dict.fromkeys(("checkpoints", "pictures", "mesh, report and logs"), 0)
    validated = plan.validations * plan.validation_views
    for path in trial.rglob("*"):
        if not path.is_file():
            continue
        size, name = path.stat().st_size, path.relative_to(trial).as_posix()
        if name.startswith("ckpts/"):
            sizes["checkpoints"] += size * checkpoints
        elif name.startswith("save/it") and "-test" in name:
            sizes["pictures"] += size * plan.test_views // max(probe.test_views, 1)
        elif name.startswith("save/it") and "-export" not in name:
            sizes["pictures"] += size * validated // max(probe.validation_views, 1)
        else:
            sizes["mesh, report and logs"] += size
    return sizes


def _text(plan: Plan, seconds: dict[str, float], sizes: dict[str, int], memory: int) -> str:
    def parts(values: dict[str, Any], form: Any) -> str:
        return ", ".join(f"{name} {form(value)}" for name, value in values.items())

    lines = [
        f"estimate: time    {duration(sum(seconds.values()))} ({parts(seconds, duration)})",
        f"estimate: memory  {size(memory)} at most",
        f"estimate: disk    {size(sum(sizes.values()))} ({parts(sizes, size)})",
    ]
    if torch.cuda.is_available():
        lines.insert(2, f"estimate: device  {size(torch.cuda.max_memory_reserved())} at most")
    lines.append(
        f"estimate: from {STEPS} steps of each of {len(plan.stages)} resolutions; steps change as the object takes shape"
    )
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """`5 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: int) -> str:
    """`12 MiB`, `1.5 GiB`."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
