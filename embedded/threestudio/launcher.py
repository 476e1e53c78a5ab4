"""The embedded host's launcher, as plain as threestudio's own: a config becomes a data module, a system and a trainer.

It does nothing to keep a run alive: its caller does that before and after, the system's callbacks meanwhile.
"""

import os
import pickle
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threestudio
from threestudio.launching.arguments import PROJECT, Arguments
from threestudio.launching.extensions import load_custom_modules
from threestudio.launching.messages import drop_lightning_handlers

_QUIET_WARNINGS = (
    r".*does not have many workers.*",  # the cameras are drawn in the main process on purpose
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed trial
    r".*The dirpath has changed from.*",  # a trial that was moved
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the endless dataset has one epoch
    r".*is already configured.*model summary.*",
    r".*GPU available but not used.*",
    r".*The `?srun`? command is available.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # frozen guidance models
    r".*Be aware that when using `ckpt_path`, callbacks used.*",  # other modes have no checkpoint callback
    r".*predict returned None.*",  # exports are files, not predictions
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 on torch 2.15
)


@dataclass(frozen=True)
class Run:
    """All that is built before something happens; nothing of it has been written yet."""

    arguments: Arguments
    experiment: Any
    """The `ExperimentConfig`."""
    system: Any
    data: Any
    trainer: Any
    status: tuple[int, int] | None
    """Epoch and step of the checkpoint that is resumed."""

    @property
    def trial(self) -> Path:
        """The folder of all that the run writes."""
        return Path(self.experiment.trial_dir)

    def start(self) -> None:
        """Train, validate, test or export, as the mode says; after training come test and export."""
        mode, resume = self.arguments.mode, self.experiment.resume
        # the checkpoint's other contents are plain values, so nothing in it needs to be executed
        options = {"datamodule": self.data, "ckpt_path": resume, "weights_only": True}
        if mode == "train":
            command = f"python {shlex.join(sys.argv)}\n# {self.arguments}\n"
            self.trial.mkdir(parents=True, exist_ok=True)
            (self.trial / "cmd.txt").write_text(command, encoding="utf-8")
            self.trainer.fit(self.system, **options)
            options = {"datamodule": self.data}
        elif self.status is not None:
            self.system.set_resume_status(*self.status)
        if mode == "validate":
            self.trainer.validate(self.system, verbose=False, **options)
        if mode in ("train", "test"):
            self.trainer.test(self.system, verbose=False, **options)
        if mode in ("train", "export"):
            self.trainer.predict(self.system, return_predictions=False, **options)


def build(arguments: Arguments, cfg: Any, project: Path = PROJECT) -> Run:
    """Build what a config names; mistakes in it show here, and nothing is written.

    Args:
        arguments: the command line.
        cfg: from `read_config`.
        project: whose `custom/` is loaded.
    """
    for pattern in _QUIET_WARNINGS:
        warnings.filterwarnings("ignore", message=pattern)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES") or arguments.gpu
    load_custom_modules(project / "custom")
    system_class, data_class = threestudio.find(cfg.system_type), threestudio.find(cfg.data_type)
    if hasattr(system_class, "preflight"):
        system_class.preflight(cfg.get("system") or {})

    import pytorch_lightning as pl

    from threestudio.launching.trainer import check_options, make_trainer
    from threestudio.systems.base import BaseLift3DSystem, BaseSystem
    from threestudio.utils.config import ExperimentConfig, parse_structured
    from threestudio.utils.misc import get_rank

    drop_lightning_handlers()
    check_options(cfg)
    status = None if cfg.get("resume") is None else read_status(cfg.resume)
    pl.seed_everything(cfg.get("seed", 0) + get_rank(), workers=True, verbose=False)
    experiment = parse_structured(ExperimentConfig, cfg)
    data = data_class(experiment.data)
    system = system_class(experiment.system, resumed=experiment.resume is not None)
    if arguments.mode == "train" and system_class.configure_optimizers is BaseSystem.configure_optimizers:
        system.configure_optimizers()  # mistakes in its config show before anything is written
    system.set_save_dir(os.path.join(experiment.trial_dir, "save"))
    trainer = make_trainer(experiment, arguments, system)
    looks_at_views = experiment.system.get("exporter", {}).get("save_video", False)
    if system_class.predict_step is BaseLift3DSystem.predict_step and not looks_at_views:
        trainer.limit_predict_batches = 1
    return Run(arguments, experiment, system, data, trainer, status)


def read_status(path: str | Path) -> tuple[int, int]:
    """Epoch and step of a checkpoint, which must hold nothing but tensors and plain values.

    Raises:
        ValueError: it does not.
    """
    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["epoch"]), int(checkpoint["global_step"])
    except pickle.UnpicklingError as error:  # torch's own words advise to load it all the same
        problem = "it holds something else than tensors and plain values, which could run code, or is damaged"
        raise ValueError(f"{path} is not a checkpoint that can be resumed: {problem}") from error
    except (RuntimeError, EOFError, KeyError, TypeError) as error:
        problem = str(error).splitlines()[0] if str(error) else "it is damaged"
        raise ValueError(f"{path} is not a checkpoint that can be resumed: {problem}") from error
