"""Averaged weights beside those being learned."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from imagedream.workshop.training.strategies import collect, like, reshard

KEY = "averaged_weights"
"""Of a checkpoint."""


class AveragedWeights(pl.Callback):
    """Exponential moving average of what is learned in `module.model`, used for validation and for what is saved.

    Each process averages the parameters that it holds: all of them, or its shards. Lightning's own
    `WeightAveraging` copies the whole module, frozen parts included, and knows no shards.

    Args:
        decay: of the average; early steps use less, (1 + step) / (10 + step).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}, must be in [0, 1)")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] | None = None
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights as they are, or from the resumed average."""
        self.average = {name: parameter.detach().clone() for name, parameter in learned(pl_module)}
        self._step = trainer.global_step
        if self._restored is not None:
            for name, tensor in self.average.items():
                tensor.copy_(like(self._restored[name], tensor))
            self._restored = None

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Take the new weights in, once an optimiser step."""
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        step, self._step = self._step, trainer.global_step
        decay = min(self.decay, (1 + step) / (10 + step)) if step else 0.0
        current = [parameter.detach() for _, parameter in learned(pl_module)]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), current, None)

    @contextmanager
    def averaged(self, pl_module: pl.LightningModule) -> Iterator[None]:
        """The module with averaged weights inside the block."""
        self._exchange(pl_module)
        try:
            yield
        finally:
            self._exchange(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        self._exchange(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights being trained."""
        self._exchange(pl_module)

    @torch.no_grad()
    def _exchange(self, pl_module: pl.LightningModule) -> None:
        reshard(pl_module.model)
        for name, parameter in learned(pl_module):
            kept = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(kept)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """The whole average; every process takes part, the first one writes."""
        checkpoint[KEY] = collect(self.average)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict
    ) -> None:
        """Keep the average until the weights are where they belong."""
        self._restored = checkpoint[KEY]


def learned(pl_module: pl.LightningModule) -> list[tuple[str, torch.nn.Parameter]]:
    """Names and parameters of the model that the optimiser changes."""
    return [(name, tensor) for name, tensor in pl_module.model.named_parameters() if tensor.requires_grad]
