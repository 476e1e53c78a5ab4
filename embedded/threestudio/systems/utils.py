"""Optimisers and schedulers from their config."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

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


def _build(what: str, namespace: Any, base: type, config: Any, *args: Any) -> Any:
    """An object of the class of torch's that `config` names."""
    if not isinstance(config, dict) or "name" not in config:
        raise ConfigError(f"{what} must be a mapping with a 'name', got {config!r}")
    name = config["name"]
    classes = {key: c for key, c in vars(namespace).items() if isinstance(c, type) and issubclass(c, base)}
    if name not in classes:
        known = ", ".join(sorted(key for key in classes if key[0] != "_"))
        raise ConfigError(f"{what}.name is {name!r}; known: {known}; the rest is threestudio's")
    # torch keeps some lists in the optimiser's state; a tuple is what it expects
    options = {k: tuple(v) if k == "betas" else v for k, v in (config.get("args") or {}).items()}
    try:
        return classes[name](*args, **options)
    except TypeError as error:
        raise ConfigError(f"{what} {name}: {error}") from error


def parse_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """`{name, args, params: {attribute path: args of that group}}`; without `params`, all parameters.

    YAML containers become plain ones first, so that a checkpoint loads with `weights_only=True`.
    """
    config = config_to_primitive(config)
    groups: list[Any] = [p for p in model.parameters() if p.requires_grad] or list(model.parameters())
    if isinstance(config, dict) and config.get("params"):
        groups = [
            {"params": list(get_parameters(model, name)), "name": name, **(group or {})}
            for name, group in config["params"].items()
        ]
    return _build("optimizer", torch.optim, torch.optim.Optimizer, config, groups)


def parse_scheduler(config: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """`{name, interval: epoch | step, args}` as Lightning's scheduler dict."""
    config = config_to_primitive(config)
    scheduler = _build("scheduler", lr_scheduler, lr_scheduler.LRScheduler, config, optimizer)
    interval = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ConfigError(f"scheduler.interval is {interval!r}, must be 'epoch' or 'step'")
    return {"scheduler": scheduler, "interval": interval}
