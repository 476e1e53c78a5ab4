"""diffuse-with-point-light-material: Lambert shading under one point light an image."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.ops import dot, get_activation


@threestudio.register("diffuse-with-point-light-material")
class DiffuseWithPointLightMaterial(BaseMaterial):
    """Colour = albedo · (ambient + max(n·l, 0) · diffuse); in training sometimes the albedo or the light alone."""

    @dataclass
    class Config(BaseMaterial.Config):
        ambient_light_color: Any = (0.1, 0.1, 0.1)
        diffuse_light_color: Any = (0.9, 0.9, 0.9)
        ambient_only_steps: int = 1000
        diffuse_prob: float = 0.75
        textureless_prob: float = 0.5
        albedo_activation: str = "sigmoid"
        soft_shading: bool = False

    cfg: Config
    requires_normal = True

    def configure(self) -> None:
        for name in ("ambient_light_color", "diffuse_light_color"):
            self.register_buffer(name, torch.tensor([float(channel) for channel in self.cfg[name]]))
        self.albedo_activation = get_activation(self.cfg.albedo_activation)
        self.ambient_only = False

    def forward(
        self,
        features: Float[Tensor, "*batch feature"],
        positions: Float[Tensor, "*batch 3"],
        shading_normal: Float[Tensor, "*batch 3"],
        light_positions: Float[Tensor, "*batch 3"],
        **kwargs,
    ) -> Float[Tensor, "*batch 3"]:
        """Colours of surface points.

        Args:
            features: their first three channels make the albedo.
            positions: in world units.
            shading_normal: unit.
            light_positions: in world units.
            **kwargs: not used.
        """
        albedo = self.albedo_activation(features[..., :3])
        shading = self._draw_shading()
        if shading == "albedo":
            return albedo + shading_normal.sum() * 0  # the zeros keep unused networks in the graph, for DDP

        to_light = F.normalize(light_positions - positions, dim=-1)
        ambient, diffuse = self._lights()
        light = (ambient + dot(shading_normal, to_light).clamp(min=0) * diffuse).clamp(0, 1)
        return light + albedo * 0 if shading == "textureless" else albedo.clamp(0, 1) * light

    def _draw_shading(self) -> str:
        """What is shown: `albedo`, `textureless` (albedo 1) or `diffuse`."""
        if self.ambient_only:
            return "albedo"
        if not self.training:
            return "diffuse"
        if torch.rand(()) > self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if torch.rand(()) < self.cfg.textureless_prob else "diffuse"

    def _lights(self) -> tuple[Tensor, Tensor]:
        """Colours of the ambient and of the diffuse light."""
        if self.training and self.cfg.soft_shading:
            diffuse = torch.rand(()).to(self.ambient_light_color)
            return 1 - diffuse, diffuse
        return self.ambient_light_color, self.diffuse_light_color

    def export(self, features: Float[Tensor, "*batch feature"], **kwargs) -> dict[str, Tensor]:
        return {"albedo": self.albedo_activation(features[..., :3]).clamp(0, 1)}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps
