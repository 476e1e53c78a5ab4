"""`python -m imagedream train --config F`: from a YAML to a trained part of the model."""

import logging
import shlex
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from omegaconf import OmegaConf
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from imagedream.runs.atomic_checkpoints import newest_checkpoint
from imagedream.runs.disk_space import check_folder
from imagedream.runs.files import atomic_path
from imagedream.runs.locks import locked
from imagedream.runs.versions import write_versions
from imagedream.workshop.training.build import build_module, check_image_size
from imagedream.workshop.training.checkpointing import requeue
from imagedream.workshop.training.checks import check_devices, check_space, check_unchanged, memory_advice
from imagedream.workshop.training.train_config import TrainConfig, read_config
from imagedream.workshop.training.trainer import (
    attention_kernels,
    make_trainer,
    stopped_by,
    without_known_warnings,
)
from imagedream.workshop.training.training_data import TrainingData

logger = logging.getLogger(__name__)


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
    check_devices(config)
    out = Path(config.out)
    last = newest_checkpoint(out / "checkpoints")
    data = TrainingData(config.data, config.seed)  # first: a wrong folder is noticed before weights load
    if last is not None:
        check_unchanged(config, out / "config.yaml", last)
    check_folder(out)
    first = rank_zero_only.rank == 0
    with memory_advice(config), locked(out, "training") if first else nullcontext():
        if first:
            data.prepare_data()  # what is wrong with samples is noticed before weights load, too
        module = build_module(config)
        check_image_size(config, module)
        check_space(out, module, config.keep_checkpoints)
        write_record(out, config)
        trainer = make_trainer(config, module)
        if last is not None:
            logger.info("resuming %s", last)
        with attention_kernels(trainer), without_known_warnings():
            trainer.fit(module, data, ckpt_path=last, weights_only=True)
    stopped = stopped_by(trainer)
    if stopped is not None and stopped.name == "SIGUSR1" and trainer.is_global_zero:
        requeue()
    if stopped is not None:
        raise KeyboardInterrupt if stopped == signal.SIGINT else SystemExit(128 + stopped)
    return out / module.result


@rank_zero_only
def write_record(out: Path, config: TrainConfig) -> None:
    """What was run: `command.txt` (a line a start), `config.yaml` (resolved), `versions.json` (packages, git, devices)."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "command.txt", "a") as file:
        file.write(shlex.join(sys.argv) + "\n")
    with atomic_path(out / "config.yaml") as temporary:
        OmegaConf.save(OmegaConf.structured(config), temporary)
    write_versions(out)
