"""Which numbers and words a setting may be: its annotation says so, for the check before anything loads and for docs/configuration.md.

    size: Annotated[int, Ge(8)] = 256
    min_step_percent: Annotated[Any, Schedule(Fraction)] = 0.02
    schedule: Annotated[str, OneOf("cosine", "constant")] = "cosine"

Numbers are finite. What an annotation does not speak of (any text, mappings, `Any`) is not looked at.
"""

import math
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt, MultipleOf, Predicate

_COMPARISONS = {
    Ge: (operator.ge, "of at least"),
    Gt: (operator.gt, "above"),
    Le: (operator.le, "up to"),
    Lt: (operator.lt, "below"),
    MultipleOf: (lambda value, factor: value % factor == 0, "divisible by"),
}


_PLURALS = {int: "whole numbers", float: "numbers", list[float]: "lists of numbers"}


@dataclass(frozen=True)
class As:
    """The kind of a field that omegaconf is told is `Any`."""

    kind: Any

    def fits(self, value: Any) -> bool:
        """Whether it is one."""
        return fits(value, self.kind)

    def __str__(self) -> str:
        return words(self.kind)


class Schedule(As):
    """A number, or threestudio's list of numbers that change over the run; all values are of the kind."""

    def fits(self, value: Any) -> bool:
        """Whether it is one."""
        if not _is_list(value):
            return fits(value, self.kind)
        items = [0, *value] if len(value) == 3 else list(value)
        if len(items) < 4 or len(items) == 5 or not fits(items, list[float]):
            return False
        return fits([*items[1:3], *items[4::2]], list[self.kind])

    def __str__(self) -> str:
        return f"{words(self.kind)}, or a schedule [first step, value, value, last step] of such"


class OneOf(As):
    """One of some words; YAML reads the word off as False."""

    def __init__(self, *words: str) -> None:
        super().__init__(words)

    def fits(self, value: Any) -> bool:
        """Whether it is one."""
        return value in self.kind or (value is False and "off" in self.kind)

    def __str__(self) -> str:
        return f"one of {', '.join(self.kind)}" if len(self.kind) > 1 else self.kind[0]


def not_empty(items: Sequence[Any]) -> bool:
    """Whether there is at least one."""
    return len(items) > 0


def ascending(numbers: Sequence[int | float]) -> bool:
    """Whether none of them is smaller than the one before."""
    return list(numbers) == sorted(numbers)


Count = Annotated[int, Interval(ge=1, le=10**9)]
CountOrZero = Annotated[int, Interval(ge=0, le=10**9)]
Size = Annotated[int, Interval(ge=1, le=2**14)]
Timesteps = Annotated[int, Interval(ge=1, le=10**5)]
PromptSize = Annotated[int, Interval(ge=8, le=2**12)]  # the largest takes a quarter of a gigabyte
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Length = Annotated[float, Interval(gt=0, le=10**4)]
Rate = Annotated[float, Interval(ge=0, le=10**3)]
Fraction = Annotated[float, Interval(ge=0, le=1)]
ElevationDeg = Annotated[float, Interval(gt=-90, lt=90)]
FieldOfViewDeg = Annotated[float, Interval(gt=0, lt=180)]
AscendingPair = Annotated[tuple[float, float], Predicate(ascending)]
PerStage = As(int | list[int])


def check_ranges(settings: Any, section: str = "") -> None:
    """Raise ValueError, naming the first field of a dataclass that is not what its annotation allows.

    Args:
        settings: what is checked, omegaconf's lists included.
        section: whose keys these are, such as `data.sample`.
    """
    kinds = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        if limits(kinds[field.name]):
            name = f"{section}.{field.name}" if section else field.name
            check_value(name, getattr(settings, field.name), kinds[field.name])


def limits(kind: Any) -> bool:
    """Whether an annotation says which numbers or words are allowed."""
    return kind in (int, float, bool) or isinstance(kind, As) or any(map(limits, get_args(kind)))


def check_value(name: str, value: Any, kind: Any) -> Any:
    """The value; raises ValueError unless it is what an annotation allows."""
    if not fits(value, kind):
        shown = value if isinstance(value, int | float) else repr(value)
        raise ValueError(f"{name} is {shown}, must be {words(kind)}")
    return value


def check_finite(tree: Any, name: str = "") -> None:
    """Raise ValueError, naming the key, if a number in nested mappings and lists is infinite or none."""
    if isinstance(tree, Mapping) or _is_list(tree):
        for key, value in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            check_finite(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, float) and not math.isfinite(tree):
        raise ValueError(f"{name} is {tree}, must be finite")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation allows, as far as numbers go; the range of a list is that of its items."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, arguments[0]) and all(_follows(value, rule) for rule in _flat(arguments[1:]))
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is tuple and arguments[-1] is not ...:
        return _is_list(value) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (tuple, list):
        return _is_list(value) and all(fits(item, arguments[0]) for item in value)
    if kind is bool:
        return isinstance(value, int) and value in (0, 1)
    if kind in (int, float):
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max  # also of whole numbers, which may be larger
    return kind is Any or isinstance(value, kind)


def _follows(value: Any, rule: Any) -> bool:
    if isinstance(rule, As):
        return rule.fits(value)
    if value is None:
        return True
    if isinstance(rule, Predicate):
        return rule.func(value)
    if _is_list(value):
        return all(_follows(item, rule) for item in value)
    return _COMPARISONS[type(rule)][0](value, _limit(rule))


def words(kind: Any) -> str:
    """What an annotation allows.

    >>> words(Annotated[int, Ge(8), MultipleOf(4)] | None)
    'a whole number of at least 8, divisible by 4, or null'
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        rules = ", ".join(map(_said, _flat(arguments[1:])))
        if arguments[0] in (Any, str):
            return rules
        of_items = any(get_origin(item) is Annotated for item in get_args(arguments[0]))
        return f"{words(arguments[0])}{', ' if of_items else ' '}{rules}"
    if origin in (Union, UnionType):
        return ", or ".join(map(words, arguments))
    if origin in (tuple, list):
        many = f"a list of {len(arguments)}" if origin is tuple and arguments[-1] is not ... else "a list of"
        return f"{many} {_plural(arguments[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null", str: "text"}[
        kind
    ]


def _plural(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        kind, *rules = get_args(kind)
        return f"{_plural(kind)} {', '.join(map(_said, _flat(rules)))}"
    return _PLURALS[kind]


def _said(rule: Any) -> str:
    if isinstance(rule, Predicate):
        return rule.func.__name__.replace("_", " ")
    return str(rule) if isinstance(rule, As) else f"{_COMPARISONS[type(rule)][1]} {_limit(rule):,}"


def _limit(rule: Any) -> int | float:
    return getattr(rule, fields(rule)[0].name)


def _flat(rules: Iterable[Any]) -> Iterator[Any]:
    """Rules one by one, without what annotations say to others, such as to tyro."""
    for rule in rules:
        for one in rule if isinstance(rule, GroupedMetadata) else (rule,):
            if isinstance(one, As | Predicate) or type(one) in _COMPARISONS:
                yield one


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
