"""Ways to make a pipeline fit or hurry: what each saves depends on the device, what comes out stays the same.

Activations that a backward pass needs are the autoencoder's alone: distillation sends its gradient through the encoding
of the renders, and uses the network without gradient.
"""

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch

from imagedream.runs.ranges import OneOf, check_ranges, check_value

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class MemoryOptions:
    """What `apply_memory_options` switches on."""

    encoder: Annotated[str, OneOf("keep", "offload")] = "keep"
    """CLIP's text and image encoder: `keep` it on the device; or `offload` its blocks to the CPU, from where they come one
    by one."""
    vae_slicing: bool = False
    """The autoencoder takes one picture after the other."""
    vae_checkpointing: bool = False
    """Encoding with gradient keeps little and computes the rest again in the backward pass; with slicing, one picture
    at a time."""
    compile: bool = False
    """`torch.compile` for network and autoencoder: minutes at the first step, less for each later one."""

    def __post_init__(self) -> None:
        check_ranges(self)


def precision(name: str, device: str | torch.device) -> torch.dtype:
    """The precision of that name; `auto` is float16 on CUDA and float32 elsewhere.

    Raises:
        ValueError: for another name.
    """
    if check_value("precision", name, Annotated[str, OneOf("auto", *PRECISIONS)]) == "auto":
        return torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return PRECISIONS[name]


def computes_in_bfloat16(device: str | torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 itself. Where it only pretends to, float32 is far faster."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":  # what oneDNN says of AVX-512, AMX, or ARM's own
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


_kept: "dict[tuple[Any, ...], ImageDreamPipeline] | None" = None


def keep_models() -> None:
    """From now on this process keeps what `load_pipeline` loads, for its next run, as workers of a batch want it."""
    global _kept
    _kept = {} if _kept is None else _kept


def load_pipeline(
    source: str, options: MemoryOptions, dtype: torch.dtype, device: str | torch.device, **given: Any
) -> "ImageDreamPipeline":
    """`checkpoints.load`, which is given the rest, and then `apply_memory_options`.

    It is the same pipeline again if this process keeps its models.
    """
    from imagedream import checkpoints

    key = (source, options, dtype, str(device), *sorted(given.items()))
    if _kept is not None and key in _kept:
        return _kept[key]
    pipeline = checkpoints.load(source, dtype=dtype, device=device, **given)
    apply_memory_options(pipeline, options)
    if _kept is not None:
        _kept[key] = pipeline
    return pipeline


def apply_memory_options(pipeline: "ImageDreamPipeline", options: MemoryOptions) -> None:
    """Switch options of a pipeline on. Where it lies and in which precision must be settled before.

    Raises:
        ValueError: if an option cannot work on the pipeline's device.
    """
    network, autoencoder = pipeline.unet, pipeline.vae
    if options.compile:
        check_compiler(pipeline.device)
        for module in (network.unet, autoencoder.encoder, autoencoder.decoder):
            module.compile()
    if options.vae_slicing:
        autoencoder.enable_slicing()
    if options.vae_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    if options.encoder == "offload":
        pipeline.encoder.offload(pipeline.device)


def check_compiler(device: torch.device) -> None:
    """Raise ValueError unless `torch.compile` finds what it needs."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise ValueError(
            "compile: true needs a C++ compiler on the CPU, and there is none; use compile: false"
        )
