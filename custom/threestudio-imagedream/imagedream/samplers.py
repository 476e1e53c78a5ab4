"""The samplers to choose from: diffusers schedulers made from the model's own noise schedule."""

from typing import Any, Literal

Sampler = Literal["ddim", "dpm"]
"""`ddim` is the paper's; `dpm` is DPM-Solver++ of second order (Lu et al. 2022), which needs fewer steps."""

DEFAULT_STEPS: dict[Sampler, int] = {"ddim": 50, "dpm": 20}


def make_sampler(name: Sampler, scheduler: Any) -> Any:
    """A sampler with the noise schedule and the parametrisation of a model's scheduler, which stays as it is.

    Args:
        name: which.
        scheduler: the diffusers scheduler of a pipeline.
    """
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    return {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}[name].from_config(scheduler.config)
