"""The order of samples, ranges and backgrounds: random draws that several trainings share."""

from functools import lru_cache

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from imagedream.runs.seeds import step_generator


def epoch_indices(step: int, batch_size: int, objects: int, seed: int) -> Integer[Tensor, " batch"]:
    """The objects of one step: every epoch is a fresh permutation, and a batch may straddle two."""
    places = [divmod(place, objects) for place in range(step * batch_size, (step + 1) * batch_size)]
    return torch.stack([_permutation(epoch, objects, seed)[offset] for epoch, offset in places])


@lru_cache(maxsize=3)
def _permutation(epoch: int, objects: int, seed: int) -> Tensor:
    return torch.randperm(objects, generator=step_generator(seed, epoch, stream=1))


def uniform(low_high: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform draws from a range."""
    low, high = low_high
    return low + (high - low) * torch.rand(shape, generator=generator)


def random_backgrounds(
    groups: int, generator: torch.Generator, white: float = 0.4, grey: float = 0.2
) -> Float[Tensor, "group 3"]:
    """A background colour for each group: white, grey (as in MVDream) or any colour, with the given probabilities."""
    choice = torch.rand(groups, 1, generator=generator)
    colour = torch.rand(groups, 3, generator=generator)
    backgrounds = torch.where(choice < white + grey, colour[:, :1].expand(-1, 3), colour)
    return torch.where(choice < white, torch.ones_like(backgrounds), backgrounds)
