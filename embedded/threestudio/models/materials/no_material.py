"""no-material: features are colours."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.networks import get_mlp
from threestudio.utils.ops import get_activation


@threestudio.register("no-material")
class NoMaterial(BaseMaterial):
    """Colour = activation(features), or of a network on them where the config describes one."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        input_feature_dims: int | None = None
        mlp_network_config: dict | None = None
        requires_normal: bool = False

    cfg: Config

    def configure(self) -> None:
        self.use_network = self.cfg.input_feature_dims is not None and self.cfg.mlp_network_config is not None
        if self.use_network:
            self.network = get_mlp(
                self.cfg.input_feature_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
            )
        self.color_activation = get_activation(self.cfg.color_activation)
        self.requires_normal = self.cfg.requires_normal

    def forward(self, features: Float[Tensor, "*batch feature"], **kwargs) -> Float[Tensor, "*batch color"]:
        if self.use_network:
            return self.color_activation(self.network(features))
        if features.shape[-1] != self.cfg.n_output_dims:
            raise ValueError(
                f"features have {features.shape[-1]} channels, colours {self.cfg.n_output_dims}: make them equal or "
                "give the material input_feature_dims and mlp_network_config"
            )
        return self.color_activation(features)

    def export(self, features: Float[Tensor, "*batch feature"], **kwargs) -> dict[str, Tensor]:
        return {"albedo": self(features, **kwargs)[..., :3].clamp(0, 1)}
