"""Checks of a run: finite losses, enough memory and disk, an unchanged config; their messages say what to change."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from imagedream.runs.atomic_checkpoints import newest_checkpoint
from imagedream.runs.disk_space import MIB, check_folder, checkpoint_bytes
from imagedream.runs.out_of_memory import is_out_of_memory, requested
from imagedream.runs.settings import flatten
from imagedream.runs.signals import any_process
from imagedream.workshop.training.train_config import TrainConfig

FREE_FIELDS = (
    "out",
    "steps",
    "validate_every",
    "validation_views",
    "validation_view_steps",
    "log_every",
    "checkpoint_minutes",
    "checkpoint_steps",
    "keep_checkpoints",
    "resume_changed",
    "tensorboard",
    "activation_checkpointing",
    "compile",
    "data.cache",
    "data.workers",
    "data.loader_workers",
)
"""May differ from the config that a checkpoint was made with; of the fields that do, `steps` alone changes what is
learned: the schedule follows the new length."""


class FiniteLoss(pl.Callback):
    """Stops the run before a loss that is infinite or no number reaches the weights.

    Args:
        checkpoints: folder of the run's checkpoints, for the message.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self._batch: dict = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: dict, _: int
    ) -> None:
        """Remember what the step shows."""
        self._batch = batch

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Look at the loss; all processes stop together.

        Raises:
            FloatingPointError: with step, loss and objects.
        """
        bad = not bool(loss.detach().isfinite())
        if any_process(trainer, bad)[0]:
            # a loss of an accumulated step is divided by their number
            value = float(loss.detach()) * trainer.accumulate_grad_batches
            shown = ", ".join(self._batch["objects"]) if bad else "those of another process"
            last = newest_checkpoint(self.checkpoints)
            raise FloatingPointError(
                f"the loss is {value} at step {trainer.global_step}, of {shown}; the run stopped before it reached the "
                f"weights; last checkpoint: {last or 'none yet'}"
            )


@contextmanager
def memory_advice(config: TrainConfig) -> Iterator[None]:
    """Turn an out-of-memory error into one that says which settings need less.

    Raises:
        MemoryError: with the present values.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cpu = "DefaultCPUAllocator" in str(error) or isinstance(error, MemoryError)
        effective = config.data.batch_size * config.accumulate * config.devices * config.nodes
        raise MemoryError(
            f"out of memory on the {'CPU' if cpu else 'GPU'}: {requested(error)}. What needs less: a smaller "
            f"data.batch_size ({config.data.batch_size}) with a larger accumulate ({config.accumulate}), of which a step "
            f"sees the product with devices and nodes ({effective} objects); activation_checkpointing=true (is "
            f"{str(config.activation_checkpointing).lower()}); precision=bf16-mixed (is {config.precision}); "
            f"optimizer.kind=muon (is {config.optimizer.kind}); validation_views=0 (is {config.validation_views})"
        ) from error


def check_devices(config: TrainConfig) -> None:
    """Raise ValueError if a config asks for more devices than this machine has."""
    on_gpus = torch.accelerator.is_available()
    most = torch.accelerator.device_count() if on_gpus else max(2, os.cpu_count() or 1)
    if config.devices > most:
        what = "GPUs" if on_gpus else "processes for its cores"
        raise ValueError(
            f"devices is {config.devices}, must be at most {most}: this machine has no more {what}"
        )


def check_space(folder: Path, module: torch.nn.Module, keep: int) -> None:
    """Raise OSError if the disk cannot hold what a run will write.

    A checkpoint has, of what is learned, the average and two moments besides; one more than is kept is there while the
    next is written, and twice the trained part.
    """
    checkpoint = checkpoint_bytes(module, copies=3)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    needed = (keep + 1) * checkpoint + 2 * checkpoint_bytes(module, copies=0) - there
    check_folder(folder, needed, f"a checkpoint takes {checkpoint // MIB} MiB, keep_checkpoints is {keep}")


def check_unchanged(config: TrainConfig, before: Path, checkpoint: Path) -> None:
    """Raise ValueError, naming the fields, if a checkpoint was made with another config.

    Args:
        config: what the run is now.
        before: the `config.yaml` of the run that the checkpoint is of.
        checkpoint: for the message.
    """
    if config.resume_changed or not before.is_file():
        return
    # options that came later were at their defaults then
    defaults = flatten(OmegaConf.to_container(OmegaConf.structured(type(config))))
    then = {name: value for name, value in defaults.items() if value != {}}
    then |= flatten(OmegaConf.to_container(OmegaConf.load(before)))
    now = flatten(asdict(config))
    changed = [
        f"{name} was {then.get(name, 'not there')}, is {now.get(name, 'not there')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name) and name not in FREE_FIELDS
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} is of a run with another config: {'; '.join(changed)}. Name another out=, delete the "
            "checkpoint, or resume all the same with resume_changed=true"
        )
