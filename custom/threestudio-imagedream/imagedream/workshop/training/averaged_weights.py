"""Averaged weights beside those being learned."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from diffusers.training_utils import EMAModel
from torch import nn


class AveragedWeights(pl.Callback):
    """Exponential moving average of what is learned in `module.model`, used for validation and for what is saved.

    (Lightning's `WeightAveraging` averages the whole module, frozen parts included.)

    Args:
        decay: of the average; early steps use less, (1 + step) / (10 + step).
        out: run folder.
    """

    def __init__(self, decay: float, out: Path) -> None:
        self.decay, self.out = decay, out
        self.average: EMAModel | None = None
        self._restored: dict[str, Any] | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or from the resumed average."""
        self.average = EMAModel(learned(pl_module), self.decay, foreach=True)
        self._step = trainer.global_step
        if self._restored is not None:
            self.average.load_state_dict({**self._restored, "decay": self.decay})
            self.average.to(pl_module.device)
            self._restored = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take the new weights in, once an optimiser step."""
        if trainer.global_step != self._step:  # otherwise gradients are still being accumulated
            self._step = trainer.global_step
            self.average.step(learned(pl_module))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average in the place of the weights being trained."""
        self.average.store(learned(pl_module))
        self.average.copy_to(learned(pl_module))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights being trained back."""
        self.average.restore(learned(pl_module))

    def write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the trained part with averaged weights, in the first process."""
        if trainer.is_global_zero:
            was_training = pl_module.training
            pl_module.eval()
            self.on_validation_start(trainer, pl_module)
            pl_module.write(self.out)
            self.on_validation_end(trainer, pl_module)
            pl_module.train(was_training)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a checkpoint."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the average until the weights are where they belong."""
        self._restored = state_dict


def learned(pl_module: pl.LightningModule) -> list[nn.Parameter]:
    """The parameters of the model that the optimiser changes."""
    return [parameter for parameter in pl_module.model.parameters() if parameter.requires_grad]
