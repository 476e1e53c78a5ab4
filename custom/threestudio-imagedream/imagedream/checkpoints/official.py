"""Writing a model in the layout of the official release, for code that reads only that."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from imagedream.checkpoints.errors import CheckpointError
from imagedream.checkpoints.formats import TEXTS, UNET, VAES, latent_diffusion_pieces
from imagedream.checkpoints.tensors import put_back
from imagedream.runs.files import atomic_path

if TYPE_CHECKING:
    from imagedream.pipeline import ImageDreamPipeline


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
    return state


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
