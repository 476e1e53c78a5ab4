"""The names that threestudio's modules import with `from threestudio.utils.typing import *`."""

# ruff: noqa: F401, UP035
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    Sized,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from jaxtyping import Bool, Complex, Float, Inexact, Int, Integer, Num, Shaped, UInt
from omegaconf import DictConfig
from torch import Tensor


def typechecker(function: Callable) -> Callable:
    """No check at run time; shapes are checked by the tests."""
    return function
