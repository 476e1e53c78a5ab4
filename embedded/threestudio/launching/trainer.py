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
from threestudio.launching.arguments import PROJECT, TRAINER_KEYS_OF_THE_HOST, Arguments
from threestudio.launching.checkpoints import AtomicCheckpoints, checkpoint_callbacks
from threestudio.launching.messages import UsageError
from threestudio.utils.callbacks import Snapshot
from threestudio.utils.config import config_to_primitive

_KEYS_OF_RECENT_CHECKPOINTS = ("every_n_minutes", "keep")


def check_options(cfg: Any) -> None:
    """Raise a UsageError if `trainer` or `checkpoint` of a config have keys that nobody knows."""
    _check_keys_of(pl.Trainer.__init__, cfg.get("trainer") or {}, "trainer", without=TRAINER_KEYS_OF_THE_HOST)
    checkpoint = cfg.get("checkpoint") or {}
    _check_keys_of(
        ModelCheckpoint.__init__, checkpoint, "checkpoint", ("dirpath",), also=_KEYS_OF_RECENT_CHECKPOINTS
    )


def _check_keys_of(
    function: Any, options: dict, where: str, without: tuple[str, ...], also: tuple[str, ...] = ()
) -> None:
    allowed = [name for name in inspect.signature(function).parameters if name not in ("self", *without)]
    unknown = [key for key in options if key not in (*allowed, *also)]
    if unknown:
        known = ", ".join(sorted([*allowed, *also]))
        raise UsageError(f"{where}: unknown key {unknown[0]}; allowed: {known}")


def make_trainer(cfg: Any, arguments: Arguments, callbacks: list, loggers: Any) -> pl.Trainer:
    """The trainer of an experiment's config."""
    options = dict(config_to_primitive(cfg.trainer))
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
        devices=-1 if with_gpu else 1,
        plugins=AtomicCheckpoints(),
        **options,
    )


def training_extras(cfg: Any, arguments: Arguments) -> tuple[list, list]:
    """Callbacks and loggers of a training run."""
    trial = Path(cfg.trial_dir)
    callbacks = [
        *checkpoint_callbacks(config_to_primitive(cfg.checkpoint), trial / "ckpts"),
        LearningRateMonitor(logging_interval="step"),
        Snapshot(arguments.config, cfg, PROJECT),
    ]
    loggers: list[Any] = [CSVLogger(str(trial), name="csv_logs")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.insert(0, TensorBoardLogger(str(trial), name="tb_logs"))
    return callbacks, loggers
