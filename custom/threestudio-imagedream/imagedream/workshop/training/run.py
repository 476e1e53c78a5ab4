"""`python -m imagedream train --config F`: from a YAML to a trained part of the model."""

import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imagedream.runs.checkpoints import newest_checkpoint
from imagedream.runs.settings import read_settings
from imagedream.runs.space import check_folder
from imagedream.workshop.training.augmentations import AugmentationConfig
from imagedream.workshop.training.build import build_module
from imagedream.workshop.training.checkpointing import requeue
from imagedream.workshop.training.checks import check_unchanged, memory_advice
from imagedream.workshop.training.diffusion import ConditioningConfig
from imagedream.workshop.training.lora import FILE, LoraConfig, build_adapted
from imagedream.workshop.training.objectives import ObjectiveConfig
from imagedream.workshop.training.objects import DataConfig, TrainingData
from imagedream.workshop.training.optimizers import OptimizerConfig
from imagedream.workshop.training.run_folder import check_space, write_record
from imagedream.workshop.training.strategies import STRATEGIES
from imagedream.workshop.training.trainer import (
    attention_kernels,
    make_trainer,
    stopped_by,
    without_known_warnings,
)

logger = logging.getLogger(__name__)

PARTS = ("encoder", "autoencoder", "diffusion")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")


@dataclass
class TrainConfig:
    """Everything a training run is made of."""

    part: str = MISSING
    """What is trained: encoder, autoencoder or diffusion."""
    out: str = MISSING
    """Run folder: `model/` (the trained part), `checkpoints/last.ckpt`, `config.yaml`, `stats.jsonl`."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of `ImageTextEncoder`, `AutoencoderKL` or `MultiViewUNet`; what is left out of the latter's is the published
    network's (`imagedream.workshop.training.architectures`)."""
    scheduler: dict[str, Any] = field(default_factory=dict)
    """Arguments of `DDIMScheduler`; what is left out is the published model's (diffusion)."""
    initial: str = ""
    """What to start from: the folder of a trained part (`.../unet`, `.../vae`, `.../encoder`), or anything that
    `imagedream.checkpoints.load` knows: a model folder, an official ImageDream or MVDream file, Stable Diffusion 2.1, an id
    on the hub; empty: random weights."""
    learn: Any = "all"
    """What is learned: `all`, `controllers`, or a list of names of parameters or modules; the rest stays frozen."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """An adapter beside the network's weights instead of these (diffusion)."""
    autoencoder: str = ""
    """The autoencoder to work with: its folder, or a model as for `initial` (diffusion)."""
    encoder: str = ""
    """The towers to work with: their folder, a model as for `initial`, or `ARCHITECTURE:WEIGHTS` of open_clip
    (diffusion)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Samples and batches."""
    principal_encoder: bool = False
    """Principal components for an encoder, only the decoder learns (autoencoder)."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser and learning rate."""
    conditioning: ConditioningConfig = field(default_factory=ConditioningConfig)
    """Dropout of conditions (diffusion)."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Weights of the noise levels (diffusion)."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Changes to the objects' pictures (diffusion)."""
    steps: int = 1000
    """Optimiser steps."""
    seed: int = 0
    """Of everything random."""
    precision: str = "32-true"
    """One of Lightning's, e.g. bf16-mixed; `auto` is bf16-mixed where the device computes in bfloat16, else 32-true."""
    accumulate: int = 1
    """Batches a step."""
    gradient_clip: float = 1.0
    """Largest gradient norm."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is saved."""
    validate_every: int = 200
    """Steps between validations."""
    validation_views: int = 4
    """Validation objects of which four views are sampled, drawn and scored at each validation; 0 is none (diffusion)."""
    validation_view_steps: int = 20
    """Sampler steps of these."""
    log_every: int = 10
    """Steps between lines of stats.jsonl."""
    tensorboard: bool = False
    """The same numbers and pictures for TensorBoard, in `tensorboard/` (needs the package)."""
    checkpoint_minutes: float = 5.0
    """Minutes between checkpoints and snapshots of the model."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, besides; 0 goes by time alone."""
    keep_checkpoints: int = 2
    """The newest that stay."""
    resume_changed: bool = False
    """Go on from a checkpoint although the config has changed since; learning rates stay those of the checkpoint."""
    devices: int = 1
    """Devices (on a CPU: processes) of each machine."""
    nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """auto (one device, or ddp), ddp (all weights on every device) or fsdp (weights spread over the devices; diffusion)."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """`torch.compile` for the trained part."""

    def __post_init__(self):
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}, must be one of {', '.join(STRATEGIES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, must be one of {', '.join(PRECISIONS)}")
        if self.strategy == "fsdp" and self.part != "diffusion":
            raise ValueError(
                f"strategy is fsdp, which is for part diffusion; {self.part} fits every device: use ddp"
            )
        if self.strategy == "fsdp" and self.optimizer.kind == "muon":
            raise ValueError(
                "optimizer.kind is muon, which needs whole matrices, and strategy is fsdp, which cuts them: use ddp, or "
                "adamw or adafactor"
            )
        if self.lora.rank:
            if self.part != "diffusion" or self.strategy == "fsdp":
                raise ValueError(
                    f"lora.rank is {self.lora.rank}, part {self.part} and strategy {self.strategy}: an adapter is for part "
                    "diffusion, on one device or with ddp"
                )
            for name in ("model", "scheduler", "initial", "autoencoder", "encoder"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, but with lora.rank {self.lora.rank} all parts come from "
                        f"lora.weights ({self.lora.weights})"
                    )
            if self.learn != "all":
                raise ValueError(
                    f"learn is {self.learn}, but with lora.rank {self.lora.rank} the network stays frozen"
                )
        for name, least in (
            ("steps", 1),
            ("accumulate", 1),
            ("validate_every", 1),
            ("validation_views", 0),
            ("validation_view_steps", 1),
            ("log_every", 1),
            ("checkpoint_steps", 0),
            ("keep_checkpoints", 1),
            ("devices", 1),
            ("nodes", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least {least}")


def read_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """A YAML file and `key=value` overrides; unknown keys and wrong types are errors.

    `base` in the file names another one, of which this one is a change (`imagedream.runs.settings`).

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
            OmegaConf.structured(TrainConfig), read_settings(path), OmegaConf.from_dotlist(overrides or [])
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
        The folder of the trained part, or the file of the trained adapter.

    Raises:
        ValueError: what the config names does not fit together, or not the run in the folder.
        OSError: the run folder cannot be written or has no room.
        FloatingPointError: the loss or the weights stopped being finite.
        MemoryError: a device has too little memory; says what needs less.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
        SystemExit: another signal asked the run to stop, after a checkpoint.
    """
    config = read_config(path, overrides)
    out, checkpoints = Path(config.out), Path(config.out) / "checkpoints"
    last = newest_checkpoint(checkpoints)
    data = TrainingData(config.data, config.seed)  # first: a wrong folder is noticed before weights load
    if last is not None:
        check_unchanged(config, out / "config.yaml", last)
    check_folder(out)
    with memory_advice(config):
        module = build_adapted(config) if config.lora.rank else build_module(config)
        check_space(out, module, config.keep_checkpoints)
        write_record(out, config)
        trainer = make_trainer(config, module)
        if last is not None:
            logger.info("resuming %s", last)
        with attention_kernels(trainer), without_known_warnings():
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
    stopped = stopped_by(trainer)
    if stopped == signal.SIGUSR1 and trainer.is_global_zero:
        requeue()
    if stopped is not None:
        raise KeyboardInterrupt if stopped == signal.SIGINT else SystemExit(128 + stopped)
    return out / (FILE if config.lora.rank else "model")
