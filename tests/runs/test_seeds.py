"""Random numbers given by seed, step and stream."""

import random

import numpy as np
import torch

from imagedream.runs.seeds import from_seed, seed_step, step_generator


def test_random_numbers_of_a_step():
    def drawn(seed, step):
        seed_step(seed, step)
        streams = [
            torch.rand(2, generator=step_generator(torch.initial_seed(), step, stream)) for stream in (0, 1)
        ]
        others = torch.tensor([random.random(), np.random.random()])  # noqa: NPY002 - the global one is meant
        return torch.cat([torch.rand(2), others, *streams])

    assert torch.equal(drawn(3, 5), drawn(3, 5))
    seen = torch.cat([drawn(seed, step) for seed in (0, 1) for step in (0, 1)])
    assert len(seen.unique()) == len(seen)


def test_a_block_with_a_seed_of_its_own_changes_nothing_outside():
    before = torch.get_rng_state(), random.getstate()
    with from_seed(1):
        first = torch.rand(3)
    with from_seed(1):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
