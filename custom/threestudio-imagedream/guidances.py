"""Several guidances in one run, each with a weight, a choice of cameras and an interval of its own.

The loss of a step is Σ weight · (all `loss_*` that the guidance returns) over the guidances that are active in it, so its
gradient is the weighted sum of theirs. A guidance is loaded when its weight is first not 0 and freed when it is 0.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from torch import Tensor, nn

import threestudio
from imagedream.runs.out_of_memory import is_out_of_memory
from imagedream.runs.ranges import Count, OneOf, Schedule, check_ranges
from threestudio.utils.base import Updateable, update_end_if_possible, update_if_possible
from threestudio.utils.config import parse_structured
from threestudio.utils.misc import C, cleanup

from .chunked_rendering import first_images


@dataclass
class GuidanceEntry:
    """Keys of an entry of `system.guidances`."""

    guidance_type: str = ""
    guidance: dict = field(default_factory=dict)
    prompt_processor_type: str = ""
    """Empty: `system.prompt_processor` is the prompt of this guidance too."""
    prompt_processor: dict = field(default_factory=dict)
    weight: Annotated[Any, Schedule(float)] = 1.0
    """Number or schedule; at 0 the guidance is not called, and not in memory."""
    cameras: Annotated[str, OneOf("all", "group", "first")] = "all"
    """What it sees: `all` images of a step, those of the first `group`, or the `first` image. A guidance with a method
    `camera_batch(prompt, batch, render)` is shown the render of its own cameras instead, or is not called where that
    gives None."""
    every: Count = 1
    """Called in every n-th step only."""

    def __post_init__(self) -> None:
        if not self.guidance_type:
            raise ValueError("an entry of system.guidances needs a guidance_type")
        check_ranges(self)


def preflight(name: str, cfg: Any) -> None:
    """Raise what a registered module finds wrong with its settings, or an unknown key, without loading anything."""
    module = threestudio.find(name)
    if hasattr(module, "preflight"):
        module.preflight(cfg)
    elif hasattr(module, "Config"):
        parse_structured(module.Config, cfg)


class MixedGuidance:
    """One guidance of a mix: when it is active, its prompt, what it is shown, and the guidance itself while it is loaded."""

    def __init__(self, name: str, entry: Any) -> None:
        self.name = name
        self.cfg = parse_structured(GuidanceEntry, entry)
        where = f"system.guidances.{name}" if name else "system.guidance"
        self.label = f"{where} ({self.cfg.guidance_type})"
        self.guidance: Any = None
        self.prompt: Any = None

    def preflight(self) -> None:
        """Raise what is wrong with the settings, without loading anything."""
        for kind in ("guidance", "prompt_processor"):
            if self.cfg[f"{kind}_type"]:
                preflight(self.cfg[f"{kind}_type"], self.cfg[kind])

    def weight(self, epoch: int, step: int) -> float:
        """The weight at a step, whether or not the guidance is called in it."""
        return C(self.cfg.weight, epoch, step)

    def is_active(self, epoch: int, step: int) -> bool:
        """Whether the guidance is called in a step."""
        return step % self.cfg.every == 0 and self.weight(epoch, step) != 0

    def read_prompt(self, shared: Any) -> None:
        """Make the prompt, or take the shared one."""
        processor = self.cfg.prompt_processor_type
        self.prompt = threestudio.find(processor)(self.cfg.prompt_processor)() if processor else shared

    def load(self, epoch: int, step: int) -> Any:
        """The guidance, loaded if it is not."""
        if self.guidance is None:
            self.guidance = threestudio.find(self.cfg.guidance_type)(self.cfg.guidance)
            if isinstance(self.guidance, nn.Module):
                trained = sum(p.numel() for p in self.guidance.parameters() if p.requires_grad)
                if trained:
                    threestudio.warn(
                        f"{self.label} has {trained} parameters of its own, which imagedream-system does not train"
                    )
            update_if_possible(self.guidance, epoch, step)
        return self.guidance

    def free(self) -> None:
        """Give the guidance's memory back."""
        if self.guidance is not None:
            self.guidance = None
            cleanup()

    def __call__(
        self,
        shared: Callable[[], dict[str, Any]],
        batch: dict[str, Any],
        group_size: int,
        render: Callable[..., dict[str, Any]],
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """What the guidance answers in a step: at least one `loss_*`, all of them single numbers; or nothing at all.

        And the render of cameras of its own, if it has brought any; `shared` gives that of the batch's.
        """
        cameras, own = self.cfg.cameras, None
        if hasattr(self.guidance, "camera_batch"):
            batch = self.guidance.camera_batch(self.prompt, batch, render)
            if batch is None:
                return {}, None
            out = own = render(batch)
        else:
            out = shared()
        if own is None and cameras != "all":
            count = 1 if cameras == "first" else group_size
            total = len(batch["c2w"])
            out, batch = first_images(out, count, total), first_images(batch, count, total)
        rgb = out["comp_rgb"]
        try:
            answer = self.guidance(rgb, **self._arguments(out, batch))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{self.label} was shown images {tuple(rgb.shape)} (batch, height, width, channel; cameras: "
                f"{cameras}) and answered: {type(error).__name__}: {error}"
            ) from error
        self._check(answer)
        return answer, own

    def _arguments(self, out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """Of a step, what the guidance can be called with."""
        call = self.guidance.forward if isinstance(self.guidance, nn.Module) else self.guidance.__call__
        parameters = inspect.signature(call).parameters
        arguments = {
            **batch,
            "c2w": batch["c2w"].clone(),  # some guidances rescale it in place
            "rgb_as_latents": False,
            "comp_rgb_bg": out["comp_rgb_bg"],
        }
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
            arguments = {name: value for name, value in arguments.items() if name in parameters}
        if "prompt_utils" in parameters and self.prompt is None:
            raise ValueError("it needs a prompt, but there is no prompt_processor_type")
        given = {"prompt_utils": self.prompt, "render": out}
        return arguments | {name: value for name, value in given.items() if name in parameters}

    def _check(self, answer: Any) -> None:
        if not isinstance(answer, dict):
            raise ValueError(f"{self.label} returned {type(answer).__name__}, must be a dict with loss_...")
        losses = {name: value for name, value in answer.items() if name.startswith("loss_")}
        if not losses:
            raise ValueError(f"{self.label} returned {', '.join(answer) or 'nothing'}, but no loss_...")
        for name, value in losses.items():
            if not _is_number(value):
                raise ValueError(
                    f"{name} of {self.label} has shape {tuple(value.shape)}, must be a single number"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


class GuidanceMix(Updateable):
    """All guidances of a run: `system.guidance`, whose weight is `system.loss.lambda_sds`, and `system.guidances`.

    Args:
        cfg: the system's config.
    """

    def __init__(self, cfg: Any) -> None:
        entries = {}
        if cfg.get("guidance_type"):
            main = {"guidance_type": cfg["guidance_type"], "guidance": cfg.get("guidance", {})}
            entries[""] = {**main, "weight": cfg.get("loss", {}).get("lambda_sds", 1.0)}
        given = cfg.get("guidances") or {}
        entries |= {str(key): given[key] for key in (given if hasattr(given, "keys") else range(len(given)))}
        if not entries:
            raise ValueError("there is no guidance: give system.guidance_type or system.guidances")
        self.members = [MixedGuidance(name, entry) for name, entry in entries.items()]
        self.group_size = int(cfg.get("guidance", {}).get("n_view", 4))
        self.epoch = self.step = 0

    def __iter__(self) -> Iterator[MixedGuidance]:
        return iter(self.members)

    def preflight(self) -> None:
        """Raise what is wrong with any of them."""
        for member in self.members:
            member.preflight()

    def share_prompt(self, prompt: Any) -> None:
        """Give a new shared prompt to all guidances that have none of their own."""
        for member in self.members:
            if not member.cfg.prompt_processor_type:
                member.prompt = prompt

    def check_steps(self, steps: int) -> None:
        """Raise unless each of the steps has an active guidance."""
        for step in range(steps):
            if not any(member.is_active(0, step) for member in self.members):
                raise ValueError(f"no guidance is active at step {step}: {self._weights(step)}")

    def _weights(self, step: int) -> str:
        return "; ".join(
            f"{m.label} has weight {m.weight(self.epoch, step):g} in every {m.cfg.every}. step"
            for m in self.members
        )

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Pass the step on."""
        self.epoch, self.step = epoch, global_step
        for member in self.members:
            update_if_possible(member.guidance, epoch, global_step)

    def update_step_end(self, epoch: int, global_step: int) -> None:
        """Pass the end of the step on."""
        for member in self.members:
            update_end_if_possible(member.guidance, epoch, global_step)

    def free(self) -> None:
        """Give the memory of all guidances back."""
        for member in self.members:
            member.free()

    def __call__(
        self, batch: dict[str, Any], render: Callable[..., dict[str, Any]]
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """The terms of a step's loss, weighted.

        Args:
            batch: cameras.
            render: renders these, if a guidance wants to see them, and those that guidances bring themselves.

        Returns:
            Weighted terms; numbers to log, where the names of those of further guidances begin with its name or place; and
            the render of the batch, or where nobody wanted it the first of the others.
        """
        terms: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {}
        renders: list[dict[str, Any]] = []
        shared = cache(lambda: render(batch))
        for member in self.members:
            weight = member.weight(self.epoch, self.step)
            if weight == 0:
                member.free()
            if not member.is_active(self.epoch, self.step):
                continue
            member.load(self.epoch, self.step)
            answer, own = member(shared, batch, self.group_size, render)
            renders += [] if own is None else [own]
            prefix = f"{member.name}/" if member.name else ""
            for name, value in answer.items():
                if _is_number(value):
                    numbers[prefix + name] = value
                if name.startswith("loss_"):
                    terms[prefix + name] = weight * value
        if not any(isinstance(term, Tensor) for term in terms.values()):
            raise ValueError(f"no guidance has a loss at step {self.step}: {self._weights(self.step)}")
        return terms, numbers, shared() if shared.cache_info().currsize or not renders else renders[0]
