"""Writing a model in the layout of the official release, for code that reads only that."""

import inspect
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from imagedream.checkpoints.errors import CheckpointError
from imagedream.checkpoints.formats import (
    TEXTS,
    UNET,
    VAES,
    Blueprint,
    latent_diffusion,
    latent_diffusion_pieces,
)
from imagedream.checkpoints.tensors import Tensors, put_back
from imagedream.runs.files import atomic_path

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline

logger = logging.getLogger(__name__)


def official_state(pipeline: "ImageDreamPipeline") -> dict[str, torch.Tensor]:
    """All tensors by the names of the official code, in float32; reading them again gives the same model.

    MVDream's prefixes are used for a model that reads captions only.

    Raises:
        CheckpointError: if the model is not of the official family.
    """
    config = pipeline.unet.config
    wrong = [("controllers", config.controllers == "pixel-only"), ("cameras", config.cameras != "canonical")]
    wrong.append(("no_image", config.no_image != "zeros"))
    for name, differs in wrong:
        if differs:
            raise CheckpointError(
                f"the official layout has no place for {name}: {config[name]}, and code that reads it expects otherwise"
            )
    reads_images = pipeline.unet.reads_images
    vae, text = (VAES[0], TEXTS[0]) if reads_images else (VAES[1], TEXTS[1])
    state = {}
    for component, piece in latent_diffusion_pieces(pipeline, UNET, vae, text).items():
        tensors = {name: tensor.float() for name, tensor in getattr(pipeline, component).state_dict().items()}
        state |= put_back(tensors, piece)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    _check_told(pipeline, latent_diffusion(Tensors(shapes, {}), Path("the official layout")))
    return state


def _check_told(pipeline: "ImageDreamPipeline", told: Blueprint) -> None:
    """Raise CheckpointError for settings of a model that the official layout does not tell, and nobody would find again."""
    settings = {"scheduler": (pipeline.scheduler.config, told.scheduler)}
    for part, component in told.parts.items():
        settings[part] = (getattr(pipeline, part).config, component.config)
    settings["unet"] = (pipeline.unet.config.unet_config, told.parts["unet"].config["unet_config"])
    different = [
        f"{part}.{key} {ours[key]} (it means {value})"
        for part, (ours, theirs) in settings.items()
        for key, value in theirs.items()
        if key in ours and (part, key) not in _NO_MATTER and _plain(ours[key]) != _plain(value)
    ]
    if different:
        raise CheckpointError(
            f"the official layout is for models of the published shape and noise; it cannot say {'; '.join(different)}"
        )
    for key in ("guidance_scale", "negative_prompt"):
        default = inspect.signature(type(pipeline)).parameters[key].default
        if pipeline.config[key] != default:
            logger.warning("the official layout has no place for %s: %r", key, pipeline.config[key])


_NO_MATTER = (("vae", "sample_size"), ("scheduler", "_class_name"))
"""The autoencoder's size tells nothing but where tiles begin; the sampler is a matter of taste."""


def _plain(value: Any) -> Any:
    """A setting as JSON would hold it."""
    return json.loads(json.dumps(value))


def save_official(pipeline: "ImageDreamPipeline", path: Path) -> None:
    """Write the official `.pt` file of a model.

    Raises:
        CheckpointError: if the model is not of the official family.
    """
    if path.suffix != ".pt":
        raise CheckpointError(f"the official layout is one file; {path} must end in .pt")
    state = official_state(pipeline)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
