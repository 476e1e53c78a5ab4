"""Mesh export for threestudio: upright, front forward, one sRGB base-colour texture, checked against the field."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import trimesh

import threestudio
from imagedream import mesh as meshing
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
    class Config(Exporter.Config):
        """What to export and how; the mesh settings are those of `imagedream.mesh.MeshSettings`."""

        fmt: str = "glb"
        """glb, obj, ply, stl or usdz, or several joined by +, as in glb+obj. usdz needs usd-core."""
        save_name: str = "model"
        """File name without its ending."""
        up: str = "auto"
        """Up in obj, ply and stl files, which do not say it: +y (front at +z) or +z (front at +x); auto is +y for obj and +z for ply and stl."""
        resolution: int = 128
        """Density samples along the longest side of the object's box."""
        isosurface_threshold: Any = "auto"
        """Density of the surface; auto compares silhouettes with the field's rendered opacity and saves the runners-up as thumbnails."""
        target_faces: int = 10000
        """Faces at most after simplification; 0 keeps all of them."""
        min_piece: float = 0.02
        """Separate pieces with less than this fraction of the largest one's area are dropped."""
        close_holes: int = 1
        """Pits and tunnels up to twice this many density samples wide are filled; 0 keeps them."""
        smoothing: int = 5
        """Taubin smoothing passes before simplification."""
        texture_size: int = 1024
        """Side of the square textures in texels."""
        bake_views: int = 24
        """Rendered views all around from which the texture of a density field is taken."""
        normal_map: bool = True
        """Keep the fine shape of the field in a normal map."""

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Check the settings before a run starts, since it exports at its very end.

        Raises:
            ValueError: with one line that says what was got and what is allowed.
            ImportError: the library for a format is not installed.
        """
        cls._settings(parse_structured(cls.Config, cfg), radius=1.0)

    @staticmethod
    def _settings(cfg: Config, radius: float) -> meshing.MeshSettings:
        meshing.check_format(cfg.fmt)
        meshing.check_name(cfg.save_name)
        meshing.upward("obj", cfg.up)
        threshold = cfg.isosurface_threshold
        if threshold != "auto" and not isinstance(threshold, int | float):
            raise ValueError(f"isosurface_threshold is {threshold!r}, must be a positive number or 'auto'")
        return meshing.MeshSettings(
            resolution=cfg.resolution,
            radius=radius,
            level=None if threshold == "auto" else float(threshold),
            target_faces=cfg.target_faces,
            min_piece=cfg.min_piece,
            close_holes=cfg.close_holes,
            smoothing=cfg.smoothing,
            texture_size=cfg.texture_size,
            bake_views=cfg.bake_views,
            normal_map=cfg.normal_map,
        )

    def configure(self, geometry, material, background) -> None:
        """Check the settings before anything heavy runs."""
        super().configure(geometry, material, background)
        self.notes: dict[str, Any] = {}
        """What else the record shall say."""
        self.warnings: list[str] = []
        """What else to warn of."""
        self.is_density = hasattr(geometry, "forward_density")
        if not self.is_density and not hasattr(geometry, "isosurface"):
            raise ValueError(
                f"imagedream-mesh-exporter needs a geometry with forward_density, such as implicit-volume, or with "
                f"isosurface, such as implicit-sdf and tetrahedra-sdf-grid; got {type(geometry).__name__}"
            )
        self.settings = self._settings(self.cfg, float(geometry.cfg.radius))

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

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """Mesh the field; raises `imagedream.mesh.EmptyFieldError` if there is nothing to see in it."""
        device = self.geometry.bbox.device
        if self.is_density:
            meshed = meshing.mesh_field(self._density, self._albedo, self.settings, device)
        else:
            mesh = self.geometry.isosurface()
            surface = trimesh.Trimesh(mesh.v_pos.float().cpu().numpy(), mesh.t_pos_idx.cpu().numpy())
            meshed = meshing.mesh_surface(surface, self._albedo, self.settings, device)
        # the host copies files into its save folder after this call, so the originals wait until the process ends
        folder = tempfile.mkdtemp(prefix="imagedream-export-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        paths, record = meshing.export(meshed, folder, self.cfg.fmt, self.cfg.save_name, self.cfg.up)
        record = {**record, **self.notes, "warnings": [*record["warnings"], *self.warnings]}
        for line in meshing.summary(record):
            threestudio.info(line)
        for warning in record["warnings"]:
            threestudio.warn(warning)
        outputs = [ExporterOutput(path.name, "file", {"src_path": str(path)}) for path in paths]
        return [*outputs, ExporterOutput(f"{self.cfg.save_name}.json", "json", {"payload": record})]
