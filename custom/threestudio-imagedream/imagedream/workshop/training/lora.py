"""LoRA: a handful of own objects teach a network little matrices beside its own, which stay as they are."""

from pathlib import Path

import torch
from torch import nn

from imagedream import checkpoints
from imagedream.runs.files import atomic_path
from imagedream.workshop.training.architectures import architecture_of
from imagedream.workshop.training.diffusion import DiffusionTraining
from imagedream.workshop.training.train_config import LoraConfig, TrainConfig


class LoraTraining(DiffusionTraining):
    """The multi-view network with corrections beside its weights, which are all that is learned.

    Args:
        config: of the run.

    Raises:
        ImportError: peft is not there.
        ValueError: the weights are not there, or no matrix has such a name.
    """

    result = "adapter.safetensors"

    def __init__(self, config: TrainConfig) -> None:
        pipeline = checkpoints.load(config.lora.weights)
        architecture = architecture_of(pipeline)
        super().__init__(
            architecture.unet,
            architecture.scheduler,
            (pipeline.vae, pipeline.encoder),
            config.optimizer,
            config.steps,
            config.seed,
            conditioning=config.conditioning,
            objective=config.objective,
        )
        self.start_from(pipeline.unet)
        add_corrections(self.model, config.lora, config.seed)

    def write(self, out: Path) -> None:
        """Write the corrections as one file for `checkpoints.load(..., adapter=...)`."""
        with atomic_path(out / self.result) as temporary:
            self.model.unet.save_lora_adapter(temporary.parent, weight_name=temporary.name)


def add_corrections(model: nn.Module, config: LoraConfig, seed: int) -> None:
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
        raise ImportError("lora.rank needs peft: pip install 'imagedream[lora]'") from error
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
