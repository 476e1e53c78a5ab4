"""solid-color-background: one colour, fixed, learned or random."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

import threestudio
from threestudio.models.background.base import BaseBackground


@threestudio.register("solid-color-background")
class SolidColorBackground(BaseBackground):
    """The configured colour; with `random_aug` sometimes, in training, a random colour an image instead."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        color: Any = (1.0, 1.0, 1.0)
        learned: bool = False
        random_aug: bool = False
        random_aug_prob: float = 0.5

    cfg: Config

    def configure(self) -> None:
        color = torch.tensor([float(channel) for channel in self.cfg.color])
        if len(color) != self.cfg.n_output_dims:
            raise ValueError(f"color has {len(color)} channels, n_output_dims is {self.cfg.n_output_dims}")
        if self.cfg.learned:
            self.env_color = nn.Parameter(color)
        else:
            self.register_buffer("env_color", color)

    def forward(
        self, dirs: Float[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch height width color"]:
        color = self.env_color.to(dirs).expand(*dirs.shape[:-1], -1)
        if self.training and self.cfg.random_aug and torch.rand(()) < self.cfg.random_aug_prob:
            # the zero keeps a learned colour in the graph
            color = color * 0 + torch.rand(len(dirs), 1, 1, self.cfg.n_output_dims).to(dirs)
        return color
