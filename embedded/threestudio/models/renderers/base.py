"""What systems ask of a renderer."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.utils.base import BaseModule


class SubModules(NamedTuple):
    """What is rendered or exported; held so that nobody registers the system's modules a second time."""

    geometry: BaseGeometry
    material: BaseMaterial
    background: BaseBackground


class WithSubModules:
    """Properties of those who hold `sub_modules`."""

    sub_modules: SubModules

    @property
    def geometry(self) -> BaseGeometry:
        return self.sub_modules.geometry

    @property
    def material(self) -> BaseMaterial:
        return self.sub_modules.material

    @property
    def background(self) -> BaseBackground:
        return self.sub_modules.background


class Renderer(WithSubModules, BaseModule):
    @dataclass
    class Config(BaseModule.Config):
        radius: float = 1.0

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self.sub_modules = SubModules(geometry, material, background)
        radius = self.cfg.radius
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))

    def forward(self, *args, **kwargs) -> dict[str, Tensor]:
        raise NotImplementedError


class VolumeRenderer(Renderer):
    """A renderer that integrates along rays."""


class Rasterizer(Renderer):
    """A renderer that draws meshes."""
