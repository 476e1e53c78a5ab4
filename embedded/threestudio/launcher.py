"""The command line of the embedded host: arguments -> config -> system -> train, test, export.

What can be wrong with arguments and config is found out before torch is imported.
"""

import argparse
import errno
import importlib.util
import inspect
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threestudio

PROJECT = Path(__file__).resolve().parents[2]
MODES = ("train", "validate", "test", "export")
MIN_FREE_BYTES = 200 * 2**20
_TRAINER_KEYS_OF_THE_HOST = ("callbacks", "logger", "inference_mode", "accelerator", "devices")
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


class UsageError(ValueError):
    """A command line that cannot be run."""


class CustomModuleError(ImportError):
    """An extension in `custom/` that cannot be imported."""


# ------------------------------------------------------------------------------------------------- command line


@dataclass(frozen=True)
class Arguments:
    """The checked command line."""

    config: Path
    mode: str
    overrides: list[str]
    gpu: str = "0"
    verbose: bool = False
    threestudio: str | None = None
    mode_given: bool = True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


def make_parser() -> argparse.ArgumentParser:
    """The flags of threestudio's launch.py, and `--threestudio`."""
    parser = _Parser(
        prog="launch.py",
        allow_abbrev=False,
        description="Train, validate, test or export a system of threestudio.",
        epilog="Everything else is an override of the config: system.loss.lambda_sds=1.0 tag=chair use_timestamp=false ...",
    )
    parser.add_argument("--config", help="YAML file; a bare name is looked up in configs/")
    parser.add_argument("--gpu", default="0", help="GPU(s) to use, as in CUDA_VISIBLE_DEVICES (default: 0)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--train", action="store_true", help="train, then test and export (the default)")
    group.add_argument("--validate", action="store_true", help="render the validation views")
    group.add_argument("--test", action="store_true", help="render the turntable")
    group.add_argument("--export", action="store_true", help="write the mesh")
    parser.add_argument("--verbose", action="store_true", help="more messages, and tracebacks of errors")
    parser.add_argument("--threestudio", metavar="DIR", help="folder of a real threestudio to run in")
    return parser


def find_config(name: str, project: Path = PROJECT) -> Path:
    """The config file of that path, or of that name in `configs/`; otherwise an error that lists those there are."""
    folder = project / "configs"
    for path in (Path(name), folder / name, folder / f"{name}.yaml"):
        if path.is_file():
            return path.resolve()
    kind = "is a folder" if Path(name).is_dir() else "not found"
    raise UsageError(f"config {name!r} {kind}; configs in {folder}: {_known_configs(project)}")


def _known_configs(project: Path) -> str:
    return ", ".join(sorted(p.name for p in (project / "configs").glob("*.yaml"))) or "none"


def parse_arguments(argv: Sequence[str], project: Path = PROJECT) -> Arguments:
    """Check the flags, the config's path and the form of the overrides."""
    parser = make_parser()
    known, extras = parser.parse_known_args(list(argv))
    flags = [extra for extra in extras if extra.startswith("-")]
    if flags:
        every = ", ".join(sorted(o for a in parser._actions for o in a.option_strings if o.startswith("--")))
        raise UsageError(f"unknown flag {flags[0]}; flags: {every}")
    for extra in extras:
        key, equals, _ = extra.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"{extra!r} is not an override; write key=value, for example tag=chair")
    if known.config is None:
        raise UsageError(f"--config is missing; configs: {_known_configs(project)}")
    given = [mode for mode in MODES if getattr(known, mode)]
    return Arguments(
        config=find_config(known.config, project),
        mode=given[0] if given else "train",
        overrides=extras,
        gpu=known.gpu,
        verbose=known.verbose,
        threestudio=known.threestudio,
        mode_given=bool(given),
    )


# ------------------------------------------------------------------------------------- checks before torch loads


def read_config(arguments: Arguments, n_gpus: int = 1) -> Any:
    """The merged config, checked as far as possible without building anything."""
    from omegaconf import OmegaConf

    from threestudio.utils.config import ConfigError, ExperimentConfig, check_keys, merge_config

    _check_overrides(arguments.overrides)
    cfg = merge_config(arguments.config, cli_args=arguments.overrides, n_gpus=n_gpus, resolve=False)
    check_keys(ExperimentConfig, cfg, "the config")
    missing = _open_keys(OmegaConf.to_container(cfg))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"{arguments.config.name} leaves this to you: give {wanted}")
    OmegaConf.resolve(cfg)
    if not cfg.get("tag") and not cfg.get("use_timestamp", True):
        raise ConfigError("a trial without a timestamp needs a tag, so that it has a name: give tag=...")
    OmegaConf.merge(
        OmegaConf.structured(ExperimentConfig), cfg
    )  # checks types; the class itself makes no folder
    for key in ("data_type", "system_type"):
        if not cfg.get(key):
            raise ConfigError(f"{arguments.config}: {key} is missing")
    taken = [key for key in _TRAINER_KEYS_OF_THE_HOST if key in (cfg.get("trainer") or {})]
    if taken:
        raise ConfigError(f"trainer.{taken[0]} is set by the launcher; remove it from the config")
    resume = cfg.get("resume")
    if resume is not None and not os.path.isfile(str(resume)):
        raise FileNotFoundError(f"resume={resume}: no such checkpoint")
    return cfg


def _open_keys(node: Any, prefix: str = "") -> list[str]:
    """Paths of the values that are `???`."""
    if isinstance(node, dict):
        return [path for key, value in node.items() for path in _open_keys(value, f"{prefix}{key}.")]
    return [prefix.removesuffix(".")] if node == "???" else []


def _check_overrides(overrides: list[str]) -> None:
    """Raise unless all overrides can be parsed and those of files (`*_path=...`) name existing ones."""
    from omegaconf import OmegaConf

    for override in overrides:
        key, _, value = override.partition("=")
        try:
            OmegaConf.from_dotlist([override])
        except Exception as error:
            raise UsageError(f"override {override!r} cannot be read: {one_line(error)}") from error
        names_a_file = key.endswith("_path") and not key.endswith(
            "_or_path"
        )  # the latter may name a hub's model
        if names_a_file and value not in ("", "null") and not os.path.exists(value.strip("'\"")):
            raise FileNotFoundError(f"{key}={value}: no such file")


def check_output_folder(folder: str | Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
    """Raise unless `folder` can be made and written, on a disk with enough space."""
    nearest = Path(folder).absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(f"the run folder {folder} cannot be made: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"the run folder {folder} cannot be made: {nearest} is not writable")
    free = shutil.disk_usage(nearest).free
    if free < min_free_bytes:
        raise OSError(
            errno.ENOSPC,
            f"only {free / 2**20:.0f} MiB free at {nearest}, a run needs {min_free_bytes / 2**20:.0f} MiB",
        )


# ----------------------------------------------------------------------------------------------- custom modules


def load_custom_modules(folder: str | Path) -> dict[str, float]:
    """Import everything in `custom/` (sorted; hidden and `*_disabled` entries skipped) and return the seconds it took.

    A folder `X` becomes the package `X`, hyphens and all; a file `y.py` becomes the module `custom/y`.

    Raises:
        CustomModuleError: one cannot be imported; what it had registered by then is forgotten.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return {}
    seconds = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "__")) or entry.stem.endswith("_disabled"):
            continue
        if entry.is_dir() and (entry / "__init__.py").is_file():
            name, source, search = entry.name, entry / "__init__.py", [str(entry)]
        elif entry.suffix == ".py":
            name, source, search = f"{folder.name}/{entry.stem}", entry, None
        else:
            continue
        begin = time.time()
        if getattr(sys.modules.get(name), "__file__", None) != str(source):
            _import_from(name, source, search)
        seconds[name] = time.time() - begin
        for inner in entry.glob("*/__init__.py") if entry.is_dir() else ():
            logging.getLogger(inner.parent.name).setLevel(
                logging.INFO
            )  # libraries that come with the extension
    threestudio.debug("Custom modules: " + ", ".join(f"{name} in {s:.1f} s" for name, s in seconds.items()))
    return seconds


def _import_from(name: str, source: Path, search: list[str] | None) -> None:
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=search)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    before = set(threestudio.__modules__)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        for inner in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[inner]
        for registered in set(threestudio.__modules__) - before:
            if threestudio.__modules__[registered].__module__.split(".")[0] == name:
                del threestudio.__modules__[registered]
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise CustomModuleError(
            f"custom module {name} cannot be imported: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        ) from error


# ---------------------------------------------------------------------------------------------------------- logs


class _StderrHandler(logging.StreamHandler):
    """Writes above a running progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if sys.stderr.isatty():
            tqdm.write(self.format(record), file=sys.stderr)
        else:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()


def set_up_logging(verbose: bool) -> None:
    """One handler for everybody, on stderr; `[LEVEL] message`."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    root.addHandler(handler)
    threestudio.logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    for chatty in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(chatty).setLevel(logging.INFO if verbose else logging.WARNING)


def _drop_lightning_handlers() -> None:
    """Lightning adds a handler of its own at import, which would print every message twice."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).propagate = True


# ----------------------------------------------------------------------------------------------------------- run


def _remove_if_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not there, or not empty
            folder.rmdir()


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
        _remove_if_empty([p for p in (trial / "save", trial, trial.parent, root) if p not in existed])
        raise


def read_checkpoint_status(path: str) -> tuple[int, int]:
    """Epoch and step of a checkpoint, which must hold nothing but tensors and plain values."""
    import pickle

    import torch

    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(checkpoint["epoch"]), int(checkpoint["global_step"])
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} is not a checkpoint that can be resumed: {str(error).splitlines()[0]}"
        ) from error


def _check_keys_of(function: Any, options: dict, where: str, without: tuple[str, ...]) -> None:
    allowed = [name for name in inspect.signature(function).parameters if name not in ("self", *without)]
    unknown = [key for key in options if key not in allowed]
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]}; allowed: {', '.join(sorted(allowed))}")


def _make_trainer(cfg: Any, arguments: Arguments, callbacks: list, loggers: Any) -> Any:
    import pytorch_lightning as pl
    import torch

    from threestudio.utils.config import config_to_primitive

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
        **options,
    )


def _training_extras(cfg: Any, arguments: Arguments) -> tuple[list, list]:
    """Callbacks and loggers of a training run."""
    from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

    from threestudio.utils.callbacks import CodeSnapshotCallback, ConfigSnapshotCallback
    from threestudio.utils.config import config_to_primitive

    trial = Path(cfg.trial_dir)
    # a resumed trial goes on with the same last.ckpt instead of starting a last-v1.ckpt
    options = {"enable_version_counter": False, **config_to_primitive(cfg.checkpoint)}
    _check_keys_of(ModelCheckpoint.__init__, options, "checkpoint", without=("dirpath",))
    callbacks = [
        ModelCheckpoint(dirpath=str(trial / "ckpts"), **options),
        LearningRateMonitor(logging_interval="step"),
        ConfigSnapshotCallback(arguments.config, cfg, trial / "configs"),
        CodeSnapshotCallback(trial / "code", PROJECT),
        StopOnInterrupt(trial / "ckpts" / "last.ckpt"),
    ]
    loggers: list[Any] = [CSVLogger(str(trial), name="csv_logs")]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.insert(0, TensorBoardLogger(str(trial), name="tb_logs"))
    return callbacks, loggers


def StopOnInterrupt(checkpoint: Path) -> Any:
    """Callback: the first Ctrl-C ends the optimisation after the current step, the second one ends the program."""
    from pytorch_lightning.callbacks import Callback

    class _StopOnInterrupt(Callback):
        def __init__(self) -> None:
            self.interrupted = False
            self._previous: Any = None

        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage != "fit" or threading.current_thread() is not threading.main_thread():
                return

            def stop(signum: int, frame: Any) -> None:
                if self.interrupted:
                    raise KeyboardInterrupt
                self.interrupted = True
                trainer.should_stop = True
                threestudio.warn(
                    "Ctrl-C: stopping after this step, then test and export; press again to quit"
                )

            self._previous = signal.signal(signal.SIGINT, stop)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.should_stop or self.interrupted

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self.interrupted:
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                trainer.save_checkpoint(checkpoint)
                threestudio.info(
                    f"Stopped at step {trainer.global_step} of {trainer.max_steps}; resume={checkpoint}"
                )

        def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
            if stage == "fit":
                self.restore()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self.restore()

        def restore(self) -> None:
            if self._previous is not None:
                signal.signal(signal.SIGINT, self._previous)
                self._previous = None

    return _StopOnInterrupt()


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
        _run_phases(arguments, cfg, system_class, data_class, started)
    return 0


def _run_phases(arguments: Arguments, cfg: Any, system_class: type, data_class: type, started: float) -> None:
    import pytorch_lightning as pl
    import torch

    from threestudio.systems.base import BaseLift3DSystem, BaseSystem
    from threestudio.utils.callbacks import PhaseTimer, TimeLeftProgressBar
    from threestudio.utils.misc import get_rank

    _drop_lightning_handlers()
    _check_keys_of(
        pl.Trainer.__init__, cfg.get("trainer") or {}, "trainer", without=_TRAINER_KEYS_OF_THE_HOST
    )
    resume = cfg.get("resume")
    status = None if resume is None else read_checkpoint_status(resume)
    pl.seed_everything(cfg.get("seed", 0) + get_rank(), workers=True, verbose=False)

    training = arguments.mode == "train"
    with _trial_folder(cfg) as experiment:
        datamodule = data_class(experiment.data)
        system = system_class(experiment.system, resumed=resume is not None)
        system.set_save_dir(os.path.join(experiment.trial_dir, "save"))
        if training and type(system).configure_optimizers is BaseSystem.configure_optimizers:
            system.configure_optimizers()  # mistakes in its config show before anything is written
        callbacks, loggers = _training_extras(experiment, arguments) if training else ([], False)
        if training:
            loggers += system.get_loggers()
        if experiment.trainer.get("enable_progress_bar", True):
            callbacks.append(TimeLeftProgressBar())
        trainer = _make_trainer(experiment, arguments, callbacks, loggers)
        if type(system).predict_step is BaseLift3DSystem.predict_step and not experiment.system.get(
            "exporter", {}
        ).get("save_video", False):
            trainer.limit_predict_batches = 1  # the views are not looked at

    timer = PhaseTimer(Path(experiment.trial_dir, "save", "timings.json"), started, keep=not training)
    timer.facts = {"device": str(trainer.strategy.root_device), "threads": torch.get_num_threads()}
    now = timer.finish("setup", started)
    # the checkpoint's other contents are plain values, so nothing in it needs to be executed
    from_file = {"ckpt_path": resume, "weights_only": True}
    if training:
        command = "python " + " ".join(sys.argv) + "\n" + str(arguments) + "\n"
        Path(experiment.trial_dir, "cmd.txt").write_text(command, encoding="utf-8")
        trainer.fit(system, datamodule=datamodule, **from_file)
        timer.facts["steps"] = trainer.global_step
        timer.facts["interrupted"] = any(getattr(callback, "interrupted", False) for callback in callbacks)
        now = timer.finish("fit", now)
        from_file = {}
    elif status is not None:
        system.set_resume_status(*status)
    if arguments.mode == "validate":
        trainer.validate(system, datamodule=datamodule, verbose=False, **from_file)
        timer.finish("validate", now)
    if arguments.mode in ("train", "test"):
        trainer.test(system, datamodule=datamodule, verbose=False, **from_file)
        now = timer.finish("test", now)
    if arguments.mode in ("train", "export"):
        trainer.predict(system, datamodule=datamodule, return_predictions=False, **from_file)
        timer.finish("export", now)
    threestudio.info(f"Done in {time.time() - started:.0f} s: {experiment.trial_dir}")


# -------------------------------------------------------------------------------------------------------- errors


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone tells the user what to do."""
    if isinstance(error, ValueError | OSError | CustomModuleError | threestudio.UnknownNameError):
        return True
    if type(error).__module__.split(".")[0] in ("omegaconf", "yaml"):
        return True
    is_config_error = type(error).__name__ == "MisconfigurationException"
    return is_config_error or _is_weights_mismatch(error) or _is_failed_save(error)


def _is_weights_mismatch(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "Error(s) in loading state_dict" in str(error)


def _is_failed_save(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "PytorchStreamWriter failed" in str(error)


def one_line(error: BaseException) -> str:
    """The error's message on one line."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    elif getattr(error, "full_key", None):  # omegaconf: the rest of its message is about its own types
        text = f"{error.full_key}: {str(error).splitlines()[0]}"
    else:
        text = str(error) or type(error).__name__
    if _is_weights_mismatch(error):
        text = "the checkpoint does not fit this config: " + text
    if _is_failed_save(error):
        text = "a checkpoint could not be written (is the disk full?): " + text
    return " ".join(text.split())


def report_error(error: BaseException, verbose: bool) -> int:
    """One line on stderr, with `--verbose` the traceback before it; the exit code."""
    if verbose:
        traceback.print_exception(error)
    sys.stderr.write(f"error: {one_line(error)}\n")
    return 2


def main(argv: Sequence[str] | None = None, project: Path = PROJECT) -> int:
    """Run the command line; mistakes of the user end in one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        return run(parse_arguments(argv, project), project)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except Exception as error:
        if not is_user_error(error):
            raise
        return report_error(error, verbose="--verbose" in argv)
