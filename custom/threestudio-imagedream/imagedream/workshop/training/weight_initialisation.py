"""Where the weights of a network come from before it learns."""

import logging
import re
from collections.abc import Iterable, Mapping, Set

import torch
from torch import Tensor, nn

from imagedream.checkpoints.errors import differences
from imagedream.model import MultiViewUNet

logger = logging.getLogger(__name__)

ADAPTERS = re.compile(r"image_projection\..*|.*\.processor\.to_[kv]_ip\..*")
CAMERAS = re.compile(r"unet\.class_embedding\..*")
BLOCKS = re.compile(r"(.*\.transformer_blocks\.)(\d+)\.(.*)")
_ADDED_BY_A_BLOCK = re.compile(r"attn\d\.to_out\.0\..*|ff\.net\.2\..*")
"""Layers of a transformer block whose output is added to what goes past them."""

_SAME_ADAPTERS = {"none": "", "pixel-only": "", "global": "global", "local": "local", "pixel": "local"}
"""Which weights the image controllers have, besides those of the base."""


def start_network(
    model: MultiViewUNet, source: MultiViewUNet, new_in_source: Set[str] = frozenset()
) -> dict[str, int]:
    """Give a network the weights of another, which may lack image controllers and be less deep.

    What the source lacks begins without influence, so that the first step sees the source's own network: keys of the
    image tokens are those of the caption (as IP-Adapter begins, arXiv 2308.06721), their values are zero (as ControlNet's
    new layers, arXiv 2302.05543), and the projection of the features stays as it was drawn. Transformer blocks beyond
    those of the source are copies of its last one that add nothing yet (as in Net2Net, arXiv 1511.05641, a deeper network
    begins as the same function). A prompt frame is new to a network without pixel controller, and changes what it says
    from the beginning.

    Args:
        model: changed in place.
        source: of the same size, or with fewer transformer blocks in a layer.
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
    state, known = model.state_dict(), source.state_dict()
    given = _deepened(known, state)
    missing = {name for name in state if name not in given and ADAPTERS.fullmatch(name)}
    expected = {name: tuple(tensor.shape) for name, tensor in state.items() if name not in missing}
    problem = differences(expected, {name: tuple(tensor.shape) for name, tensor in given.items()})
    if problem:
        raise ValueError(f"the starting point does not fit the model: {problem}")
    model.load_state_dict({**given, **_without_influence(missing, given, state)}, strict=False)
    counts = summary(model, missing | (given.keys() - known.keys()) | set(new_in_source))
    logger.info(
        "starting point: %s", ", ".join(f"{what} {count / 1e6:.1f} M" for what, count in counts.items())
    )
    return counts


def _deepened(given: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Weights with the transformer blocks that are wanted besides, each a copy of the one before that adds nothing."""
    weights = dict(given)
    for name in wanted:  # in the network's order: the block before comes first
        block = BLOCKS.fullmatch(name)
        if name in given or not block:
            continue
        stem, number, layer = block.groups()
        before = weights.get(f"{stem}{int(number) - 1}.{layer}")
        if before is not None:
            weights[name] = torch.zeros_like(before) if _ADDED_BY_A_BLOCK.fullmatch(layer) else before
    return weights


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
    kinds = {
        "taken": lambda name: name not in new,
        "new camera layers": lambda name: name in new and CAMERAS.fullmatch(name),
        "new image projection": lambda name: name in new and name.startswith("image_projection."),
        "new transformer blocks": lambda name: name in new and BLOCKS.fullmatch(name) and "_ip." not in name,
        "new image keys and values": lambda name: name in new and "_ip." in name,
    }
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    counts = {what: sum(size for name, size in sizes.items() if of(name)) for what, of in kinds.items()}
    return {what: count for what, count in counts.items() if count}
