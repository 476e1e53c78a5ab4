"""Optimisers and schedulers from their config."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

import threestudio
from threestudio.utils.config import ConfigError, config_to_primitive


def getattr_recursive(module: Any, attr: str) -> Any:
    """`getattr` along a dotted path."""
    for name in attr.split("."):
        if not hasattr(module, name):
            raise ConfigError(
                f"{attr!r} is not an attribute of the system: {type(module).__name__} has no {name!r}"
            )
        module = getattr(module, name)
    return module


def get_parameters(model: Any, name: str) -> Any:
    """The parameters at a dotted path: a module's, a single one, or none."""
    found = getattr_recursive(model, name)
    if isinstance(found, nn.Module):
        return found.parameters()
    return [found] if isinstance(found, nn.Parameter) else []


def _find_class(module: Any, base: type, name: Any, what: str) -> type:
    found = getattr(module, str(name), None)
    if not (isinstance(found, type) and issubclass(found, base)):
        known = sorted(
            n for n, c in vars(module).items() if isinstance(c, type) and issubclass(c, base) and n[0] != "_"
        )
        raise ConfigError(f"{what}.name is {name!r}; known: {', '.join(known)}")
    return found


def _arguments(config: dict, what: str) -> dict:
    if not isinstance(config, dict) or "name" not in config:
        raise ConfigError(f"{what} must be a mapping with a 'name', got {config!r}")
    # torch keeps some lists in the optimiser's state; a tuple is what it expects
    return {k: tuple(v) if k == "betas" else v for k, v in (config.get("args") or {}).items()}


def _build(cls: type, *args: Any, what: str, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"{what} {cls.__name__}: {error}") from error


def parse_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """`{name, args, params: {attribute path: args of that group}}`; without `params`, all parameters.

    YAML containers become plain ones first, so that a checkpoint loads with `weights_only=True`.
    """
    config = config_to_primitive(config)
    args = _arguments(config, "optimizer")
    if config.get("params"):
        groups = [
            {"params": list(get_parameters(model, name)), "name": name, **(group or {})}
            for name, group in config["params"].items()
        ]
        threestudio.debug(f"Specify optimizer params: {config['params']}")
    else:
        groups = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    optimizer = _find_class(torch.optim, torch.optim.Optimizer, config["name"], "optimizer")
    return _build(optimizer, groups, what="optimizer", **args)


def parse_scheduler_to_instance(config: Any, optimizer: torch.optim.Optimizer) -> Any:
    """The bare scheduler; `Sequential` and `SequentialLR` name the same thing."""
    config = config_to_primitive(config)
    args = _arguments(config, "scheduler")
    if config["name"] in ("Sequential", "SequentialLR"):
        parts = [parse_scheduler_to_instance(c, optimizer) for c in config["schedulers"]]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=config["milestones"])
    if config["name"] in ("Chained", "ChainedScheduler"):
        return lr_scheduler.ChainedScheduler(
            [parse_scheduler_to_instance(c, optimizer) for c in config["schedulers"]]
        )
    scheduler = _find_class(lr_scheduler, lr_scheduler.LRScheduler, config["name"], "scheduler")
    return _build(scheduler, optimizer, what="scheduler", **args)


def parse_scheduler(config: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`{name, interval: epoch | step, args}` as Lightning's scheduler dict."""
    interval = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ConfigError(f"scheduler.interval is {interval!r}, must be 'epoch' or 'step'")
    return {"scheduler": parse_scheduler_to_instance(config, optimizer), "interval": interval}
