"""LoRA adapters: small corrections of a network's matrices in one file (Hu et al. 2021, arXiv 2106.09685).

W becomes W + scale · alpha / rank · B A with A (rank, in) and B (out, rank). The file is what peft and diffusers write:
safetensors with `NAME.lora_A.weight` and `NAME.lora_B.weight`, and rank and alpha in its header. Merged into the weights, an
adapter costs nothing afterwards, and whatever works with a model works with it.

diffusers' `load_lora_adapter`, `fuse_lora`, `unload_lora` give the same weights bit by bit. They are not used, since they are not
strict (matrices of modules that are not there are passed over with a warning) and need peft for what is one line here.
"""

import logging
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from imagedream.checkpoints.errors import CheckpointError, check_finite, refusing
from imagedream.checkpoints.tensors import SAFETENSORS, open_tensors
from imagedream.runs.arguments import parse_object
from imagedream.runs.ranges import check_value

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
    if path.suffix not in SAFETENSORS:
        raise CheckpointError(f"adapter {path}: its name must end in .safetensors")
    with refusing("adapter"):
        tensors = open_tensors(path)
    names = set(tensors.shapes)
    modules = sorted(name.removesuffix(_A) for name in names if name.endswith(_A))
    if not modules or names != {module + end for module in modules for end in (_A, _B)}:
        strange = sorted(name for name in names if not name.endswith((_A, _B)))
        raise CheckpointError(
            f"adapter {path}: is no LoRA adapter: {len(modules)} pairs of matrices NAME{_A}, NAME{_B} among its "
            f"{len(names)} tensors" + (f", besides {strange[0]}" if strange else "")
        )
    rank = _rank_and_alpha(path)[0]
    for module in modules:
        down, up = tensors.shapes[module + _A], tensors.shapes[module + _B]
        if len(down) != 2 or len(up) != 2 or not (rank or down[0]) == down[0] == up[1] >= 1:
            raise CheckpointError(
                f"adapter {path}: {module} has matrices of {down} and {up}, must be (rank, in) and (out, rank)"
                + (f" with rank {rank}" if rank else "")
            )
        if not all(tensors.places[module + end].floating for end in (_A, _B)):
            raise CheckpointError(f"adapter {path}: {module} holds no floating-point numbers")


def _rank_and_alpha(path: Path) -> tuple[int | None, float | None]:
    """What the header says of all matrices; None where it says nothing."""
    with refusing(f"adapter {path}"):
        with safe_open(path, "pt") as file:
            header = parse_object((file.metadata() or {}).get(HEADER, "{}"), "its header")
        header = {key.removeprefix("unet."): value for key, value in header.items()}  # diffusers' pipelines
        rank, alpha = header.get("r"), header.get("lora_alpha")
        if rank is not None and (type(rank) is not int or rank < 1):
            raise ValueError(f"its rank is {rank!r}, must be a whole number of at least 1")
        if alpha is not None and (type(alpha) not in (int, float) or not isfinite(alpha)):
            raise ValueError(f"its alpha is {alpha!r}, must be a finite number")
        alpha = None if alpha is None else float(alpha)
        unread = [
            key for key in ("rank_pattern", "alpha_pattern", "use_rslora", "use_dora") if header.get(key)
        ]
        if unread:
            raise ValueError(f"its header sets {unread[0]}, which is not read here")
    return rank, alpha


@torch.no_grad()
def merge_adapter(model: "MultiViewUNet", path: str | Path, scale: float = 1.0) -> None:
    """Add an adapter to a network's weights.

    Args:
        model: in whatever precision; the correction is computed in float32.
        path: the file.
        scale: of the correction; 0 changes nothing, −1 takes a merged adapter out again.

    Raises:
        CheckpointError: it is no adapter, or of another network; then nothing has been changed.
        ValueError: a scale that is not a finite number.
    """
    check_value("adapter_scale", scale, float)
    check_adapter(path)
    tensors, alpha = load_file(path), _rank_and_alpha(Path(path))[1]
    places, wrong = {}, []
    for name in sorted(name.removesuffix(_A) for name in tensors if name.endswith(_A)):
        shape = (tensors[name + _B].shape[0], tensors[name + _A].shape[1])
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

    def corrected(name: str, weight: nn.Parameter) -> Tensor:
        down, up = tensors[name + _A].float(), tensors[name + _B].float()
        factor = scale if alpha is None else scale * alpha / len(down)
        return (weight.float() + (factor * (up @ down)).to(weight.device)).to(weight.dtype)

    for name, weight in places.items():  # all of them, before the first is changed
        check_finite(f"adapter {path}: {name}, corrected", corrected(name, weight))
    for name, weight in places.items():
        weight.copy_(corrected(name, weight))
    logger.info("adapter %s: %d matrices changed, scale %g", path, len(places), scale)
