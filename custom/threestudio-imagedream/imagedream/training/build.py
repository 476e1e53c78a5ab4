"""From a config to the Lightning module it describes."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL

from imagedream import checkpoints
from imagedream.encoders import ImageTextEncoder
from imagedream.model import MultiViewUNet
from imagedream.training.autoencoder import AutoencoderTraining
from imagedream.training.diffusion import DiffusionTraining
from imagedream.training.modules import Training
from imagedream.training.towers import EncoderTraining

if TYPE_CHECKING:
    from imagedream.training.run import TrainConfig


def build_module(config: "TrainConfig") -> Training:
    """The Lightning module that a config describes."""
    common = {"optimizer": config.optimizer, "steps": config.steps, "seed": config.seed}
    base = ()
    if config.part == "diffusion":
        base = (
            checkpoints.load_component(AutoencoderKL, Path(config.autoencoder), torch.float32),
            checkpoints.load_component(ImageTextEncoder, Path(config.encoder), torch.float32),
        )
    torch.manual_seed(config.seed)
    if config.part == "encoder":
        module = EncoderTraining(config.model, **common)
    elif config.part == "autoencoder":
        principal = config.principal_encoder
        module = AutoencoderTraining(config.model, **common, principal_encoder=principal)
    else:
        module = DiffusionTraining(
            config.model, config.scheduler, base, **common, conditioning=config.conditioning
        )
    if config.initial:
        part = {"encoder": ImageTextEncoder, "autoencoder": AutoencoderKL, "diffusion": MultiViewUNet}
        initial = checkpoints.load_component(part[config.part], Path(config.initial), torch.float32)
        module.start_from(initial)
    return module
