"""Random numbers given by a run's seed and the step, so that a resumed run draws what it would have drawn."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_step(seed: int, step: int) -> None:
    """Begin the global streams of Python, NumPy and PyTorch anew.

    Args:
        seed: the run's.
        step: counted in batches from the run's beginning.
    """
    mixed = _mixed(seed, step)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - others may use the global one
    torch.manual_seed(mixed)


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """Random numbers of one part of a run at one step, whatever the other parts draw.

    Args:
        seed: the run's; `torch.initial_seed()` is what `seed_step` set.
        step: which step.
        stream: which part.
    """
    return torch.Generator().manual_seed(_mixed(seed, stream, step))


@contextmanager
def from_seed(seed: int) -> Iterator[None]:
    """Everything inside the block draws from this seed; outside nothing changes."""
    with isolate_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        yield
