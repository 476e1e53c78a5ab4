"""Which parameters are learned, by which optimiser, at which rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from imagedream.workshop.training.muon import Muon, is_matrix

KINDS = ("adamw", "muon", "adafactor")
SCHEDULES = ("cosine", "linear", "constant")

CONTROLLERS = ("image_projection", "*.to_k_ip", "*.to_v_ip")
"""What the image controllers add to the network: projection of the features, their keys and values (paper §3.3)."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser, a warm-up and a decay of its learning rate."""

    kind: str = "adamw"
    """`adamw` (Loshchilov and Hutter, arXiv 1711.05101; the paper's); `muon` (`imagedream.workshop.training.muon`: matrices by their
    directions, the rest by AdamW), which keeps of a matrix one of its size instead of two; or `adafactor` (Shazeer and Stern,
    arXiv 1804.04235), which keeps a row and a column."""
    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Of matrices and kernels; not for biases, norms and embeddings."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's, and of what Muon leaves to it."""
    schedule: str = "cosine"
    """How the rate falls from its peak to `final_fraction` of it at the last step: `cosine`, `linear`, or `constant`, which
    does not."""
    warmup_steps: int = 100
    """Linear warm-up."""
    final_fraction: float = 0.02
    """Learning rate at the last step over the peak."""

    def __post_init__(self):
        for name, allowed in (("kind", KINDS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"optimizer.{name} is {getattr(self, name)!r}, must be one of {', '.join(allowed)}"
                )
        for name in ("learning_rate", "weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}, must be at least 0")
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"optimizer.betas are {self.betas}, must lie in [0, 1)")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"optimizer.final_fraction is {self.final_fraction}, must lie in [0, 1]")

    def factor(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0, over the peak; `steps` is the length of the training.

        >>> OptimizerConfig(schedule="linear", warmup_steps=0, final_fraction=0.0).factor(5, steps=10)
        0.5
        """
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        progress = min(1.0, step / max(1, steps))
        height = {
            "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
            "linear": 1 - progress,
            "constant": 1.0,
        }[self.schedule]
        return warmup * (self.final_fraction + (1 - self.final_fraction) * height)

    def make(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of some parameters: one group with weight decay, one without."""
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.kind == "adafactor":
            return torch.optim.Adafactor(groups, lr=self.learning_rate)
        if self.kind == "muon":
            return Muon(groups, lr=self.learning_rate, betas=self.betas)
        return torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas)

    def state_numbers(self, parameters: Sequence[nn.Parameter]) -> int:
        """How many numbers the optimiser keeps for some parameters, besides their gradients."""
        if self.kind != "adafactor":
            return sum(
                parameter.numel() * (1 if self.kind == "muon" and is_matrix(parameter) else 2)
                for parameter in parameters
            )
        # Adafactor: a row and a column of a matrix (kernels are stacks of them), everything of a vector
        return sum(
            (parameter.numel() // parameter.shape[-1] + parameter.numel() // parameter.shape[-2])
            if parameter.ndim > 1
            else parameter.numel()
            for parameter in parameters
        )


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
    if isinstance(learn, str) and learn != "controllers":
        raise ValueError(f"learn is {learn!r}, must be all, controllers or a list of names of parameters")
    if not learn:
        raise ValueError("learn is an empty list: nothing would be learned")
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
