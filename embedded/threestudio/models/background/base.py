"""What renderers ask of a background: colours in directions."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseBackground(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    def configure(self) -> None:
        """Build what the config asks for."""

    def forward(
        self, dirs: Float[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch height width color"]:
        raise NotImplementedError
