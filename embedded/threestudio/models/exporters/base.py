"""What systems ask of an exporter."""

from dataclasses import dataclass
from typing import Any

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import SubModules, WithSubModules
from threestudio.utils.base import BaseObject


@dataclass
class ExporterOutput:
    """One file to be written: `save_<save_type>(save_name, **params)` of the system."""

    save_name: str
    save_type: str
    params: dict[str, Any]


class Exporter(WithSubModules, BaseObject):
    @dataclass
    class Config(BaseObject.Config):
        save_video: bool = False

    cfg: Config

    def configure(self, geometry: BaseGeometry, material: BaseMaterial, background: BaseBackground) -> None:
        self.sub_modules = SubModules(geometry, material, background)

    def __call__(self, *args, **kwargs) -> list[ExporterOutput]:
        raise NotImplementedError


@threestudio.register("dummy-exporter")
class DummyExporter(Exporter):
    """Exports nothing."""

    def __call__(self, *args, **kwargs) -> list[ExporterOutput]:
        return []
