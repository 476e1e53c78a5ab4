"""What renderers and exporters ask of a geometry."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseGeometry(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0
        """Half the side of the box around the origin that holds all of it."""

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))

    def export(self, *args, **kwargs) -> dict[str, Tensor]:
        """What materials need to export themselves at points of the surface."""
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A geometry that is a function of points in space."""

    def forward(self, points: Float[Tensor, "*batch dim"], output_normal: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError


class BaseExplicitGeometry(BaseGeometry):
    """A geometry that is a mesh."""
