"""The command line and the config: what can be wrong with them is found out before torch is imported."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threestudio.launching.messages import UsageError

PROJECT = Path(__file__).resolve().parents[3]
MODES = ("train", "validate", "test", "export")
COMPUTED = {
    **dict.fromkeys(("exp_dir", "trial_name", "trial_dir"), "exp_root_dir, name, tag and timestamp"),
    "n_gpus": "--gpu",
}
"""Keys that configs of earlier runs hold and no run reads, and what decides them."""
TRAINER_KEYS_OF_THE_HOST = ("callbacks", "logger", "inference_mode", "accelerator", "devices")


@dataclass(frozen=True)
class Arguments:
    """The checked command line."""

    config: Path
    mode: str
    overrides: list[str]
    gpu: str = "0"
    verbose: bool = False
    threestudio: str | None = None
    preset: str | None = None

    @property
    def devices(self) -> int:
        """How many GPUs are to be used: as many as `--gpu` names, however many are visible."""
        return len(self.gpu.split(","))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(message)


def make_parser() -> argparse.ArgumentParser:
    """The flags of threestudio's launch.py, and `--resume`, `--preset` and `--threestudio`."""
    parser = _Parser(
        prog="launch.py",
        allow_abbrev=False,
        description="Train, validate, test or export a system of threestudio.",
        epilog="Everything else is an override of the config: system.loss.lambda_sds=1.0 tag=chair use_timestamp=false ...",
    )
    parser.add_argument("--config", help="YAML file; a bare name is looked up in configs/")
    parser.add_argument(
        "--gpu",
        default="0",
        help="GPU(s) to use, as in CUDA_VISIBLE_DEVICES, or as many of those that it names (default: 0, one)",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--train", action="store_true", help="train, then test and export (the default)")
    group.add_argument("--validate", action="store_true", help="render the validation views")
    group.add_argument("--test", action="store_true", help="render the turntable")
    group.add_argument("--export", action="store_true", help="write the mesh")
    parser.add_argument(
        "--resume",
        metavar="auto|CKPT",
        help="resume this checkpoint; auto: the trial's newest, if there is one",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="preview, default or paper: how long a run takes and how good it gets; 8g, 12g, 16g, 24g, 40g or 80g: the "
        "config turned down to what a CUDA card of that memory holds; auto: chosen from the memory that is free; "
        "preview+8g: both",
    )
    parser.add_argument("--verbose", action="store_true", help="more messages, and tracebacks of errors")
    parser.add_argument("--threestudio", metavar="DIR", help="folder of a real threestudio to run in")
    return parser


def find_config(name: str, project: Path = PROJECT) -> Path:
    """The config file of that path, or of that name in `configs/`; otherwise an error that lists those there are."""
    folder = project / "configs"
    for path in (Path(os.path.expanduser(name)), folder / name, folder / f"{name}.yaml"):
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
        overrides=extras if known.resume is None else [*extras, f"resume={known.resume}"],
        gpu=known.gpu,
        verbose=known.verbose,
        threestudio=known.threestudio,
        preset=known.preset,
    )


def read_config(arguments: Arguments) -> Any:
    """The merged config, checked as far as possible without building anything; `resume` may still be `auto`."""
    from omegaconf import OmegaConf

    from threestudio.utils.config import ConfigError, ExperimentConfig, check_keys, merge_config

    _check_overrides(arguments.overrides)
    cfg = merge_config(
        arguments.config, cli_args=arguments.overrides, n_gpus=arguments.devices, resolve=False
    )
    check_keys(ExperimentConfig, cfg, "the config")
    missing = _open_keys(OmegaConf.to_container(cfg))
    if missing:
        wanted = " ".join(f"{key}=..." for key in missing)
        raise ConfigError(f"{arguments.config.name} leaves this to you: give {wanted}")
    OmegaConf.resolve(cfg)
    if not cfg.get("tag") and not cfg.get("use_timestamp", True):
        raise ConfigError("a trial without a timestamp needs a tag, so that it has a name: give tag=...")
    OmegaConf.merge(OmegaConf.structured(ExperimentConfig), cfg)  # checks types
    _check_trial_folder(cfg)
    for key in ("data_type", "system_type"):
        if not cfg.get(key):
            raise ConfigError(f"{arguments.config.name}: {key} is missing")
    taken = [key for key in TRAINER_KEYS_OF_THE_HOST if key in (cfg.get("trainer") or {})]
    if taken:
        raise ConfigError(f"trainer.{taken[0]} is set by the launcher; remove it from the config")
    resume = cfg.get("resume")
    if resume not in (None, "auto") and not os.path.isfile(str(resume)):
        raise FileNotFoundError(f"resume={resume}: no such checkpoint")
    return cfg


def _check_trial_folder(cfg: Any) -> None:
    """Raise unless what names folders and files of the trial, with slashes or from a prompt, stays in `exp_root_dir`."""
    from threestudio.utils.config import ConfigError

    name, tag, timestamp = (str(cfg.get(key) or "") for key in ("name", "tag", "timestamp"))
    root = os.path.realpath(str(cfg.get("exp_root_dir", "outputs")))
    experiment = os.path.realpath(os.path.join(root, name or "default"))
    trial = os.path.realpath(os.path.join(experiment, f"{tag}{timestamp}" or "trial"))
    inside = os.path.commonpath([root, experiment]) == root
    if not inside or os.path.commonpath([experiment, trial]) != experiment or trial == experiment:
        raise ConfigError(
            f"name={name} tag={tag} timestamp={timestamp}: the trial's folder must lie in exp_root_dir/name, {root}/..."
        )
    filename, folder = (cfg.get("checkpoint") or {}).get("filename"), os.path.join(trial, "ckpts")
    if filename and os.path.commonpath([folder, os.path.realpath(os.path.join(folder, filename))]) != folder:
        raise ConfigError(f"checkpoint.filename={filename}: must lie in the trial's folder of checkpoints")


def _open_keys(node: Any, prefix: str = "") -> list[str]:
    """Paths of the values that are `???`; OmegaConf.missing_keys names what refers to them too."""
    if isinstance(node, dict):
        return [path for key, value in node.items() for path in _open_keys(value, f"{prefix}{key}.")]
    return [prefix.removesuffix(".")] if node == "???" else []


def _check_overrides(overrides: list[str]) -> None:
    """Raise unless all overrides can be parsed, those of files (`*_path=...`) name existing ones, and none is computed."""
    from omegaconf import OmegaConf

    for override in overrides:
        key, _, value = override.partition("=")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]
            OmegaConf.from_dotlist([override])
        except Exception as error:
            raise UsageError(f"override {override!r} cannot be read: {str(error).splitlines()[0]}") from error
        if key in COMPUTED:
            raise UsageError(f"{override}: {key} is computed; give {COMPUTED[key]} instead")
        if value == "???":  # omegaconf would pass over it
            raise UsageError(f"{override}: ??? stands for a value that is still to be given")
        names_a_file = key.endswith("_path") and not key.endswith(
            "_or_path"
        )  # the latter may name a hub's model
        if names_a_file and isinstance(value, str) and value and not os.path.exists(value):
            raise FileNotFoundError(f"{key}={value}: no such file")
