"""CLIP's encoders as OpenCLIP publishes them: `ARCHITECTURE:WEIGHTS`, such as `ViT-H-14:laion2b_s32b_b79k`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagedream.checkpoints.errors import CheckpointError, refusing
from imagedream.checkpoints.formats import Blueprint, Component
from imagedream.checkpoints.tensors import PICKLED, SAFETENSORS, SUFFIXES, Piece, open_tensors
from imagedream.runs.arguments import check_arguments

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

    from imagedream.encoders import ImageTextEncoder, TextConfig, VisionConfig

    architecture, _, weights = source.partition(":")
    if architecture not in open_clip.list_models():
        family = architecture.split("-")[:2]
        near = ", ".join(name for name in open_clip.list_models() if name.split("-")[:2] == family)
        raise CheckpointError(
            f"open_clip knows no architecture {architecture!r} (of {source!r}){near and f', near are {near}'}"
        )
    config = open_clip.get_model_config(architecture)
    with refusing(f"{source} is no plain CLIP, which is all that is read here"):
        check_arguments(ImageTextEncoder, config, architecture)
        check_arguments(VisionConfig, config["vision_cfg"], "vision_cfg")
        check_arguments(TextConfig, config["text_cfg"], "text_cfg")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    file = Path(weights)
    if weights not in tags and not (file.is_file() and file.suffix in (*SAFETENSORS, *PICKLED)):
        kind = f"file that ends in one of {SUFFIXES}" if file.exists() else "file"
        raise CheckpointError(
            f"{weights!r} is no {kind}, and none of open_clip's weights of {architecture}: {', '.join(tags) or 'none'}"
        )
    quick = open_clip.get_pretrained_cfg(architecture, weights).get("quick_gelu", False)
    if quick and not config.get("quick_gelu", False):
        raise CheckpointError(
            f"{weights} was trained with another activation than {architecture} has; "
            f"name {architecture}-quickgelu:{weights}"
        )
    return config


def open_clip_file(source: str) -> Blueprint | None:
    """CLIP's encoders in a file of OpenCLIP's; None for weights that it downloads itself.

    Raises:
        CheckpointError: see `open_clip_config`; or it is no file of tensors.
    """
    config, file = open_clip_config(source), Path(source.partition(":")[2])
    if not file.is_file():
        return None
    tensors = open_tensors(file)
    parallel = "module." if all(name.startswith("module.") for name in tensors.shapes) else ""
    clip = Component(config, lambda name: Piece((parallel + name.removeprefix("clip."),)))
    return Blueprint("a CLIP of open_clip", tensors, {"encoder": clip})


def load_open_clip(source: str) -> "ImageTextEncoder":
    """CLIP's encoders with weights of OpenCLIP's, downloaded into the hub's cache.

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
    return encoder.float().eval().requires_grad_(False)
