"""Ways to make a pipeline fit or hurry: what each saves depends on the device, what comes out stays the same.

Activations that a backward pass needs are the autoencoder's alone: distillation sends its gradient through the encoding
of the renders, and uses the network without gradient.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import torch
from annotated_types import Interval, MultipleOf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from imagedream.runs.ranges import OneOf, check_ranges

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline

ATTENTION = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
"""PyTorch's attention kernels; `math` is the plain formula, which writes all attention weights down."""

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class MemoryOptions:
    """What `apply_memory_options` switches on."""

    encoder: Annotated[str, OneOf("keep", "offload", "free")] = "keep"
    """CLIP's text and image encoder: `keep` it on the device; `offload` its blocks to the CPU, from where they come one
    by one; or `free` it once a call of the pipeline has encoded its prompt."""
    vae_slicing: bool = False
    """The autoencoder takes one picture after the other."""
    vae_tile_px: Annotated[int, Interval(ge=16), MultipleOf(16)] | None = None
    """Side of the tiles that the autoencoder cuts larger pictures into, a multiple of 16. The only option that changes
    the result: tiles overlap by a quarter, but each is normalised by itself."""
    vae_checkpointing: bool = False
    """Encoding with gradient keeps little and computes the rest again in the backward pass; with slicing, one picture
    at a time."""
    attention: Annotated[str, OneOf("auto", "flash", "efficient", "cudnn", "math")] = "auto"
    """Which of PyTorch's attention kernels the network uses, see `ATTENTION`; `auto` leaves it to PyTorch."""
    channels_last: bool = False
    """Network and autoencoder keep channels next to each other in memory, which suits tensor cores."""
    compile: bool = False
    """`torch.compile` for network and autoencoder: minutes at the first step, less for each later one."""

    def __post_init__(self) -> None:
        check_ranges(self)


def precision(name: str, device: str | torch.device) -> torch.dtype:
    """The precision of that name; `auto` is float16 on CUDA and float32 elsewhere.

    Raises:
        ValueError: for another name.
    """
    if name == "auto":
        return torch.float16 if torch.device(device).type == "cuda" else torch.float32
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}, must be one of auto, {', '.join(PRECISIONS)}")
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
    if options.attention != "auto":
        check_attention(options.attention, pipeline.device, network.dtype)
        network.forward = _with_kernel(network.forward, ATTENTION[options.attention])
    if options.compile:
        check_compiler(pipeline.device)
        for module in (network.unet, autoencoder.encoder, autoencoder.decoder):
            module.compile()
    if options.channels_last:
        for module in (network, autoencoder):
            torch.nn.Module.to(module, memory_format=torch.channels_last)
    if options.vae_slicing:
        autoencoder.enable_slicing()
    if options.vae_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    if options.vae_tile_px is not None:
        autoencoder.enable_tiling()
        autoencoder.tile_sample_min_size = options.vae_tile_px
        autoencoder.tile_latent_min_size = options.vae_tile_px * pipeline.latent_size // pipeline.image_size
    if options.encoder == "offload":
        pipeline.encoder.offload(pipeline.device)
    pipeline.free_encoder = options.encoder == "free"


def check_attention(name: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError unless an attention kernel works here: heads are 64 wide in the published network."""
    query = torch.zeros(1, 1, 16, 64, device=device, dtype=dtype)
    try:
        with sdpa_kernel(ATTENTION[name]):
            scaled_dot_product_attention(query, query, query)
    except RuntimeError as error:
        works = "auto or math" if name != "math" else "auto"
        raise ValueError(
            f"attention: {name} does not work on {device.type} in {str(dtype).removeprefix('torch.')}; use {works}"
        ) from error


def check_compiler(device: torch.device) -> None:
    """Raise ValueError unless `torch.compile` finds what it needs."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise ValueError(
            "compile: true needs a C++ compiler on the CPU, and there is none; use compile: false"
        )


def _with_kernel(forward: Callable[..., Any], kernel: SDPBackend) -> Callable[..., Any]:
    # attention weighted by prompt has a mask, which not every kernel takes
    kernels = list(dict.fromkeys((kernel, SDPBackend.MATH)))

    @wraps(forward)
    def with_kernel(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(kernels, set_priority=True):
            return forward(*args, **kwargs)

    return with_kernel
