"""LoRA: a handful of own objects teach a network little matrices beside its own, which stay as they are."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from torch import nn

from imagedream import checkpoints
from imagedream.runs.files import atomic_path
from imagedream.workshop.training.architectures import architecture_of
from imagedream.workshop.training.averaging import AveragedWeights
from imagedream.workshop.training.diffusion import DiffusionTraining

if TYPE_CHECKING:
    from imagedream.workshop.training.run import TrainConfig

FILE = "adapter.safetensors"
"""In the run folder."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of the network's attention."""

    rank: int = 0
    """Of the corrections; 0 trains the network itself."""
    weights: str = "toybox"
    """The model that is corrected, all of its parts: anything that `imagedream.checkpoints.load` knows."""
    alpha: float = 16.0
    """Corrections are scaled by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0", "to_k_ip.0", "to_v_ip.0"]
    )
    """Ends of the names of matrices that are corrected: those of self- and cross-attention, and the image controllers'."""

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank}, must be at least 0")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha is {self.alpha}, must be larger than 0")


def build_adapted(config: "TrainConfig") -> DiffusionTraining:
    """The Lightning module of a network with corrections beside its weights.

    Raises:
        ImportError: peft is not there.
        ValueError: the weights are not there, or no matrix has such a name.
    """
    pipeline = checkpoints.load(config.lora.weights)
    architecture = architecture_of(pipeline)
    module = DiffusionTraining(
        architecture.unet,
        architecture.scheduler,
        (pipeline.vae, pipeline.encoder),
        config.optimizer,
        config.steps,
        config.seed,
        conditioning=config.conditioning,
        objective=config.objective,
        augmentation=config.augmentation,
    )
    module.start_from(pipeline.unet)
    attach(module.model, config.lora, config.seed)
    return module


def attach(model: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze a network and put corrections, zero at first, beside its matrices.

    Args:
        model: `MultiViewUNet`.
        config: which and how large.
        seed: of their random halves.

    Raises:
        ImportError: peft is not there.
        ValueError: no matrix has such a name.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("lora.rank needs peft: pip install peft") from error
    names = [name for name, module in model.unet.named_modules() if isinstance(module, nn.Linear)]
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise ValueError(
                f"lora.target_modules: {target!r} ends none of the names of {len(names)} matrices, such as {names[-1]}"
            )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.unet.add_adapter(
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                target_modules=list(config.target_modules),
                init_lora_weights="gaussian",
            )
        )


def save_adapter(model: nn.Module, path: Path) -> None:
    """The corrections as one file, see `imagedream.checkpoints.adapters`."""
    with atomic_path(path) as temporary:
        model.unet.save_lora_adapter(temporary.parent, weight_name=temporary.name)


class AdapterSnapshots:
    """`adapter.safetensors` with averaged corrections, for `checkpoints.load(..., adapter=...)`.

    Args:
        path: the file.
        average: whose weights are saved.
    """

    def __init__(self, path: Path, average: AveragedWeights) -> None:
        self.path, self.average = path, average

    def __call__(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it, in the first process."""
        if trainer.is_global_zero:
            with self.average.averaged(pl_module):
                save_adapter(pl_module.model, self.path)
