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

_SHADINGS = ("albedo", "textureless", "diffuse")


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
        ambient_only_on_test: bool = False

    cfg: Config
    requires_normal = True

    def configure(self) -> None:
        self.register_buffer(
            "ambient_light_color", torch.tensor([float(c) for c in self.cfg.ambient_light_color])
        )
        self.register_buffer(
            "diffuse_light_color", torch.tensor([float(c) for c in self.cfg.diffuse_light_color])
        )
        self.albedo_activation = get_activation(self.cfg.albedo_activation)
        self.ambient_only = False

    def forward(
        self,
        features: Float[Tensor, "*batch feature"],
        positions: Float[Tensor, "*batch 3"],
        shading_normal: Float[Tensor, "*batch 3"],
        light_positions: Float[Tensor, "*batch 3"],
        ambient_ratio: float | None = None,
        shading: str | None = None,
        **kwargs,
    ) -> Float[Tensor, "*batch 3"]:
        """Colours of surface points.

        Args:
            features: their first three channels make the albedo.
            positions: in world units.
            shading_normal: unit.
            light_positions: in world units.
            ambient_ratio: of a white light whose rest is diffuse; instead of the configured lights.
            shading: "albedo", "textureless" (albedo 1) or "diffuse"; drawn by the configured chances if not given.
            **kwargs: not used.
        """
        albedo = self.albedo_activation(features[..., :3])
        shading = self._draw_shading() if shading is None else shading
        if shading not in _SHADINGS:
            raise ValueError(f"shading is {shading!r}, must be one of {_SHADINGS}")
        if shading == "albedo":
            return albedo + shading_normal.sum() * 0  # the zeros keep unused networks in the graph, for DDP

        to_light = F.normalize(light_positions - positions, dim=-1)
        ambient, diffuse = self._lights(ambient_ratio)
        light = (ambient + dot(shading_normal, to_light).clamp(min=0) * diffuse).clamp(0, 1)
        return light + albedo * 0 if shading == "textureless" else albedo.clamp(0, 1) * light

    def _draw_shading(self) -> str:
        if self.ambient_only or (not self.training and self.cfg.ambient_only_on_test):
            return "albedo"
        if not self.training:
            return "diffuse"
        if torch.rand(()) > self.cfg.diffuse_prob:
            return "albedo"
        return "textureless" if torch.rand(()) < self.cfg.textureless_prob else "diffuse"

    def _lights(self, ambient_ratio: float | None) -> tuple[Tensor | float, Tensor | float]:
        """Colours of the ambient and of the diffuse light."""
        if ambient_ratio is not None:
            return ambient_ratio, 1 - ambient_ratio
        if self.training and self.cfg.soft_shading:
            diffuse = torch.rand(()).to(self.ambient_light_color)
            return 1 - diffuse, diffuse
        return self.ambient_light_color, self.diffuse_light_color

    def export(self, features: Float[Tensor, "*batch feature"], **kwargs) -> dict[str, Tensor]:
        return {"albedo": self.albedo_activation(features[..., :3]).clamp(0, 1)}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        self.ambient_only = global_step < self.cfg.ambient_only_steps
