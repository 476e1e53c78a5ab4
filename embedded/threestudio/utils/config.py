"""YAML files and `a.b=c` overrides -> structured configs. Imports no torch, so that mistakes show at once."""

import dataclasses
import difflib
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import omegaconf
from omegaconf import DictConfig, OmegaConf
from packaging.version import Version

import threestudio


class ConfigError(TypeError, ValueError):
    """A config that cannot be used: an unknown key, not a mapping, a malformed override."""


# ---------------------------------------------------------------------------------------------------- resolvers


def C_max(value: Any) -> float:
    """The largest value that a schedule in `C`'s list form ever takes."""
    if isinstance(value, int | float):
        return value
    return max(v for _, v0, v1, _ in schedule_segments(value) for v in (v0, v1))


def schedule_segments(value: Any) -> list[tuple[Any, Any, Any, Any]]:
    """A schedule's linear pieces `(begin, value there, value at end, end)`."""
    value = config_to_primitive(value)
    if not isinstance(value, list | tuple):
        raise TypeError(f"a schedule is a number or a list, got {value!r}")
    items = [0, *value] if len(value) == 3 else list(value)
    if len(items) < 4 or len(items) == 5:
        raise ValueError(
            "a schedule is [v0, v1, end], [start, v0, v1, end] or [start, v0, v1, end1, v2, end2, ...], "
            f"got {list(value)} with {len(value)} elements"
        )
    begin, v0 = items[:2]
    segments = []
    for v1, end in zip(items[2::2], items[3::2], strict=False):
        segments.append((begin, v0, v1, end))
        begin, v0 = end, v1
    return segments


_resolvers = {
    "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "idiv": lambda a, b: a // b,
    "basename": lambda path: os.path.basename(path or ""),
    "rmspace": lambda text, substitute: str(text).replace(" ", substitute),
    "tuple2": lambda number: [float(number), float(number)],
    "gt0": lambda number: number > 0,
    "cmaxgt0": lambda schedule: C_max(schedule) > 0,
    "cmaxgt0orcmaxgt0": lambda a, b: C_max(a) > 0 or C_max(b) > 0,
    "not": lambda flag: not flag,
}


def _register_resolvers() -> None:
    current = Version(omegaconf.__version__) >= Version("2.4.0.dev0")
    add = OmegaConf.register_resolver if current else OmegaConf.register_new_resolver
    for name, resolver in _resolvers.items():
        add(name, resolver, replace=True)


_register_resolvers()  # as upstream: whoever imports this module may use them in OmegaConf.create


# --------------------------------------------------------------------------------------------- structured configs


def parse_structured(fields: Any, cfg: DictConfig | dict | None = None) -> Any:
    """`cfg` as a type-checked config of dataclass `fields`; its defaults fill what is missing.

    Raises:
        ConfigError: not a mapping, or a key the dataclass does not have; the message lists the allowed ones.
    """
    owner = getattr(fields, "__qualname__", str(fields)).removesuffix(".Config")
    if not isinstance(cfg, dict | DictConfig):
        raise ConfigError(f"the config of {owner} must be a mapping, got {cfg!r}")
    check_keys(fields, cfg, owner)
    return OmegaConf.structured(fields(**cfg))


def check_keys(fields: Any, cfg: DictConfig | dict, owner: str) -> None:
    """Raise ConfigError if `cfg` has keys that the dataclass `fields` lacks."""
    allowed = [f.name for f in dataclasses.fields(fields) if f.init]
    unknown = [str(key) for key in cfg if key not in allowed]
    if unknown:
        near = difflib.get_close_matches(unknown[0], allowed, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        plural = "keys" if len(unknown) > 1 else "key"
        raise ConfigError(
            f"{owner}: unknown {plural} {', '.join(unknown)}{hint}; allowed: {', '.join(sorted(allowed))}"
        )


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Plain dicts, lists and numbers."""
    return OmegaConf.to_container(config, resolve=resolve) if OmegaConf.is_config(config) else config


def dump_config(path: str | Path, config: Any) -> None:
    """Write `config` as YAML."""
    OmegaConf.save(config=config, f=str(path))


# ------------------------------------------------------------------------------------------------- the experiment


@dataclass
class ExperimentConfig:
    """One trial: what is built, how it is trained, and where its files go."""

    name: str = "default"
    description: str = ""
    tag: str = ""
    seed: int = 0
    use_timestamp: bool = True
    timestamp: str | None = None
    exp_root_dir: str = "outputs"

    # computed
    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1

    resume: str | None = None

    data_type: str = ""
    data: dict = field(default_factory=dict)
    system_type: str = ""
    system: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    checkpoint: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise ConfigError(
                "Either tag is specified or use_timestamp is True: without both, trials have no name"
            )
        self.trial_name = self.tag
        if self.timestamp is None:
            self.timestamp = ""
            if self.use_timestamp:
                if self.n_gpus > 1:
                    threestudio.warn(
                        "Timestamps are off with several GPUs: the processes would not agree on one"
                    )
                else:
                    self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
        self.trial_name += self.timestamp
        self.exp_dir = os.path.join(self.exp_root_dir, self.name)
        self.trial_dir = os.path.join(self.exp_dir, self.trial_name)


def merge_config(
    *yamls: str | Path,
    cli_args: list[str] | None = None,
    from_string: bool = False,
    resolve: bool = True,
    **kwargs: Any,
) -> DictConfig:
    """The YAML files (or strings) overridden by `a.b=c` arguments, then by keywords; interpolations resolved."""
    parts = [OmegaConf.create(str(y)) if from_string else OmegaConf.load(str(y)) for y in yamls]
    for part, source in zip(parts, yamls, strict=True):
        if not isinstance(part, DictConfig):
            raise ConfigError(
                f"{'the config' if from_string else source} must hold a mapping of keys to values"
            )
    try:
        cfg = OmegaConf.merge(*parts, OmegaConf.from_cli(cli_args or []), kwargs)
    except TypeError as error:  # a list for a mapping
        raise ConfigError(f"the overrides do not fit the config: {error}") from error
    if resolve:
        OmegaConf.resolve(cfg)
    return cfg


def load_config(
    *yamls: str | Path, cli_args: list[str] | None = None, from_string: bool = False, **kwargs: Any
) -> ExperimentConfig:
    """`merge_config` as an `ExperimentConfig`."""
    return parse_structured(
        ExperimentConfig, merge_config(*yamls, cli_args=cli_args, from_string=from_string, **kwargs)
    )
