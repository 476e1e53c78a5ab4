"""Mesh export for threestudio: one GLB, upright, front forward, with an sRGB base-colour texture."""

import atexit
import shutil
import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import torch

import threestudio
from imagedream import meshing
from threestudio.models.exporters.base import Exporter, ExporterOutput


@threestudio.register("imagedream-mesh-exporter")
class ImageDreamMeshExporter(Exporter):
    """Turns a density field with an albedo material into a textured mesh file (see `imagedream.meshing`).

    The files go through the host's `save_file` and `save_json`, so any system of either host can use it.
    """

    @dataclass
    class Config(Exporter.Config):
        """What to export and how; the mesh settings are those of `imagedream.meshing.MeshSettings`."""

        fmt: str = "glb"
        """glb, obj, or glb+obj; all with y up and the front at +z."""
        save_name: str = "model"
        """File name without its ending."""
        resolution: int = 128
        """Density samples along the longest side of the object's box."""
        isosurface_threshold: Any = "auto"
        """Density of the surface; auto compares silhouettes with the field's rendered opacity."""
        target_faces: int = 10000
        """Faces after simplification; 0 keeps all of them."""
        min_piece: float = 0.02
        """Separate pieces with less than this fraction of the largest one's area are dropped."""
        smoothing: int = 5
        """Taubin smoothing passes before simplification."""
        texture_size: int = 1024
        """Side of the square texture in texels."""

    cfg: Config

    def configure(self, geometry, material, background) -> None:
        """Check the settings before anything heavy runs."""
        super().configure(geometry, material, background)
        meshing.check_format(self.cfg.fmt)
        if not hasattr(geometry, "forward_density"):
            raise ValueError(
                f"imagedream-mesh-exporter needs a density field, a geometry with forward_density such as "
                f"implicit-volume; got {type(geometry).__name__}"
            )
        threshold = self.cfg.isosurface_threshold
        if threshold != "auto" and not isinstance(threshold, int | float):
            raise ValueError(f"isosurface_threshold is {threshold!r}, must be a positive number or 'auto'")
        self.settings = meshing.MeshSettings(
            resolution=self.cfg.resolution,
            radius=float(geometry.cfg.radius),
            level=None if threshold == "auto" else float(threshold),
            target_faces=self.cfg.target_faces,
            min_piece=self.cfg.min_piece,
            smoothing=self.cfg.smoothing,
            texture_size=self.cfg.texture_size,
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

    @torch.no_grad()
    def __call__(self) -> list[ExporterOutput]:
        """Mesh the field; raises `imagedream.meshing.EmptyFieldError` if there is nothing to see in it."""
        result = meshing.mesh_field(
            self._density, self._albedo, self.settings, device=self.geometry.bbox.device
        )
        statistics = asdict(result.statistics)
        threestudio.info(
            f"Mesh: {statistics['faces']} faces, isosurface level {statistics['level']:.3g}, silhouette IoU "
            f"{statistics['iou']:.3f} and PSNR {statistics['psnr_db']:.1f} dB against the field, "
            f"{statistics['seconds']:.1f} s"
        )
        # the host copies files into its save folder after this call, so the originals wait until the process ends
        folder = tempfile.mkdtemp(prefix="imagedream-export-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        files = meshing.to_files(result.mesh, result.texture, self.cfg.fmt, self.cfg.save_name)
        outputs = [
            ExporterOutput(path.name, "file", {"src_path": str(path)}) for path in meshing.save(files, folder)
        ]
        payload = {
            **statistics,
            "silhouette_iou_by_level": {f"{k:.4g}": v for k, v in result.choice.tried.items()},
        }
        return [*outputs, ExporterOutput(f"{self.cfg.save_name}.json", "json", {"payload": payload})]
