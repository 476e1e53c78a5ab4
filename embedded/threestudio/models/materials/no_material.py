"""no-material: features are colours."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.ops import get_activation


@threestudio.register("no-material")
class NoMaterial(BaseMaterial):
    """Colour = activation(features)."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.color_activation = get_activation(self.cfg.color_activation)
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Float[Tensor, "*batch feature"], **kwargs) -> Float[Tensor, "*batch color"]:
        if features.shape[-1] != self.cfg.n_output_dims:
            raise ValueError(f"features have {features.shape[-1]} channels, colours {self.cfg.n_output_dims}")
        return self.color_activation(features)

    def export(self, features: Float[Tensor, "*batch feature"], **kwargs) -> dict[str, Tensor]:
        return {"albedo": self(features, **kwargs)[..., :3].clamp(0, 1)}
