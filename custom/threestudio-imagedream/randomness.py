"""Random numbers given by a training step, so that a run that goes on from a checkpoint draws what it would have drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_step(seed: int, number: int) -> None:
    """Begin the global streams of Python, NumPy and PyTorch anew.

    Args:
        seed: the run's.
        number: of the batch, counted from the run's beginning.
    """
    mixed = _mixed(seed, number)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - others may use the global one
    torch.manual_seed(mixed)


def step_generator(stream: int, step: int, seed: int | None = None) -> torch.Generator:
    """Random numbers of one part of a run at one step, whatever the other parts draw.

    Args:
        stream: which part.
        step: which step.
        seed: None is PyTorch's global seed, which `seed_step` sets.
    """
    seed = torch.initial_seed() if seed is None else seed
    return torch.Generator().manual_seed(_mixed(seed, stream, step))


@contextmanager
def from_seed(seed: int) -> Iterator[None]:
    """Everything inside the block draws from this seed; outside nothing changes."""
    state = random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
