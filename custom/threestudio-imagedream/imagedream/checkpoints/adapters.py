"""LoRA adapters: small corrections of a network's matrices in one file (Hu et al. 2021, arXiv 2106.09685).

W becomes W + scale · alpha / rank · B A with A (rank, in) and B (out, rank). The file is what peft and diffusers write:
safetensors with `NAME.lora_A.weight` and `NAME.lora_B.weight`, and rank and alpha in its header. Merged into the weights, an
adapter costs nothing afterwards, and whatever works with a model works with it.

diffusers' `load_lora_adapter`, `fuse_lora`, `unload_lora` give the same weights bit by bit. They are not used, since they are not
strict (matrices of modules that are not there are passed over with a warning) and need peft for what is one line here.
"""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from imagedream.checkpoints.errors import CheckpointError
from imagedream.checkpoints.tensors import safetensors_shapes

if TYPE_CHECKING:
    from imagedream.model import MultiViewUNet

logger = logging.getLogger(__name__)

HEADER = "lora_adapter_metadata"
"""Where diffusers keeps rank and alpha."""

_A, _B = ".lora_A.weight", ".lora_B.weight"


def check_adapter(path: str | Path) -> None:
    """Raise CheckpointError, from its header alone, unless a file is an adapter."""
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise CheckpointError(
            f"adapter {path}: " + ("is a folder, name the file" if path.is_dir() else "no such file")
        )
    try:
        names = set(safetensors_shapes(path))
    except CheckpointError as error:
        raise CheckpointError(f"adapter {error}") from error
    modules = {name.removesuffix(_A) for name in names if name.endswith(_A)}
    if not modules or names != {module + end for module in modules for end in (_A, _B)}:
        strange = sorted(name for name in names if not name.endswith((_A, _B)))
        raise CheckpointError(
            f"adapter {path}: is no LoRA adapter: {len(modules)} pairs of matrices NAME{_A}, NAME{_B} among its "
            f"{len(names)} tensors" + (f", besides {strange[0]}" if strange else "")
        )


@torch.no_grad()
def merge_adapter(model: "MultiViewUNet", path: str | Path, scale: float = 1.0) -> None:
    """Add an adapter to a network's weights.

    Args:
        model: in whatever precision; the correction is computed in float32.
        path: the file.
        scale: of the correction; 0 changes nothing, −1 takes a merged adapter out again.

    Raises:
        CheckpointError: it is no adapter, or of another network; then nothing has been changed.
    """
    check_adapter(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    places, wrong = {}, []
    for name in sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A)):
        down, up = tensors[name + _A], tensors[name + _B]
        shape = (up.shape[0], down.shape[1])
        try:
            weight = model.unet.get_submodule(name.removeprefix("unet.")).weight
        except AttributeError:
            wrong.append(f"{name} is not there")
            continue
        if tuple(weight.shape) != shape:
            wrong.append(f"{name} is {tuple(weight.shape)}, the adapter's {shape}")
        places[name] = weight
    if wrong:
        raise CheckpointError(
            f"adapter {path}: is of another network: {len(wrong)} of {len(tensors) // 2} matrices do not fit, the first: "
            f"{wrong[0]}"
        )
    for name, weight in places.items():
        down, up = tensors[name + _A].float(), tensors[name + _B].float()
        rank = header.get("r", len(down))
        correction = scale * header.get("lora_alpha", rank) / rank * (up @ down)
        weight.copy_((weight.float() + correction.to(weight.device)).to(weight.dtype))
    logger.info("adapter %s: %d matrices changed, scale %g", path, len(places), scale)
