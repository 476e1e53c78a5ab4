"""Which parameters are learned, by which optimiser, at which rate."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from imagedream.workshop.training.muon import Muon, is_matrix
from imagedream.workshop.training.train_config import OptimizerConfig

CONTROLLERS = ("image_projection", "*.to_k_ip", "*.to_v_ip")
"""What the image controllers add to the network: projection of the features, their keys and values (paper §3.3)."""


def learning_rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Learning rate of a step, counted from 0, over the peak; `steps` is the length of the training.

    >>> learning_rate_factor(OptimizerConfig(schedule="linear", warmup_steps=0, final_fraction=0.0), 5, steps=10)
    0.5
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = min(1.0, step / max(1, steps))
    height = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[config.schedule]
    return warmup * (config.final_fraction + (1 - config.final_fraction) * height)


def make_optimizer(config: OptimizerConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of some parameters: one group with weight decay, one without."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    kind = Muon if config.kind == "muon" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate, betas=config.betas)


def state_numbers(config: OptimizerConfig, parameters: Sequence[nn.Parameter]) -> int:
    """How many numbers the optimiser keeps for some parameters, besides their gradients."""
    once = config.kind == "muon"
    return sum((1 if once and is_matrix(parameter) else 2) * parameter.numel() for parameter in parameters)


def choose_learned(model: nn.Module, learn: str | Sequence[str]) -> None:
    """Freeze what is not learned; what was frozen before stays so.

    Args:
        model: with its parameters.
        learn: `all`; `controllers` (`CONTROLLERS`: the base stays as it is, as for the paper's global and local model);
            or names of parameters or of modules, in which `*` and `?` stand for anything.

    Raises:
        ValueError: for a name that fits nothing.
    """
    if learn == "all":
        return
    patterns = CONTROLLERS if learn == "controllers" else learn
    parameters = dict(model.named_parameters())
    learned: set[str] = set()
    for pattern in patterns:
        fitting = {
            name for name in parameters if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        }
        if not fitting and learn != "controllers":
            modules = sorted({".".join(name.split(".")[:2]) for name in parameters})
            raise ValueError(
                f"learn: {pattern!r} fits none of {len(parameters)} parameters; there are {', '.join(modules)}"
            )
        learned |= fitting
    if not learned:
        raise ValueError("learn is controllers, but this network has no image controllers of its own weights")
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and name in learned)
