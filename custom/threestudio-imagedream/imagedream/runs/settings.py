"""Settings are data: a config file may be a change of others (`base:`), a preset is a file of changes, an override a line."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

GIB = 2**30


def read_with_bases(path: str | Path, changes: Sequence[Path] = ()) -> dict[Path, dict[str, Any]]:
    """A config file and those that its `base:` leads to, each with its own lines, the file they all change first.

    Args:
        path: the file; its base is the name of a file beside it, or a list of names, of which a later one changes the earlier.
        changes: files that change this one, in turn.

    Raises:
        ValueError: a base that is not there, a circle of bases, or a file that is no mapping.
    """
    path = Path(path)
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of keys to values")
    names, files, changes = content.pop("base", None) or [], {}, [*changes, path]
    for name in names if isinstance(names, list) else [names]:
        base = path.parent / os.path.expanduser(str(name))
        if not base.is_file():
            known = ", ".join(sorted(file.name for file in base.parent.glob("*.yaml"))) or "no YAML file"
            raise ValueError(f"{path}: base is {name}, but there is no {base}; in that folder: {known}")
        if base.resolve() in {file.resolve() for file in changes}:
            raise ValueError(f"{path}: base is {name}, which is itself a change of {path.name}")
        files |= read_with_bases(base, changes)
    return {**files, path: content}


def read_settings(path: str | Path) -> DictConfig:
    """A config file merged into its bases, `~/` being the home folder; interpolations stay as they are."""
    return OmegaConf.create(with_home(merge(read_with_bases(path).values())))


def merge(changes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping after another; unlike `OmegaConf.merge`, a later `???` takes an earlier value away.

    Another `NAME_type` takes the earlier settings of `NAME` away, which are another module's.

    >>> merge([{"a": {"b": 1, "c": 2}}, {"a": {"b": "???"}, "d": []}])
    {'a': {'b': '???', 'c': 2}, 'd': []}
    >>> merge([{"a_type": "x", "a": {"b": 1}}, {"a_type": "y", "a": {"c": 2}}])
    {'a_type': 'y', 'a': {'c': 2}}
    """

    def changed(before: Any, after: Any) -> Any:
        if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
            return after
        others = {
            key.removesuffix("_type")
            for key in after
            if key.endswith("_type") and key in before and before[key] != after[key]
        }
        before = {key: value for key, value in before.items() if key not in others}
        return {**before, **{key: changed(before.get(key), value) for key, value in after.items()}}

    return reduce(changed, changes, {})


def _of_same_modules(part: Any, before: Any, after: Any) -> Any:
    """Settings that were meant for one config, without those of modules that are others in another config."""
    if not isinstance(part, Mapping):
        return part
    before, after = (tree if isinstance(tree, Mapping) else {} for tree in (before, after))
    return {
        key: _of_same_modules(value, before.get(key), after.get(key))
        for key, value in part.items()
        if before.get(f"{key}_type") == after.get(f"{key}_type")
    }


def flatten(tree: Mapping[Any, Any], prefix: str = "", brackets: bool = False) -> dict[str, Any]:
    """Nested mappings as one with dots in its names; empty ones stay, tuples become lists, as in YAML.

    Args:
        tree: nested mappings.
        prefix: what all names begin with.
        brackets: around names that have dots themselves, as omegaconf wants them in an override.

    >>> flatten({"a": {"b": (1, 2), "c": {}}, "d": 3})
    {'a.b': [1, 2], 'a.c': {}, 'd': 3}
    >>> flatten({"a": {"b.c": {"d": 1}}}, brackets=True)
    {'a[b.c].d': 1}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        name = f"{prefix}[{key}]" if brackets and "." in str(key) else dotted
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, name, brackets)
        else:
            flat[name] = list(value) if isinstance(value, tuple) else value
    return flat


_CAPTION = re.compile(r"(negative_)?prompt|prompt_(front|side|back|overhead)|description")
_TEXT = re.compile(r"(\w+_)?(name|tag|paths?|dir|weights|timestamp|resume)")
"""Last parts of keys whose type no dataclass declares, by threestudio's names."""
_APART = "$\ufeff{"
"""A `${` that omegaconf takes for text, however often it resolves a config; tokenizers pass over the mark in it."""
_UNREADABLE = (yaml.YAMLError, OmegaConfBaseException)


def as_typed(override: str, declared: Any = None) -> str:
    """`key=value` from a shell, so that omegaconf, which reads YAML, takes it for what was typed.

    A text stays as it is, with `#`, `:`, `=`, commas, quotes, or digits alone; so does elsewhere what is no YAML of a number, a
    truth value, a list or a mapping. But in captions, a text all in quotes is what they hold, and `~/` the home folder.

    Args:
        override: as typed.
        declared: a dataclass that says of which type the keys are, as far as it goes.

    Raises:
        ValueError: it has no key, is a list or mapping that is not well-formed, or a number of hundreds of digits.

    >>> as_typed("system.prompt_processor.prompt=C-3PO: a robot # 1")
    'system.prompt_processor.prompt="C-3PO: a robot # 1"'
    >>> as_typed("trainer.max_steps=1e4")
    'trainer.max_steps=10000'
    """
    key, equals, typed = override.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{override!r} is not an override; write key=value, for example tag=chair")
    kind, name = _declared_type(key, declared), (re.findall(r"[^.\[\]]*[^.\[\]\d]", key) or [""])[-1]
    if _CAPTION.fullmatch(name):
        return write_override(key, typed.replace("${", _APART))
    value, problem = None, ""
    try:
        _, value = read_override(override)
    except _UNREADABLE as error:
        problem = str(error).splitlines()[0]
    except ValueError:  # more digits than Python reads
        value = math.inf
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        value = math.inf
    if value == math.inf and len(typed) > 300:
        raise ValueError(f"{key} is {typed[:20]}... of {len(typed)} digits, no number may have so many")
    if isinstance(value, str) and typed[0] == typed[-1] and typed[0] in "'\"":
        return write_override(key, with_home(value))
    texts = get_origin(kind) is list and get_args(kind) == (str,)
    if (texts or (kind is None and name.endswith("paths"))) and typed[:1] + typed[-1:] == "[]":
        if not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            value = [item.strip() for item in typed[1:-1].split(",")]
        return write_override(key, with_home(value))
    nothing = value is None and typed in ("", "null", "Null", "NULL")
    if kind in (str, str | None) or (kind is None and _TEXT.fullmatch(name)):
        return override if nothing and kind is not str else write_override(key, with_home(typed))
    if typed[:1] in ("[", "{"):
        if problem:
            raise ValueError(f"override {override!r} cannot be read: {problem}")
        return override
    number = isinstance(value, int | float) and ":" not in typed  # 1:30 is 90 in YAML
    if (
        number and abs(value) < math.inf and re.fullmatch(r"0\d+|\d+[eE]\d+", typed)
    ):  # 010 is 8 in YAML, and 1e4 no whole number
        return write_override(key, int(Decimal(typed)))
    return override if number or nothing or typed == "~" else write_override(key, with_home(typed))


def as_written(caption: str) -> str:
    """A caption from a config as it was typed: with `${`, which `as_typed` keeps from being an interpolation.

    >>> as_written(as_typed("prompt=${5}").removeprefix("prompt="))
    '${5}'
    """
    return caption.replace(_APART, "${")


def _declared_type(key: str, declared: Any) -> Any:
    """The type of a dataclass's field or its field's; None where it says nothing."""
    for part in key.split("."):
        declared = get_type_hints(declared).get(part) if is_dataclass(declared) else None
    return declared


def read_override(override: str) -> tuple[str, Any]:
    """Key and value of a `key=value` as omegaconf reads it, interpolations as they are."""
    key, _, value = override.partition("=")
    return key, OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))["value"]


def write_override(key: str, value: Any) -> str:
    """The `key=value` of which `read_override` makes this key and value."""
    plain = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
    with suppress(*_UNREADABLE):
        if repr(read_override(f"{key}={plain}")[1]) == repr(value):
            return f"{key}={plain}"
    quoted = yaml.safe_dump(value, default_style='"', default_flow_style=True, width=math.inf)
    return f"{key}={quoted.strip()}"


def with_home(tree: Any, key: str = "") -> Any:
    """Nested mappings and lists with the home folder for a `~/` that texts other than captions begin with."""
    if isinstance(tree, Mapping):
        return {name: with_home(value, str(name)) for name, value in tree.items()}
    if isinstance(tree, list):
        return [with_home(value, key) for value in tree]
    home = isinstance(tree, str) and tree.startswith("~") and not _CAPTION.fullmatch(key)
    return os.path.expanduser(tree) if home else tree


@dataclass(frozen=True)
class Preset:
    """A file in `configs/presets/`; each of its mappings is by the name of the config, or base, that it is for."""

    about: str
    auto: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """GiB that must be free for `auto` to choose it, by device: cpu, cuda."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)
    """Further settings in the embedded host."""
    threestudio: Mapping[str, Any] = field(default_factory=dict)
    """Further settings in a real threestudio."""


def read_presets(folder: Path) -> dict[str, Preset]:
    """The presets in a folder, by name.

    Raises:
        ValueError: a file with a key that a preset does not have.
    """
    presets = {}
    for file in sorted(folder.glob("*.yaml"), key=lambda file: (len(file.stem), file.stem)):
        content, known = merge(read_with_bases(file).values()), [field.name for field in fields(Preset)]
        unknown = [key for key in content if key not in known]
        if unknown:
            raise ValueError(f"{file}: unknown key {unknown[0]}; a preset has {', '.join(known)}")
        presets[file.stem] = Preset(**content)
    return presets


@dataclass(frozen=True)
class FreeMemory:
    """Of the device of a run."""

    device: str
    """`cpu` or `cuda`."""
    gib: float
    words: str


def cuda_memory(name: str, free_bytes: int, total_bytes: int) -> FreeMemory:
    """Of a CUDA device."""
    words = f"{free_bytes / GIB:.1f} of {total_bytes / GIB:.1f} GiB are free on {name}"
    return FreeMemory("cuda", free_bytes / GIB, words)


def free_memory(gpu: str) -> FreeMemory:
    """Of the device that `--gpu` names, or of the machine; CUDA is asked by a process that leaves nothing on it."""
    code = (
        "import json, sys, torch\n"
        "if torch.cuda.is_available():\n"
        "    json.dump([torch.cuda.get_device_name(), *torch.cuda.mem_get_info()], sys.stdout)"
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or gpu
    environment = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": visible}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if answer.returncode == 0 and answer.stdout:
        return cuda_memory(*json.loads(answer.stdout))
    import psutil

    gib = psutil.virtual_memory().available / GIB
    return FreeMemory("cpu", gib, f"no CUDA device; {gib:.1f} GiB of memory are free")


def choose(presets: Mapping[str, Preset], configs: Sequence[str], memory: FreeMemory) -> tuple[str, str]:
    """The name of the preset for a config that uses the free memory best, and the reason.

    Args:
        presets: all there are.
        configs: names of the config and its bases, the first base first.
        memory: what is free on which device.

    Raises:
        ValueError: if none fits.
    """
    needed_gib = {
        name: preset.auto[config][memory.device]
        for config in configs
        for name, preset in presets.items()
        if memory.device in preset.auto.get(config, {})
    }
    if not needed_gib:
        raise ValueError(f"--preset auto: {memory.words}, and no preset of {configs[-1]} is made for that")
    fitting = [name for name, gib in needed_gib.items() if gib <= memory.gib]
    if not fitting:
        least = min(needed_gib, key=needed_gib.get)
        raise ValueError(
            f"--preset auto: {memory.words}, the smallest preset, {least}, needs {needed_gib[least]:.1f} GiB"
        )
    name = max(fitting, key=needed_gib.get)
    return name, f"{memory.words}, it needs {needed_gib[name]:.1f}"


def apply_presets(
    files: Mapping[Path, Mapping[str, Any]],
    names: Iterable[str],
    presets: Mapping[str, Preset],
    host: str,
    gpu: str,
) -> tuple[DictConfig, list[tuple[str, dict[str, Any]]]]:
    """A config, merged into its bases and changed by presets.

    Args:
        files: from `read_with_bases`.
        names: of presets, or `auto`; a later one wins.
        presets: all there are.
        host: `embedded` or `threestudio`.
        gpu: what `--gpu` names.

    Returns:
        The config, and for each preset a line about it and what it sets, as overrides.

    Raises:
        ValueError: an unknown preset, or one that is not for this config.
    """
    configs, settings, chosen = [file.stem for file in files], merge(files.values()), []
    plain = {config: merge(list(files.values())[: number + 1]) for number, config in enumerate(configs)}
    for name in names:
        name, reason = choose(presets, configs, free_memory(gpu)) if name == "auto" else (name, "as asked")
        if name not in presets:
            raise ValueError(f"--preset is {name}, must be auto or one of {', '.join(presets)}")
        preset = presets[name]
        if not set(configs) & set(preset.settings):
            fits = ", ".join(preset.settings)
            raise ValueError(f"--preset {name} is for {fits} and configs with one as base, not {configs[-1]}")
        parts = (preset.settings, getattr(preset, host))
        changes = merge(
            _of_same_modules(part.get(config, {}), plain[config], settings)
            for part in parts
            for config in configs
        )
        settings = merge([settings, changes])
        chosen.append((f"{name} ({reason}): {preset.about}", flatten(changes, brackets=True)))
    return OmegaConf.create(settings), chosen
