"""Several pictures of one object as prompts (MultiImageDream, arXiv 2404.17419): which side each shows, and its weight in each view."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from imagedream.cameras import VIEW_NAMES
from imagedream.runs.ranges import Positive, check_value

PROMPT_TEMPERATURE = 0.5
"""Of `angle_bias`: a prompt weighs 1 in the view from its own side, 0.14 a quarter turn away, 0.02 from behind."""

Picture = TypeVar("Picture")


def with_azimuths(
    pictures: Iterable[Picture], sides: Mapping[str, Picture | None]
) -> list[tuple[Picture, float | None]]:
    """All prompts with the azimuth they were taken from, in degrees; None where nobody knows.

    Args:
        pictures: of unknown sides.
        sides: some of `front`, `left`, `back`, `right`; None for those there is no picture of.

    >>> with_azimuths(["a.png"], {"back": "b.png", "left": None})
    [('a.png', None), ('b.png', 180.0)]
    """
    named = [
        (sides[name], 90.0 * quarter)
        for quarter, name in enumerate(VIEW_NAMES)
        if sides.get(name) is not None
    ]
    return [*((picture, None) for picture in pictures), *named]


def angle_bias(
    view_azimuths_deg: Float[Tensor, "*group view"],
    prompt_azimuths_deg: Sequence[float | None],
    temperature: float = PROMPT_TEMPERATURE,
) -> Float[Tensor, "*group view prompt"] | None:
    """Weight of each prompt in each view, as `Condition.prompt_bias`.

    (cos Δ − 1) / temperature with Δ the angle between view and prompt, shifted so that the nearest prompt's is 0: the
    nearest weighs 1, the others the less the further they are from it. A prompt of unknown azimuth weighs 1 in
    all views, as if it were the nearest.

    Args:
        view_azimuths_deg: of the views.
        prompt_azimuths_deg: of the prompts, None where it is unknown.
        temperature: the larger, the more alike the weights.

    Returns:
        Log weights, at most 0; None, all alike, for a single prompt or where no azimuth is known.

    Raises:
        ValueError: for a temperature that is not greater than 0.

    >>> angle_bias(torch.tensor([0.0, 90.0, 180.0]), [0.0, 180.0], temperature=0.5)
    tensor([[ 0., -4.],
            [ 0.,  0.],
            [-4.,  0.]])
    """
    check_value("prompt_temperature", temperature, Positive)
    if len(prompt_azimuths_deg) == 1 or all(azimuth is None for azimuth in prompt_azimuths_deg):
        return None
    known = [azimuth is not None for azimuth in prompt_azimuths_deg]
    prompts = view_azimuths_deg.new_tensor([azimuth or 0.0 for azimuth in prompt_azimuths_deg])
    cosines = torch.cos(torch.deg2rad(view_azimuths_deg[..., None] - prompts))
    cosines = cosines.where(torch.tensor(known, device=cosines.device), cosines.new_ones(()))
    return (cosines - cosines.amax(dim=-1, keepdim=True)) / temperature
