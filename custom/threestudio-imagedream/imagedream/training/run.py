"""`python -m imagedream train --config F`: from a YAML to a trained part of the model."""

import logging
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagedream.training.build import build_module
from imagedream.training.callbacks import AveragedWeights, Snapshots, Statistics
from imagedream.training.data import DataConfig, TrainingData
from imagedream.training.diffusion import ConditioningConfig
from imagedream.training.optimizers import OptimizerConfig

logger = logging.getLogger(__name__)

PARTS = ("encoder", "autoencoder", "diffusion")


@dataclass
class TrainConfig:
    """Everything a training run is made of."""

    part: str = MISSING
    """What is trained: encoder, autoencoder or diffusion."""
    out: str = MISSING
    """Run folder: `model/` (the trained part), `checkpoints/last.ckpt`, `config.yaml`, `stats.jsonl`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of `ImageTextEncoder`, `AutoencoderKL` or `MultiViewUNet`."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Arguments of `DDIMScheduler` (diffusion)."""
    initial: str = ""
    """Folder of a trained part (`.../unet`, `.../vae`, `.../encoder`) to start from; empty: random weights."""
    autoencoder: str = ""
    """Folder of the trained autoencoder (diffusion)."""
    encoder: str = ""
    """Folder of the trained towers (diffusion)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Samples and batches."""
    principal_encoder: bool = False
    """Principal components for an encoder, only the decoder learns (autoencoder)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and learning rate."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """Dropout of conditions (diffusion)."""
    steps: int = 1000
    """Optimiser steps."""
    seed: int = 0
    """Of everything random."""
    precision: str = "32-true"
    """Lightning's precision, e.g. bf16-mixed."""
    accumulate: int = 1
    """Batches a step."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is saved."""
    validate_every: int = 200
    """Steps between validations."""
    log_every: int = 10
    """Steps between lines of stats.jsonl."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints and snapshots of the model."""
    devices: int = 1
    """Devices of this machine."""


def read_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """A YAML file and `key=value` overrides; unknown keys and wrong types are errors.

    Raises:
        ValueError: saying which key, and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        known = sorted(str(p) for p in Path("configs/train").glob("*.yaml"))
        raise ValueError(
            f"no training config at {path}" + (f"; there are {', '.join(known)}" if known else "")
        )
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(TrainConfig), OmegaConf.load(path), OmegaConf.from_dotlist(overrides or [])
        )
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"{path}: {str(error).splitlines()[0]} (at {error.full_key or 'top level'})"
        ) from error
    if config.part not in PARTS:
        raise ValueError(f"{path}: part is {config.part!r}, must be one of {', '.join(PARTS)}")
    return config


def train(path: str | Path, overrides: list[str] | None = None) -> Path:
    """Train what a config names; a run folder with a checkpoint is resumed where it stopped.

    Args:
        path: YAML with the fields of `TrainConfig`.
        overrides: `key.sub=value` strings.

    Returns:
        The folder of the trained part.
    """
    config = read_config(path, overrides)
    out = Path(config.out)
    data = TrainingData(config.data, config.seed)  # first: a wrong folder is noticed before weights load
    module = build_module(config)
    average = AveragedWeights(config.ema_decay)
    out.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), out / "config.yaml")
    (out / "command.txt").write_text(" ".join(sys.argv) + "\n")
    trainer = pl.Trainer(
        accelerator="auto",
        devices=config.devices,
        precision=config.precision,
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        log_every_n_steps=config.log_every,
        callbacks=[
            average,
            Statistics(out / "stats.jsonl", config.log_every),
            Snapshots(out / "model", average, config.checkpoint_minutes),
            pl.callbacks.ModelCheckpoint(
                out / "checkpoints",
                save_last=True,
                save_top_k=0,
                train_time_interval=timedelta(minutes=config.checkpoint_minutes),
                save_on_train_epoch_end=False,
                save_on_exception=True,
                enable_version_counter=False,
            ),
            pl.callbacks.TQDMProgressBar(refresh_rate=config.log_every),
        ],
        enable_model_summary=False,
    )
    last = out / "checkpoints" / "last.ckpt"
    if last.exists():
        logger.info("resuming %s", last)
    with attention_kernels(trainer):
        trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    return out / "model"


def attention_kernels(trainer: pl.Trainer):
    """Plain attention in half precision on a CPU, where the fused kernel's backward takes three times as long."""
    half_on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision != "32-true"
    return sdpa_kernel(SDPBackend.MATH) if half_on_cpu else nullcontext()
