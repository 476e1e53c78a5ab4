"""Muon (Jordan and others, kellerjordan.github.io/posts/muon): a step of a matrix changes all its directions alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from imagedream.memory_options import computes_in_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Odd polynomial a·s + b·s³ + c·s⁵ of the singular values that takes small ones to about 1 in few rounds (Jordan)."""


def orthogonalize(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """A matrix of the same singular vectors whose singular values are about 1 (0.7 to 1.2), whatever they were."""
    dtype = torch.bfloat16 if computes_in_bfloat16(matrix.device) else torch.float32
    return zeropower_via_newtonschulz(matrix, 5, [NEWTON_SCHULZ], dtype=dtype).to(matrix.dtype)


class Muon(Optimizer):
    """Matrices, and kernels read as matrices, by Muon; whatever has one dimension, or one row, by AdamW.

    The update of a matrix has the root mean square 0.2, which is about that of AdamW's, so that the same learning rate and
    weight decay serve both (Liu and others, arXiv 2502.16982). Of several processes each orthogonalises its share.

    timm's `Muon` makes the same step, but always in bfloat16: on a CPU that computes only in float32 a step of the small
    network took 20.6 s with it and 1.0 s with this one. PyTorch's does so too, and refuses kernels.

    Args:
        groups: of parameters, each with its `weight_decay`.
        lr: learning rate.
        betas: AdamW's.
        momentum: of the matrices' gradients (Nesterov's).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learned = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._step_matrices([parameter for parameter in learned if is_matrix(parameter)], group)
            self._step_rest([parameter for parameter in learned if not is_matrix(parameter)], group)
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Nesterov's momentum, made orthogonal; of n processes each takes every n-th matrix."""
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for number, parameter in enumerate(parameters):
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            looking_ahead = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
            # processes add up memory as it lies there, so it must lie alike in all
            update = torch.zeros_like(looking_ahead, memory_format=torch.contiguous_format)
            if number % processes == rank:
                update.copy_(orthogonalize(looking_ahead))
            if processes > 1:
                dist.all_reduce(update)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            rate = group["lr"] * 0.2 * max(update.shape) ** 0.5
            parameter.sub_(update.reshape(parameter.shape), alpha=rate)

    def _step_rest(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                mean, square = torch.zeros_like(parameter), torch.zeros_like(parameter)
                self.state[parameter] = {"step": torch.zeros(()), "exp_avg": mean, "exp_avg_sq": square}
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            *([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")),
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a parameter has rows whose directions can be told apart."""
    return parameter.ndim > 1 and parameter.shape[0] > 1
