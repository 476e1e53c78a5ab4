"""Lightning's trainer as this host sets it up."""

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

import threestudio
from threestudio.launching.arguments import TRAINER_KEYS_OF_THE_HOST, Arguments
from threestudio.launching.messages import UsageError
from threestudio.utils.callbacks import Snapshot, progress_callbacks
from threestudio.utils.config import config_to_primitive


def check_options(cfg: Any) -> None:
    """Raise a UsageError if `trainer` or `checkpoint` of a config have keys that nobody knows."""
    for where, function, taken in (
        ("trainer", pl.Trainer.__init__, TRAINER_KEYS_OF_THE_HOST),
        ("checkpoint", ModelCheckpoint.__init__, ("dirpath",)),
    ):
        allowed = [name for name in inspect.signature(function).parameters if name not in ("self", *taken)]
        unknown = [key for key in cfg.get(where) or {} if key not in allowed]
        if unknown:
            raise UsageError(f"{where}: unknown key {unknown[0]}; allowed: {', '.join(sorted(allowed))}")


def make_trainer(cfg: Any, arguments: Arguments, system: Any) -> pl.Trainer:
    """The trainer of an experiment's config."""
    callbacks, loggers = training_extras(cfg, arguments, system) if arguments.mode == "train" else ([], False)
    options = dict(config_to_primitive(cfg.trainer))
    if options.get("enable_progress_bar", True):
        callbacks += progress_callbacks()
    with_gpu = torch.cuda.is_available()
    if not with_gpu and str(options.get("precision", "32")) in ("16", "16-mixed", "16-true"):
        threestudio.debug("No GPU: 32-bit instead of 16-bit precision")
        options["precision"] = "32-true"
    options.setdefault("enable_model_summary", arguments.verbose)
    return pl.Trainer(
        callbacks=callbacks,
        logger=loggers,
        inference_mode=False,  # analytic normals need autograd in evaluation too
        accelerator="gpu" if with_gpu else "cpu",
        devices=arguments.devices if with_gpu else 1,
        **options,
    )


def training_extras(cfg: Any, arguments: Arguments, system: Any) -> tuple[list, list]:
    """Callbacks and loggers of a training run."""
    trial = Path(cfg.trial_dir)
    # a resumed trial writes the same last.ckpt instead of starting a last-v1.ckpt
    checkpoint = {"enable_version_counter": False, **config_to_primitive(cfg.checkpoint)}
    if checkpoint.get("monitor") is None and checkpoint.get("save_top_k", 1) > 1:  # the newest ones
        checkpoint |= {"monitor": "step", "mode": "max"}
    callbacks = [
        ModelCheckpoint(dirpath=str(trial / "ckpts"), **checkpoint),
        LearningRateMonitor(logging_interval="step"),
        Snapshot(arguments.config, cfg),
    ]
    loggers = [CSVLogger(str(trial), name="csv_logs"), *system.get_loggers()]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.insert(0, TensorBoardLogger(str(trial), name="tb_logs"))
    return callbacks, loggers
