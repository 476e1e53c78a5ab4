"""Lightning's trainer for a config."""

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.nn.attention import SDPBackend, sdpa_kernel

from imagedream.memory_options import check_compiler, computes_in_bfloat16
from imagedream.runs.signals import StopOnSignal
from imagedream.workshop.training.averaged_weights import AveragedWeights
from imagedream.workshop.training.checkpointing import TrainingCheckpoints, slurm_job
from imagedream.workshop.training.checks import FiniteLoss
from imagedream.workshop.training.run_logging import Bar, Statistics
from imagedream.workshop.training.train_config import TrainConfig
from imagedream.workshop.training.training_module import Training
from imagedream.workshop.training.validation_views import ValidationViews

logger = logging.getLogger(__name__)


def make_trainer(config: TrainConfig, module: Training) -> pl.Trainer:
    """Lightning's trainer with all that a config asks for around a module's steps."""
    out = Path(config.out)
    if config.activation_checkpointing:
        module.model.enable_gradient_checkpointing()
    if config.compile:
        check_compiler(_device())
        module.model.compile()
    average = AveragedWeights(config.ema_decay, out)
    statistics = Statistics(out / "stats.jsonl", config.log_every)
    callbacks = [
        average,
        statistics,
        FiniteLoss(out / "checkpoints"),
        StopOnSignal(
            "the same command resumes",
            more=[signal.SIGUSR1] if slurm_job() else [],
            quits=[signal.SIGINT],  # a queue may send others more than once
        ),
        TrainingCheckpoints(
            out / "checkpoints",
            config.checkpoint_minutes,
            config.checkpoint_steps,
            config.keep_checkpoints,
            average.write,
        ),
        Bar(refresh_rate=config.log_every),
    ]
    if config.part == "diffusion" and config.validation_views:
        objects, steps = config.validation_views, config.validation_view_steps
        callbacks.append(ValidationViews(out / "validation", statistics, objects, steps))
    return pl.Trainer(
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.nodes,
        precision=choose_precision(config.precision),
        max_steps=config.steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip,
        val_check_interval=config.validate_every * config.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # batches know their process; every process validates all objects
        logger=TensorBoardLogger(out, name="", version="tensorboard") if config.tensorboard else False,
        log_every_n_steps=config.log_every,
        # StopOnSignal handles the signals of the queue
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else [],
        callbacks=callbacks,
        enable_model_summary=False,
    )


def choose_precision(asked: str) -> str:
    """Lightning's name of a precision: for `auto` bf16-mixed where the device computes in bfloat16, 32-true elsewhere."""
    able = computes_in_bfloat16(_device())
    if asked == "auto":
        chosen = "bf16-mixed" if able else "32-true"
        logger.info("precision %s", chosen)
        return chosen
    if asked.startswith("bf16") and not able:
        logger.warning("precision is %s, which this device does not compute in: 32-true is faster", asked)
    return asked


def _device() -> torch.device:
    """Where Lightning will train."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def stopped_by(trainer: pl.Trainer) -> signal.Signals | None:
    """The signal that ended a run before its last step."""
    return next(one.signal for one in trainer.callbacks if isinstance(one, StopOnSignal))


@contextmanager
def without_known_warnings() -> Iterator[None]:
    """Lightning speaks of its own internals, and of choices made on purpose here."""
    with warnings.catch_warnings():
        for message in (
            ".*LeafSpec.*",  # Lightning's own use of PyTorch
            ".*sync_dist=True.*",  # every process validates all objects; training numbers are reduced by Statistics
            ".*overridden `transfer_batch_to_device`.*",  # the modules know what belongs on the device
            ".*does not have many workers.*",  # data.loader_workers says how many
        ):
            warnings.filterwarnings("ignore", message)
        yield


def attention_kernels(trainer: pl.Trainer) -> AbstractContextManager:
    """Plain attention in half precision on a CPU, where the fused kernel's backward takes three times as long."""
    half_on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision != "32-true"
    return sdpa_kernel(SDPBackend.MATH) if half_on_cpu else nullcontext()
