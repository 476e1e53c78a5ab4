"""One colour behind all views of a step, so that the prompt can be shown on exactly that colour."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground


@threestudio.register("imagedream-background")
class ImageDreamBackground(BaseBackground):
    """A solid colour, fixed or learned, in training now and then replaced by a random one.

    The released configuration has a direction-dependent background and shows the prompt on its mean grey. A single
    colour can be matched exactly, which is why this one has no directions.
    """

    @dataclass
    class Config(BaseBackground.Config):
        """What the colour is and how often it is a random one."""

        n_output_dims: int = 3
        color: Any = (1.0, 1.0, 1.0)
        """RGB in [0, 1]; where a learned colour starts."""
        learned: bool = False
        random_aug: bool = False
        random_aug_prob: float = 0.5
        """Probability of a random colour in a training step."""
        eval_color: Any = None
        """RGB of validation, test and export; None is the same colour as in training."""

    cfg: Config

    def configure(self) -> None:
        """Make the colour, and a random stream of its own from the global seed."""
        color = self._checked("color")
        if self.cfg.learned:
            # sigmoid of the parameter is the colour; a pure 0 or 1 would have no gradient
            self.logit = torch.nn.Parameter(torch.logit(color.clamp(0.02, 0.98)))
        else:
            self.register_buffer("color", color)
        if self.cfg.eval_color is not None:
            self.register_buffer("eval_color", self._checked("eval_color"), persistent=False)
        self.generator = torch.Generator().manual_seed(torch.initial_seed() + 1)

    def _checked(self, name: str) -> Tensor:
        color = torch.tensor([float(value) for value in getattr(self.cfg, name)])
        if len(color) != self.cfg.n_output_dims or not ((color >= 0) & (color <= 1)).all():
            raise ValueError(
                f"{name} is {color.tolist()}, must be {self.cfg.n_output_dims} numbers between 0 and 1"
            )
        return color

    def forward(self, dirs: Tensor) -> Tensor:
        """The step's colour for rays `(batch, height, width, 3)`."""
        color = torch.sigmoid(self.logit) if self.cfg.learned else self.color
        if self.training and self.cfg.random_aug:
            coin, *random = torch.rand(1 + self.cfg.n_output_dims, generator=self.generator).tolist()
            if coin < self.cfg.random_aug_prob:
                color = 0 * color + color.new_tensor(random)  # keeps a learned colour in the graph
        elif not self.training and self.cfg.eval_color is not None:
            color = self.eval_color
        return color.to(dirs.device).expand(*dirs.shape[:-1], -1)
