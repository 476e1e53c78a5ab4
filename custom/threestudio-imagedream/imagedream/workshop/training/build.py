"""From a config to the Lightning module it describes."""

from typing import Any, get_args

import torch

from imagedream import checkpoints
from imagedream.model import Controllers
from imagedream.workshop.training.architectures import published_architecture
from imagedream.workshop.training.autoencoder import AutoencoderTraining
from imagedream.workshop.training.clip import EncoderTraining
from imagedream.workshop.training.diffusion import DiffusionTraining
from imagedream.workshop.training.lora import LoraTraining
from imagedream.workshop.training.optimizers import choose_learned
from imagedream.workshop.training.train_config import TrainConfig
from imagedream.workshop.training.training_module import Training
from imagedream.workshop.training.weight_initialisation import CAMERAS

MODEL_PARTS: dict[str, checkpoints.Part] = {"encoder": "encoder", "autoencoder": "vae", "diffusion": "unet"}
"""What a training is called, and what the part that it trains is called in a model folder."""


def build_module(config: TrainConfig) -> Training:
    """The Lightning module that a config describes.

    Raises:
        ValueError: what the config names is not there, or does not fit together.
    """
    if config.lora.rank:
        return LoraTraining(config)
    for name, source in named_sources(config).items():
        if source:
            checkpoints.check_part(source)
        elif name != "initial":
            raise ValueError(f"{name} is empty: name the trained {name} that the network is to work with")
    base = ()
    if config.part == "diffusion":
        base = tuple(
            checkpoints.load_part(source, part)[0]
            for source, part in ((config.autoencoder, "vae"), (config.encoder, "encoder"))
        )
    torch.manual_seed(config.seed)
    module = construct(config, base)
    new = frozenset()
    if config.initial:
        initial, new = checkpoints.load_part(config.initial, MODEL_PARTS[config.part])
        module.start_from(initial, new)
    choose_learned(module.model, config.learn)
    check_learned(config, module.model, new)
    return module


def check_image_size(config: TrainConfig, module: Training) -> None:
    """Raise ValueError unless the autoencoder can halve pictures of the data's size as often as it does."""
    if config.part == "encoder":
        return
    vae = module.model if config.part == "autoencoder" else module.pipeline.vae
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    name, size = config.data.image_size
    if size % factor:
        raise ValueError(
            f"{name} is {size}, must be divisible by {factor}, by which the autoencoder reduces pictures"
        )


def named_sources(config: TrainConfig) -> dict[str, str]:
    """Where weights come from, by field; empty where the field is."""
    names = ("initial", *(("autoencoder", "encoder") if config.part == "diffusion" else ()))
    return {name: getattr(config, name) for name in names}


def construct(config: TrainConfig, base: tuple) -> Training:
    """The module with weights as they are drawn.

    Args:
        config: of the run.
        base: autoencoder and encoder, for the network.

    Raises:
        ValueError: an argument of the trained part is unknown or does not fit.
    """
    common = {"optimizer": config.optimizer, "steps": config.steps, "seed": config.seed}
    try:
        if config.part == "encoder":
            return EncoderTraining(config.model, **common)
        if config.part == "autoencoder":
            return AutoencoderTraining(config.model, **common, principal_encoder=config.principal_encoder)
        return DiffusionTraining(
            *network_and_scheduler(config),
            base,
            **common,
            conditioning=config.conditioning,
            objective=config.objective,
            data=config.data.seen,
            prompt_suffix=config.data.rendered.caption_suffix,
        )
    except TypeError as error:  # an argument of a constructor that it does not know
        raise ValueError(f"model or scheduler: {error}") from error


def network_and_scheduler(config: TrainConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `MultiViewUNet` and `DDIMScheduler`; what the config leaves out is the published model's.

    Raises:
        ValueError: no controllers, or unknown ones.
    """
    controllers = config.model.get("controllers")
    if controllers not in get_args(Controllers):
        raise ValueError(
            f"model.controllers is {controllers!r}, must be one of {', '.join(get_args(Controllers))}"
        )
    published = published_architecture(controllers)
    return {**published.unet, **config.model}, {**published.scheduler, **config.scheduler}


def check_learned(config: TrainConfig, model: torch.nn.Module, new: frozenset[str]) -> None:
    """Raise ValueError if weights that are drawn at random, or camera layers that the source lacks, would stay frozen."""
    if config.learn == "all":
        return
    if not config.initial:
        raise ValueError(
            f"learn is {config.learn}, but initial is empty: the random weights of the rest would stay as they are"
        )
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if any(CAMERAS.fullmatch(name) for name in new - learned):
        raise ValueError(
            f"{config.initial} has no camera layers, and learn: {config.learn} leaves them frozen, without influence; "
            "start from MVDream (configs/train/full-mvdream.yaml makes one), or add unet.class_embedding to learn"
        )
