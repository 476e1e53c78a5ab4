"""neural-environment-map-background: a small network of the direction."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.utils.ops import get_activation


@threestudio.register("neural-environment-map-background")
class NeuralEnvironmentMapBackground(BaseBackground):
    """The network's colour; in training sometimes a random colour an image."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        color_activation: str = "sigmoid"
        dir_encoding_config: dict = field(default_factory=lambda: {"otype": "SphericalHarmonics"})
        mlp_network_config: dict = field(
            default_factory=lambda: {"otype": "VanillaMLP", "n_neurons": 16, "n_hidden_layers": 2}
        )
        random_aug: bool = False
        random_aug_prob: float = 0.5

    cfg: Config

    def configure(self) -> None:
        self.encoding = get_encoding(3, self.cfg.dir_encoding_config)
        self.network = get_mlp(
            self.encoding.n_output_dims, self.cfg.n_output_dims, self.cfg.mlp_network_config
        )
        self.color_activation = get_activation(self.cfg.color_activation)

    def forward(
        self, dirs: Float[Tensor, "batch height width 3"]
    ) -> Float[Tensor, "batch height width color"]:
        """Colours in unit directions."""
        encoded = self.encoding((dirs.reshape(-1, 3) + 1) / 2)
        color = self.color_activation(self.network(encoded)).view(*dirs.shape[:-1], -1)
        if self.training and self.cfg.random_aug and torch.rand(()) < self.cfg.random_aug_prob:
            # the zero keeps the network in the graph
            color = color * 0 + torch.rand(len(dirs), 1, 1, self.cfg.n_output_dims).to(dirs)
        return color
