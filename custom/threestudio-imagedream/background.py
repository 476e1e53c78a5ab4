"""One colour behind all views of a step, so that the prompt can be shown on exactly that colour."""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor

import threestudio
from imagedream.runs.ranges import As, Count, Fraction, check_ranges
from imagedream.runs.seeds import step_generator
from threestudio.models.background.base import BaseBackground

STREAM = 1


@threestudio.register("imagedream-background")
class ImageDreamBackground(BaseBackground):
    """A solid colour, fixed or learned, in training now and then replaced by a random one.

    The released configuration has a direction-dependent background and shows the prompt on its mean grey. A single
    colour can be matched exactly, which is why this one has no directions.
    """

    @dataclass
    class Config(BaseBackground.Config):
        """What the colour is and how often it is a random one."""

        n_output_dims: Count = 3
        color: Annotated[Any, As(list[float]), Interval(ge=0, le=1)] = (1.0, 1.0, 1.0)
        """RGB in [0, 1]; where a learned colour starts."""
        learned: bool = False
        random_aug: bool = False
        random_aug_prob: Fraction = 0.5
        """Probability of a random colour in a training step."""

        def __post_init__(self) -> None:
            check_ranges(self, "system.background")

    cfg: Config

    def configure(self) -> None:
        """Make the colour."""
        color = torch.tensor([float(value) for value in self.cfg.color])
        if len(color) != self.cfg.n_output_dims:
            raise ValueError(f"color is {color.tolist()}, must be {self.cfg.n_output_dims} numbers")
        if self.cfg.learned:
            # sigmoid of the parameter is the colour; a pure 0 or 1 would have no gradient
            self.logit = torch.nn.Parameter(torch.logit(color.clamp(0.02, 0.98)))
        else:
            self.register_buffer("color", color)
        self.random_color: list[float] | None = None

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Choose the step's random colour, or none: what is rendered in a step has one background."""
        self.random_color = random_color(self.cfg, global_step) if self.cfg.random_aug else None

    def forward(self, dirs: Tensor) -> Tensor:
        """The step's colour for rays `(batch, height, width, 3)`."""
        color = torch.sigmoid(self.logit) if self.cfg.learned else self.color
        if self.training and self.random_color is not None:
            color = 0 * color + color.new_tensor(self.random_color)  # keeps a learned colour in the graph
        return color.to(dirs.device).expand(*dirs.shape[:-1], -1)


def random_color(cfg: Any, step: int) -> list[float] | None:
    """A background's random colour in a step, or None with probability 1 − `random_aug_prob`."""
    generator = step_generator(torch.initial_seed(), step, STREAM)
    coin, *color = torch.rand(1 + cfg.n_output_dims, generator=generator).tolist()
    return color if coin < cfg.random_aug_prob else None
