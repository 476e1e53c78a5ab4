"""CLIP's encoders as OpenCLIP publishes them: `ARCHITECTURE:WEIGHTS`, such as `ViT-H-14:laion2b_s32b_b79k`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from imagedream.checkpoints.errors import CheckpointError

if TYPE_CHECKING:
    from imagedream.encoders import ImageTextEncoder


def names_open_clip(source: str | Path) -> bool:
    """Whether a source is meant as a name of OpenCLIP's."""
    return isinstance(source, str) and ":" in source and not Path(source).exists()


def open_clip_config(source: str) -> dict[str, Any]:
    """Arguments of `ImageTextEncoder`, without reading or downloading weights.

    Raises:
        CheckpointError: no such architecture, one that is not plain CLIP, or neither a tag nor a file of weights.
    """
    import open_clip

    architecture, _, weights = source.partition(":")
    if architecture not in open_clip.list_models():
        family = architecture.split("-")[:2]
        near = ", ".join(name for name in open_clip.list_models() if name.split("-")[:2] == family)
        raise CheckpointError(
            f"open_clip knows no architecture {architecture!r} (of {source!r}){near and f', near are {near}'}"
        )
    config = open_clip.get_model_config(architecture)
    plain = {
        "vision_cfg": {"image_size", "patch_size", "width", "layers", "head_width"},
        "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers"},
    }
    other = set(config) - {"embed_dim", "quick_gelu", *plain}
    for part, known in plain.items():
        other |= {f"{part}.{key}" for key in set(config[part]) - known}
    if other:
        raise CheckpointError(
            f"{source} is no plain CLIP, which is all that is read here: it has {', '.join(sorted(other))}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights not in tags and not Path(weights).is_file():
        raise CheckpointError(
            f"{weights!r} is no file, and none of open_clip's weights of {architecture}: {', '.join(tags) or 'none'}"
        )
    quick = open_clip.get_pretrained_cfg(architecture, weights).get("quick_gelu", False)
    if quick and not config.get("quick_gelu", False):
        raise CheckpointError(
            f"{weights} was trained with another activation than {architecture} has; "
            f"name {architecture}-quickgelu:{weights}"
        )
    return config


def load_open_clip(source: str, dtype: torch.dtype) -> "ImageTextEncoder":
    """CLIP's encoders with weights of OpenCLIP's, downloaded into the hub's cache or from a file.

    Raises:
        CheckpointError: see `open_clip_config`; or the weights are not to be had.
    """
    import open_clip

    from imagedream.encoders import ImageTextEncoder

    config = open_clip_config(source)
    architecture, _, weights = source.partition(":")
    try:
        clip = open_clip.create_model(architecture, pretrained=weights, weights_only=True)
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{source}: {str(error).splitlines()[0]}") from error
    encoder = ImageTextEncoder(
        **config, image_mean=list(clip.visual.image_mean), image_std=list(clip.visual.image_std)
    )
    encoder.clip.load_state_dict(clip.state_dict(), assign=True)
    return torch.nn.Module.to(encoder, dtype).eval().requires_grad_(False)
