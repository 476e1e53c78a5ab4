"""Base classes: things that change with the step, and things that are built from a config."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig
from torch import nn

from threestudio.utils.config import parse_structured
from threestudio.utils.misc import get_device

_FRAMEWORKS = ("builtins", "torch", "pytorch_lightning", "lightning_fabric", "lightning_utilities")


@lru_cache(maxsize=256)
def _framework_names(cls: type) -> frozenset[str]:
    """Names that PyTorch and Lightning define themselves: never ours, and some of their properties warn or raise."""
    bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] in _FRAMEWORKS]
    return frozenset(name for base in bases for name in vars(base))


class Updateable:
    """Something that changes with the training step, and so do its direct attributes (children before parents)."""

    def do_update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        for child in self._updateable_children():
            child.do_update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.update_step(epoch, global_step, on_load_weights=on_load_weights)

    def do_update_step_end(self, epoch: int, global_step: int) -> None:
        for child in self._updateable_children():
            child.do_update_step_end(epoch, global_step)
        self.update_step_end(epoch, global_step)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Called before each batch; with `on_load_weights` the models must not be evaluated."""

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """Called after each batch."""

    def _updateable_children(self) -> list["Updateable"]:
        skip = _framework_names(type(self))
        children = []
        for name in self.__dir__():
            if name.startswith("_") or name in skip:
                continue
            try:
                value = getattr(self, name)
            except Exception:
                continue
            if isinstance(value, Updateable):
                children.append(value)
        return children


def update_if_possible(module: Any, epoch: int, global_step: int) -> None:
    if isinstance(module, Updateable):
        module.do_update_step(epoch, global_step)


def update_end_if_possible(module: Any, epoch: int, global_step: int) -> None:
    if isinstance(module, Updateable):
        module.do_update_step_end(epoch, global_step)


class _Built(Updateable):
    """Built from a config."""

    @dataclass
    class Config:
        pass

    cfg: Config

    def __init__(self, cfg: dict | DictConfig | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.cfg = parse_structured(self.Config, cfg)
        self.device = get_device()
        self.configure(*args, **kwargs)

    def configure(self, *args: Any, **kwargs: Any) -> None:
        """Build what the config asks for."""


class BaseObject(_Built):
    """Built from a config; not part of the system's parameters and checkpoints."""


class BaseModule(_Built, nn.Module):
    """Built from a config; its parameters belong to the system."""
