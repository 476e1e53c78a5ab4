"""What renderers ask of a material: colours of samples."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule


class BaseMaterial(BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config
    requires_normal: bool = False
    requires_tangent: bool = False

    def configure(self) -> None:
        """Build what the config asks for."""

    def forward(self, *args, **kwargs) -> Float[Tensor, "*batch 3"]:
        raise NotImplementedError

    def export(self, *args, **kwargs) -> dict[str, Tensor]:
        """Textures by name, such as `albedo`."""
        return {}
