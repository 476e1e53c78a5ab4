"""Where the weights of a network come from before it learns."""

import logging
import re
from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn

from imagedream.checkpoints.errors import differences
from imagedream.model import MultiViewUNet

logger = logging.getLogger(__name__)

ADAPTERS = re.compile(r"image_projection\..*|.*\.processor\.to_[kv]_ip\..*")
CAMERAS = re.compile(r"unet\.class_embedding\..*")

_SAME_ADAPTERS = {"none": "", "pixel-only": "", "global": "global", "local": "local", "pixel": "local"}
"""Which weights the image controllers have, besides those of the base."""


def start_network(
    model: MultiViewUNet, source: MultiViewUNet, new_in_source: Set[str] = frozenset()
) -> dict[str, int]:
    """Give a network the weights of another, which may lack image controllers.

    What the source lacks begins without influence, so that the first step sees the source's own network: keys of the
    image tokens are those of the caption (as IP-Adapter begins, arXiv 2308.06721), their values are zero (as ControlNet's
    new layers, arXiv 2302.05543), and the projection of the features stays as it was drawn. A prompt frame is new to a
    network without pixel controller, and changes its answers from the beginning.

    Args:
        model: changed in place.
        source: of the same size.
        new_in_source: what the source itself had to make up, see `checkpoints.load_part`.

    Returns:
        How many parameters were taken, and how many of which layers are new.

    Raises:
        ValueError: the source is of another size, or has image controllers of another kind.
    """
    ours, theirs = model.config.controllers, source.config.controllers
    if _SAME_ADAPTERS[theirs] not in ("", _SAME_ADAPTERS[ours]):
        fitting = [name for name, kind in _SAME_ADAPTERS.items() if kind == _SAME_ADAPTERS[theirs]]
        raise ValueError(
            f"model.controllers is {ours}, but the starting point has {theirs} controllers, which fit "
            f"{' and '.join(fitting)} only"
        )
    state, given = model.state_dict(), source.state_dict()
    missing = {name for name in state if name not in given and ADAPTERS.fullmatch(name)}
    expected = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in missing}
    problem = differences(expected, {name: tuple(tensor.shape) for name, tensor in given.items()})
    if problem:
        raise ValueError(f"the starting point does not fit the model: {problem}")
    model.load_state_dict({**given, **_without_influence(missing, given, state)}, strict=False)
    counts = summary(model, missing | set(new_in_source))
    logger.info(
        "starting point: %s", ", ".join(f"{what} {count / 1e6:.1f} M" for what, count in counts.items())
    )
    return counts


def _without_influence(
    missing: Set[str], given: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    values = {}
    for name in missing:
        if ".to_k_ip." in name:
            values[name] = given[name.split("processor.")[0] + "to_k.weight"]
        elif ".to_v_ip." in name:
            values[name] = torch.zeros_like(state[name])
    return values


def summary(model: nn.Module, new: Set[str]) -> dict[str, int]:
    """Numbers of parameters: `taken`, and the new ones by what they are for."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if name not in new:
            what = "taken"
        elif CAMERAS.fullmatch(name):
            what = "new camera layers"
        else:
            projection = name.startswith("image_projection.")
            what = "new image projection" if projection else "new image keys and values"
        counts[what] = counts.get(what, 0) + parameter.numel()
    return counts
