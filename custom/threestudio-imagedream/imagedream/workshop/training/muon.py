"""Muon (Jordan and others, kellerjordan.github.io/posts/muon): a step of a matrix changes all its directions alike."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from imagedream.offloading import computes_in_bfloat16

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Odd polynomial a·s + b·s³ + c·s⁵ of the singular values that takes small ones to about 1 in few rounds (Jordan)."""


def orthogonalize(
    matrices: Float[Tensor, "n rows columns"], rounds: int = 5
) -> Float[Tensor, "n rows columns"]:
    """Matrices of the same singular vectors whose singular values are about 1 (0.7 to 1.2), whatever they were.

    In bfloat16 where the device computes in it: what it rounds is small beside those limits.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    if computes_in_bfloat16(x.device):
        x = x.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.mT).to(matrices.dtype)


class Muon(Optimizer):
    """Matrices, and kernels read as matrices, by Muon; whatever has one dimension, or one row, by AdamW.

    The update of a matrix has the root mean square 0.2, which is about that of AdamW's, so that the same learning rate and
    weight decay serve both (Liu and others, arXiv 2502.16982). Of several processes each orthogonalises its share.

    Args:
        groups: of parameters, each with its `weight_decay`.
        lr: learning rate.
        betas: AdamW's.
        momentum: of the matrices' gradients (Nesterov's).
        eps: AdamW's.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(
            groups, {"lr": lr, "betas": betas, "momentum": momentum, "eps": eps, "weight_decay": 0.0}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learned = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in learned:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if not is_matrix(parameter):
                    self._step_adam(parameter, group)
            self._step_matrices([parameter for parameter in learned if is_matrix(parameter)], group)
        return loss

    def _step_matrices(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Nesterov's momentum, made orthogonal: all matrices of a shape at once, of n processes each takes every n-th."""
        shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
        for parameter in parameters:
            shapes.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        turn = 0  # goes on from shape to shape: many have but one matrix
        for (rows, columns), alike in shapes.items():
            looking_ahead = []
            for parameter in alike:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                looking_ahead.append(parameter.grad.lerp(momentum, group["momentum"]).flatten(1))
            stack = torch.stack(looking_ahead)
            updates = torch.zeros_like(stack)
            share = slice((rank - turn) % processes, None, processes)
            updates[share] = orthogonalize(stack[share])
            turn += len(alike)
            if processes > 1:
                dist.all_reduce(updates)
            rate = group["lr"] * 0.2 * max(rows, columns) ** 0.5
            for parameter, update in zip(alike, updates, strict=True):
                parameter.sub_(update.reshape(parameter.shape), alpha=rate)

    def _step_adam(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        seen = [
            1 - beta ** state["step"].item() for beta in group["betas"]
        ]  # by how much they have left zero
        mean.lerp_(parameter.grad, 1 - group["betas"][0])
        square.lerp_(parameter.grad.square(), 1 - group["betas"][1])
        parameter.addcdiv_(mean / seen[0], (square / seen[1]).sqrt() + group["eps"], value=-group["lr"])


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a parameter has rows whose directions can be told apart."""
    return parameter.ndim > 1 and parameter.shape[0] > 1
