"""The embedded host's launcher: arguments -> config -> system -> training, turntable, export."""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import threestudio
from threestudio.launching.arguments import PROJECT, Arguments, parse_arguments, read_config
from threestudio.launching.extensions import load_custom_modules
from threestudio.launching.messages import (
    Quit,
    drop_lightning_handlers,
    is_user_error,
    report_error,
    set_up_logging,
)
from threestudio.launching.resuming import read_status, resume_automatically, set_aside
from threestudio.launching.space import check_output_folder, check_trial

_QUIET_WARNINGS = (
    r".*does not have many workers.*",  # the cameras are drawn in the main process on purpose
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed trial
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the endless dataset has one epoch
    r".*is already configured.*model summary.*",
    r".*GPU available but not used.*",
    r".*The `?srun`? command is available.*",
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # frozen guidance models
    r".*Be aware that when using `ckpt_path`, callbacks used.*",  # other modes have no checkpoint callback
    r".*predict returned None.*",  # exports are files, not predictions
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 on torch 2.15
)


@contextmanager
def _trial_folder(cfg: Any) -> Iterator[Any]:
    """The ExperimentConfig, which makes the trial's folder; if setting up fails, no empty folder stays behind."""
    from threestudio.utils.config import ExperimentConfig, parse_structured

    root = Path(cfg.get("exp_root_dir", ExperimentConfig.exp_root_dir))
    existed = [path for path in (root / str(cfg.get("name", ExperimentConfig.name)), root) if path.exists()]
    experiment = parse_structured(ExperimentConfig, cfg)
    trial = Path(experiment.trial_dir)
    try:
        yield experiment
    except BaseException:
        for path in (trial / "save", trial, trial.parent, root):
            if path not in existed:
                with suppress(OSError):  # not there, or not empty
                    path.rmdir()
        raise


def run(arguments: Arguments, project: Path = PROJECT) -> int:
    """Do what the command line asks for."""
    started = time.time()
    set_up_logging(arguments.verbose)
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or arguments.gpu
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    cfg = read_config(arguments, n_gpus=len(gpus.split(",")))
    check_output_folder(Path(cfg.get("exp_root_dir", "outputs")))

    with warnings.catch_warnings():
        for pattern in _QUIET_WARNINGS:
            warnings.filterwarnings("ignore", message=pattern)
        load_custom_modules(project / "custom")
        system_class, data_class = threestudio.find(cfg.system_type), threestudio.find(cfg.data_type)
        preflight = getattr(system_class, "preflight", None)
        if preflight is not None:
            preflight(cfg.get("system") or {})
        drop_lightning_handlers()
        if arguments.estimate:
            from threestudio.launching.estimate import estimate

            sys.stdout.write(estimate(arguments, cfg, system_class, data_class, started))
        else:
            resume_automatically(cfg)
            run_phases(arguments, cfg, system_class, data_class, started)
    return 0


def run_phases(
    arguments: Arguments,
    cfg: Any,
    system_class: type,
    data_class: type,
    started: float,
    more_callbacks: Sequence[Any] = (),
) -> Any:
    """Train, validate, test or export, as the mode says; returns the experiment's config."""
    import pytorch_lightning as pl
    import torch

    from threestudio.launching.stopping import PhaseEnded, StopOnSignal
    from threestudio.launching.trainer import check_options, make_trainer, training_extras
    from threestudio.systems.base import BaseLift3DSystem, BaseSystem
    from threestudio.utils.callbacks import PhaseTimer, progress_callbacks
    from threestudio.utils.misc import get_rank

    check_options(cfg)
    resume = cfg.get("resume")
    status = None if resume is None else read_status(resume)
    pl.seed_everything(cfg.get("seed", 0) + get_rank(), workers=True, verbose=False)

    training = arguments.mode == "train"
    with _trial_folder(cfg) as experiment:
        datamodule = data_class(experiment.data)
        system = system_class(experiment.system, resumed=resume is not None)
        if training:
            if type(system).configure_optimizers is BaseSystem.configure_optimizers:
                system.configure_optimizers()  # mistakes in its config show before anything is written
            check_trial(experiment.trial_dir, system, experiment)
            if resume is None and get_rank() == 0:
                set_aside(experiment.trial_dir)
        system.set_save_dir(os.path.join(experiment.trial_dir, "save"))
        stop = StopOnSignal(Path(experiment.trial_dir, "ckpts", "last.ckpt"))
        callbacks, loggers = training_extras(experiment, arguments) if training else ([], False)
        callbacks += [stop, *more_callbacks]
        if training:
            loggers += system.get_loggers()
        if experiment.trainer.get("enable_progress_bar", True):
            callbacks += progress_callbacks()
        trainer = make_trainer(experiment, arguments, callbacks, loggers)
        if type(system).predict_step is BaseLift3DSystem.predict_step and not experiment.system.get(
            "exporter", {}
        ).get("save_video", False):
            trainer.limit_predict_batches = 1  # the views are not looked at

    timer = PhaseTimer(Path(experiment.trial_dir, "save", "timings.json"), started, keep=not training)
    timer.facts = {"device": str(trainer.strategy.root_device), "threads": torch.get_num_threads()}
    now = timer.finish("setup", started)
    # the checkpoint's other contents are plain values, so nothing in it needs to be executed
    from_file = {"ckpt_path": resume, "weights_only": True}
    with stop:
        if training:
            command = "python " + " ".join(sys.argv) + "\n" + str(arguments) + "\n"
            Path(experiment.trial_dir, "cmd.txt").write_text(command, encoding="utf-8")
            trainer.fit(system, datamodule=datamodule, **from_file)
            timer.facts |= {"steps": trainer.global_step, "interrupted": stop.interrupted}
            now = timer.finish("fit", now)
            from_file = {}
        elif status is not None:
            system.set_resume_status(*status)
        if arguments.mode == "validate":
            trainer.validate(system, datamodule=datamodule, verbose=False, **from_file)
            timer.finish("validate", now)
        # whoever sends SIGTERM does not wait long: the mesh comes first, the turntable not at all
        if arguments.mode in ("train", "test") and not stop.is_urgent:
            with suppress(PhaseEnded):
                trainer.test(system, datamodule=datamodule, verbose=False, **from_file)
            now = timer.finish("test", now)
        if arguments.mode in ("train", "export"):
            trainer.predict(system, datamodule=datamodule, return_predictions=False, **from_file)
            timer.finish("export", now)
    threestudio.info(f"Done in {time.time() - started:.0f} s: {experiment.trial_dir}")
    return experiment


def main(argv: Sequence[str] | None = None, project: Path = PROJECT) -> int:
    """Run the command line; mistakes of the user end in one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run(parse_arguments(argv, project), project)
    except (KeyboardInterrupt, Quit):
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if not is_user_error(error):
            raise
        return report_error(error, verbose="--verbose" in argv)
