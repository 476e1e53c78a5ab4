"""What the three trainings share: CLIP's (`clip`), the autoencoder's and the multi-view network's (`diffusion`)."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from imagedream.runs.files import atomic_folder
from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.optimizers import learning_rate_factor, make_optimizer
from imagedream.workshop.training.train_config import OptimizerConfig


class Training(pl.LightningModule):
    """Optimiser, logging, and draws that depend on seed and step alone."""

    result = "model"
    """What is written to the run folder: the name of a folder or of a file."""

    def __init__(self, optimizer: OptimizerConfig, steps: int, seed: int) -> None:
        super().__init__()
        self.optimizer_config, self.steps, self.seed = optimizer, steps, seed
        self.started_from_weights = False

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimiser of what is learned, and its schedule."""
        config = self.optimizer_config
        optimizer = make_optimizer(config, [p for p in self.parameters() if p.requires_grad])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(config, step, self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def start_from(self, initial: torch.nn.Module, new: Set[str] = frozenset()) -> None:
        """Begin with another model's weights, which must fit exactly.

        Args:
            initial: the other model.
            new: names of its tensors that were made up because its source lacks them.

        Raises:
            ValueError: if keys or shapes differ.
        """
        try:
            self.model.load_state_dict(initial.state_dict())
        except RuntimeError as error:
            raise ValueError(f"initial weights do not fit the model: {error}") from error
        self.started_from_weights = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note that weights came along (the trainer restores its step count only later)."""
        self.started_from_weights = True

    def loss(self, batch: dict, generator: torch.Generator) -> dict[str, Tensor]:
        """Named values of one batch, `loss` among them; everything random comes from the generator."""
        raise NotImplementedError

    def training_step(self, batch: dict, _: int) -> Tensor:
        """One step, its draws fixed by the batch's number."""
        values = self.loss(batch, step_generator(self.seed + 2, batch["step"]))
        self.log_dict({f"train/{name}": value for name, value in values.items()}, prog_bar=True, batch_size=1)
        return values["loss"]

    def validation_step(self, batch: dict, _: int) -> None:
        """The same loss on objects kept apart, with the same draws every time."""
        values = self.loss(batch, step_generator(0, batch["step"]))
        self.log_dict({f"validation/{name}": value for name, value in values.items()}, batch_size=1)

    def finish(self) -> Any:
        """What is written after a training: a model or a pipeline of diffusers."""
        return self.model

    def write(self, out: Path) -> None:
        """Write `result` to the run folder, in place of an older one."""
        with atomic_folder(out / self.result, replace=True) as folder:
            self.finish().save_pretrained(folder, safe_serialization=True)
