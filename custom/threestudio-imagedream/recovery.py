"""Steps that run out of memory are tried again with less; numbers that go bad lead back to the last good state.

All of it works through hooks that Lightning calls in either host: `ImageDreamSystem` passes them on.
"""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import threestudio
from imagedream.runs.out_of_memory import is_out_of_memory, requested
from imagedream.runs.ranges import Count, check_value
from imagedream.runs.seeds import seed_step
from imagedream.runs.signals import any_process
from threestudio.utils.misc import cleanup

from .chunked_rendering import can_be_split

LEAST_RAYS = 1024
"""Smaller chunks save nothing: what a step needs besides rendering is larger."""

LEAST_SCALE = 1e-5
"""Of gradients in half precision: after some thirty bad steps in a row."""

STEPS_BETWEEN_STATES = 50
"""How often a state is kept, in the computer's own memory, to return to."""


class BadNumbersError(ValueError):
    """A loss or a gradient that is not a finite number."""


class Recovery:
    """Keeps a system's run going.

    Attributes:
        most_rays: rendered at once; None is all.
        most_images: of a step; None is all.
    """

    def __init__(self, system: Any) -> None:
        self.system = system
        self.seed = torch.initial_seed()
        self.most_rays: int | None = None
        self.most_images: int | None = None
        self._bad_step: int | None = None
        self._state: dict[str, Any] | None = None
        self._rays = self._images = 0

    # --------------------------------------------------------------------------------------------------- each step

    def begin_step(self, batch: dict[str, Any]) -> None:
        """Keep a state now and then; make the step's random numbers its own."""
        self._images, height, width = batch["rays_o"].shape[:3]
        self._rays = self._images * height * width
        step = self.system.trainer.global_step
        if self._state is None or step - self._state["step"] >= STEPS_BETWEEN_STATES:
            self._keep_state(step)
        self.seed_step()

    def begin_again(self) -> None:
        """Give back what the failed step held, and begin its random numbers anew."""
        cleanup()
        scaler = getattr(self.system.trainer.precision_plugin, "scaler", None)
        if (
            scaler is not None
        ):  # which may have unscaled the failed step's gradients, and does that once an update only
            scaler.scale(torch.zeros((), device=self.system.device))
            scaler.update(scaler.get_scale())
        self.seed_step()

    def seed_step(self) -> None:
        """Begin the random numbers of this step."""
        seed_step(self.seed, self.system.trainer.fit_loop.total_batch_idx)

    def remedy(self, error: Exception) -> None:
        """Make it possible to try the step again.

        Raises:
            Exception: the error, or one that says what was tried, when nothing is left to try.
        """
        if isinstance(error, BadNumbersError):
            self._return_to_last_state(error)
        elif is_out_of_memory(error):
            self._ask_for_less(error)
        else:
            raise error

    # ------------------------------------------------------------------------------------------------ out of memory

    def _ask_for_less(self, error: Exception) -> None:
        step, group = self.system.true_global_step, self.system.cfg.guidance.get("n_view", 4)
        if self.system.trainer.world_size > 1:
            raise MemoryError(
                f"out of memory at step {step}: {requested(error)}; with several processes, no step is tried again by one"
            ) from error
        rays = min(self.most_rays or self._rays, self._rays) // 2
        groups = min(self.most_images or self._images, self._images) // group
        self.system.zero_grad()
        if rays >= LEAST_RAYS and can_be_split(self.system.renderer):
            self.most_rays = rays
            remedy = f"rendering at most {rays} rays at once from now on"
        elif groups > 1:
            self.most_images = groups // 2 * group
            remedy = f"{self.most_images} images a step from now on"
        else:
            raise MemoryError(
                f"out of memory at step {step}, with {rays * 2} rays at once and {groups} group of {group} images: "
                f"{requested(error)}"
            ) from error
        threestudio.warn(f"Out of memory at step {step} ({requested(error)}); {remedy}")

    # -------------------------------------------------------------------------------------------------- bad numbers

    def check_terms(self, terms: dict[str, Any]) -> None:
        """Raise a BadNumbersError that names the terms of a loss that are not finite."""
        bad = not torch.as_tensor(sum(terms.values())).isfinite()
        if not any_process(self.system.trainer, bad)[0]:  # all processes go back together
            return
        values = {name: torch.as_tensor(value).item() for name, value in terms.items()}
        told = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        raise BadNumbersError(
            f"at step {self.system.true_global_step} {', '.join(told) or 'the loss overflows' if bad else 'the loss of another process'}"
        )

    def check_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise a BadNumbersError that names the parameters whose gradient is not finite, and the terms that make it so.

        In half precision the gradient's scaler skips such steps, as it should, and halves the scale; that is bad only
        when it never ends.
        """
        scaler = getattr(self.system.trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.get_scale() > LEAST_SCALE:
            return
        trained = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
        named = [(name, p) for name, p in self.system.named_parameters() if id(p) in trained]
        norms = torch.stack([p.grad.norm() for _, p in named]) if named else torch.zeros(1)
        if norms.isfinite().all():
            return
        bad = [(name, p) for (name, p), norm in zip(named, norms, strict=True) if not norm.isfinite()]
        where = ", ".join(name for name, _ in bad)
        terms = self._terms_behind([p for _, p in bad])
        raise BadNumbersError(
            f"at step {self.system.true_global_step} the gradient of {' and '.join(terms) or 'the loss'} is not finite "
            f"(in {where})"
        )

    def _terms_behind(self, parameters: list[Tensor]) -> list[str]:
        """Terms of the loss whose own gradient is not finite, from the step computed once more."""
        self.seed_step()
        guilty = []
        for name, term in self.system.last_terms().items():
            gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
                guilty.append(name)
        return guilty

    def _keep_state(self, step: int) -> None:
        state = self.system.state_dict()
        if not all(value.isfinite().all() for value in state.values() if value.is_floating_point()):
            return
        trainer = self.system.trainer
        self._state = {
            "step": step,
            "module": {name: value.to("cpu", copy=True) for name, value in state.items()},
            "optimizers": [_on_cpu(optimizer.state_dict()) for optimizer in trainer.optimizers],
            "schedulers": [deepcopy(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs],
        }

    def _return_to_last_state(self, error: BadNumbersError) -> None:
        state, trainer = self._state, self.system.trainer
        near = self._bad_step is not None and trainer.global_step - self._bad_step < STEPS_BETWEEN_STATES
        if near or state is None:
            again = "; going back to the last good state did not help" if near else ""
            raise BadNumbersError(f"{error}{again}") from error
        self._bad_step = trainer.global_step
        threestudio.warn(f"Bad numbers {error}; going back to the state at step {state['step']}")
        self.system.zero_grad()
        self.system.load_state_dict(state["module"])
        for optimizer, values in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(deepcopy(values))
        for each, values in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            each.scheduler.load_state_dict(deepcopy(values))
        # global_step is Lightning's count of optimiser steps; this one has begun
        steps = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
        steps.ready, steps.completed = state["step"] + 1, state["step"]
        self.system.do_update_step(self.system.true_current_epoch, self.system.true_global_step)

    # -------------------------------------------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: a resumed run need not run out of memory again."""
        return {"most_rays": self.most_rays, "most_images": self.most_images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            ValueError: it holds something else.
        """
        self.most_rays, self.most_images = (
            check_value(
                f"{name} of the checkpoint's recovery",
                state[name] if isinstance(state, dict) else state,
                Count | None,
            )
            for name in ("most_rays", "most_images")
        )


def _on_cpu(tree: Any) -> Any:
    """A copy of nested dicts and lists, tensors on the CPU."""
    return tree_map(lambda x: x.to("cpu", copy=True) if isinstance(x, Tensor) else deepcopy(x), tree)
