"""threestudio 0.2.3's API in plain PyTorch, for machines without threestudio or CUDA.

Only the registry and the log live here, and importing this package loads nothing heavy: the built-in modules are
imported when a name is looked up for the first time.
"""

import importlib
import logging
import os
import pkgutil
from collections.abc import Callable

__version__ = "0.2.3"
__modules__: dict[str, type] = {}

logger = logging.getLogger("pytorch_lightning")
_builtin_packages = ("data", "models", "systems")
_builtin_state = {"loaded": False}


class UnknownNameError(KeyError, ValueError):
    """A name that nothing is registered under; the message lists what is."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError itself would print the message's repr


def _load_builtin_modules() -> None:
    if _builtin_state["loaded"]:
        return
    _builtin_state["loaded"] = True  # already now: these modules register names themselves
    try:
        for package in _builtin_packages:
            root = importlib.import_module(f"{__name__}.{package}")
            for module in pkgutil.walk_packages(root.__path__, prefix=f"{root.__name__}."):
                importlib.import_module(module.name)
    except BaseException:
        _builtin_state["loaded"] = False
        raise


def register(name: str) -> Callable[[type], type]:
    """Class decorator that makes a class findable as `name`; a name can be taken only once."""

    def decorator(cls: type) -> type:
        if not cls.__module__.startswith(f"{__name__}."):
            _load_builtin_modules()  # so that a clash with a built-in name is reported here, to its author
        if name in __modules__:
            taken = __modules__[name]
            raise ValueError(
                f"Names of extensions conflict: {name!r} is registered by {taken.__module__}.{taken.__qualname__}, "
                f"{cls.__module__}.{cls.__qualname__} needs another name"
            )
        __modules__[name] = cls
        return cls

    return decorator


def find(name: str) -> type:
    """The class registered as `name`; `"main:sub1,sub2"` mixes the subs, which come first, into main.

    Raises:
        UnknownNameError: a KeyError whose message lists the known names.
    """
    if ":" not in name:
        return _find_one(name)
    main_name, _, sub_names = name.partition(":")
    if ":" in sub_names or not main_name or not all(sub_names.split(",")):
        raise ValueError(f"{name!r} is not a mixin; write 'main:sub' or 'main:sub1,sub2'")
    bases = [_find_one(sub) for sub in sub_names.split(",")] + [_find_one(main_name)]
    return type(f"{bases[-1].__name__}.{sub_names}", tuple(bases), {"__module__": bases[-1].__module__})


def _find_one(name: str) -> type:
    if name not in __modules__:
        _load_builtin_modules()
    if name not in __modules__:
        raise UnknownNameError(
            f"nothing is registered as {name!r}; known: {', '.join(sorted(__modules__))}; the rest is threestudio's "
            "(launch.py --threestudio DIR)"
        )
    return __modules__[name]


def get_rank() -> int:
    """This process's number among those of a distributed run."""
    variables = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
    return next((int(os.environ[name]) for name in variables if name in os.environ), 0)


def debug(message: object, *args: object) -> None:
    if get_rank() == 0:
        logger.debug(message, *args)


def info(message: object, *args: object) -> None:
    if get_rank() == 0:
        logger.info(message, *args)


def warn(message: object, *args: object) -> None:
    if get_rank() == 0:
        logger.warning(message, *args)
