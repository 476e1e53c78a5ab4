"""Settings from other people's files: JSON objects, held against what a class or function takes before it gets them."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from imagedream.runs import ranges

MAX_JSON_BYTES = 16 * 2**20
"""Of a file of settings."""


def read_object(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no regular file, too large, no JSON, or something else than an object.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(
            f"{path} has {path.stat().st_size:,} bytes, the limit of settings is {MAX_JSON_BYTES:,}"
        )
    return parse_object(path.read_bytes(), str(path))


def parse_object(content: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        content: the text.
        where: what messages begin with.

    Raises:
        ValueError: it is no JSON, nested too deeply, or something else than an object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} ({len(content)} bytes) is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} holds a {type(found).__name__}, must be an object of names and values")
    return found


def check_arguments(target: Callable[..., Any] | type, given: Any, where: str) -> None:
    """Raise ValueError unless `target` can be called with what is given: names and types of its signature.

    Args:
        target: a class, function, or TypedDict.
        given: arguments by name; lists stand for tuples, whole numbers for fractions; whole numbers are sizes, counts and
            indices, so none is negative.
        where: what messages begin with.

    Raises:
        ValueError: names the first thing that is wrong.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{where} is {given!r}, must be a mapping")
    if is_typeddict(target):
        known: Mapping[str, Any] = get_type_hints(target)
        defaults = dict.fromkeys(target.__optional_keys__)
    else:
        parameters = inspect.signature(target, eval_str=True).parameters
        known = {name: one.annotation for name, one in parameters.items()}
        defaults = {name: one.default for name, one in parameters.items() if one.default is not one.empty}
    unknown = sorted(str(name) for name in given.keys() - known.keys())
    if unknown:
        raise ValueError(f"{where} has {', '.join(unknown[:4])}; known are {', '.join(sorted(known))}")
    missing = [name for name in known if name not in given and name not in defaults]
    if missing:
        raise ValueError(f"{where} has no {' and no '.join(missing)}")
    for name, value in given.items():
        if is_typeddict(known[name]):
            check_arguments(known[name], value, f"{where}: {name}")
        elif not (_fits(value, known[name]) or (name in defaults and value == defaults[name])):
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}…"
            allowed = inspect.formatannotation(known[name])
            allowed += ", whole numbers from 0" if "int" in allowed else ""
            raise ValueError(f"{where}: {name} is {shown}, must be {allowed}")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value from JSON is what an annotation says; annotations that say nothing here fit everything."""
    kind, inside = get_origin(annotation) or annotation, get_args(annotation)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in inside)
    if kind is Literal:
        return value in inside
    if kind is None or kind is NoneType:
        return value is None
    if kind in (int, float):
        return ranges.fits(value, kind) and (kind is float or value >= 0)
    if kind in (list, tuple, Sequence):
        is_list = isinstance(value, list | tuple)
        return is_list and all(_fits(one, inside[0]) for one in value if inside)
    return not isinstance(kind, type) or isinstance(value, kind)
