"""Mesh export for threestudio: upright, front forward, one sRGB base-colour texture, checked against the field."""

import atexit
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import trimesh
from omegaconf import OmegaConf

import threestudio
from imagedream.image_prompt.picture_projection import EmbedFunction, add_picture_detail, told
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.mesh import MeshedField, MeshSettings, export, mesh_field, mesh_surface, summary
from imagedream.mesh.writing import check_format, check_name, upward
from imagedream.runs.locks import temporary_folder
from imagedream.runs.ranges import OneOf
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.utils.config import parse_structured


@threestudio.register("imagedream-mesh-exporter")
class ImageDreamMeshExporter(Exporter):
    """Turns a geometry with an albedo material into textured mesh files (see `imagedream.mesh`).

    A density field (a geometry with `forward_density`, such as implicit-volume) is meshed at the level whose
    silhouettes agree best with it; the surface of any other geometry (implicit-sdf, tetrahedra-sdf-grid) is its own
    `isosurface()`. The files go through the host's `save_file` and `save_json`, so any system of either host can use it.
    """

    @dataclass
    class Config(MeshSettings, Exporter.Config):
        """Keys of `system.exporter`: which files, beside how the field is meshed and textured (`MeshSettings`)."""

        fmt: str = "glb"
        """glb, obj, ply, stl or usdz, or several joined by +, as in glb+obj. usdz needs usd-core."""
        save_name: str = "model"
        """File name without its ending."""
        up: str = "auto"
        """Up in obj, ply and stl files, which do not say it: +y (front at +z) or +z (front at +x); auto is +y for obj and +z for ply and stl."""
        picture_detail: Annotated[Any, OneOf("auto", "off")] = "auto"
        """auto: the side that a picture shows takes the picture's own pixels, where its camera is known well enough and the
        mesh then looks more like it. off: it keeps the field's colours."""

        def __post_init__(self) -> None:
            super().__post_init__()
            check_format(self.fmt)
            check_name(self.save_name)
            upward("obj", self.up)

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Check the settings before a run starts, since it exports at its very end.

        Raises:
            ValueError: with one line that says what was got and what is allowed.
            ImportError: the library for a format is not installed.
        """
        parse_structured(cls.Config, cfg)

    def configure(self, geometry, material, background) -> None:
        """Check that there is something to export."""
        super().configure(geometry, material, background)
        self.notes: dict[str, Any] = {}
        """What else the record shall say."""
        self.warnings: list[str] = []
        """What else to warn of."""
        self.pictures: list[tuple[torch.Tensor, PromptCamera]] = []
        """Pictures (4, size, size) of the object for `add_picture_detail`, and where they were taken from."""
        self.embed: EmbedFunction | None = None
        """What judges the sides that they do not show."""
        self.is_density = hasattr(geometry, "forward_density")
        if not self.is_density and not hasattr(geometry, "isosurface"):
            raise ValueError(
                f"imagedream-mesh-exporter needs a geometry with forward_density, such as implicit-volume, or with "
                f"isosurface, such as implicit-sdf and tetrahedra-sdf-grid; got {type(geometry).__name__}"
            )

    def _density(self, points: torch.Tensor) -> torch.Tensor:
        return self.geometry.forward_density(points)[..., 0]

    def _albedo(self, points: torch.Tensor) -> torch.Tensor:
        exported = self.material.export(points=points, **self.geometry.export(points=points))
        if "albedo" not in exported:
            raise ValueError(
                f"imagedream-mesh-exporter needs a material that exports albedo, such as no-material; "
                f"{type(self.material).__name__} exports {sorted(exported) or 'nothing'}"
            )
        return exported["albedo"]

    def _with_picture_detail(self, meshed: MeshedField) -> tuple[MeshedField, list[dict[str, Any]]]:
        if self.cfg.picture_detail != "auto" or not self.pictures:
            return meshed, []
        start = time.perf_counter()
        model, detail = add_picture_detail(meshed.model, *zip(*self.pictures, strict=True), self.embed)
        painted = any(record["refused"] is None for record in detail)
        seconds = meshed.seconds + time.perf_counter() - start
        return replace(meshed, model=model, painted=painted, seconds=seconds), detail

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """Mesh the field; raises `imagedream.mesh.EmptyFieldError` if there is nothing to see in it."""
        device = self.geometry.bbox.device
        settings = OmegaConf.to_object(self.cfg)
        if self.is_density:
            radius = float(self.geometry.cfg.radius)
            meshed = mesh_field(self._density, self._albedo, radius, settings, device)
        else:
            mesh = self.geometry.isosurface()
            surface = trimesh.Trimesh(mesh.v_pos.float().cpu().numpy(), mesh.t_pos_idx.cpu().numpy())
            meshed = mesh_surface(surface, self._albedo, settings, device)
        meshed, detail = self._with_picture_detail(meshed)
        # the host copies files into its save folder after this call, so the originals wait until the process ends
        kept = ExitStack()
        folder = kept.enter_context(temporary_folder())
        atexit.register(kept.close)
        paths, record = export(meshed, folder, self.cfg.fmt, self.cfg.save_name, self.cfg.up)
        warnings = [*record["warnings"], *self.warnings]
        record = {**record, **self.notes, "picture_detail": detail, "warnings": warnings}
        for line in [*summary(record), *map(told, detail)]:
            threestudio.info(line)
        for warning in record["warnings"]:
            threestudio.warn(warning)
        outputs = [ExporterOutput(path.name, "file", {"src_path": str(path)}) for path in paths]
        return [*outputs, ExporterOutput(f"{self.cfg.save_name}.json", "json", {"payload": record})]
