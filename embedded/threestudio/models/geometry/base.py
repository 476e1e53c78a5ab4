"""What renderers and exporters ask of a geometry: features at points, and a mesh."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.models.isosurface import IsosurfaceHelper, isosurface_helper
from threestudio.models.mesh import Mesh
from threestudio.utils.base import BaseModule
from threestudio.utils.ops import chunk_batch, scale_tensor


def contract_to_unisphere(
    x: Float[Tensor, "*batch 3"], bbox: Float[Tensor, "2 3"], unbounded: bool = False
) -> Float[Tensor, "*batch 3"]:
    """World points -> [0, 1]: affine from the box; or, unbounded, all of space with the box's ball inside radius ¼."""
    if not unbounded:
        return scale_tensor(x, bbox, (0, 1))
    x = scale_tensor(x, bbox, (-1, 1))
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 1, (2 - 1 / norm.clamp(min=1)) * (x / norm.clamp(min=1)), x) / 4 + 0.5


class BaseGeometry(BaseModule):
    @staticmethod
    def create_from(other: "BaseGeometry", cfg: dict | None = None, **kwargs) -> "BaseGeometry":
        raise TypeError(f"no geometry of this kind can be made from a {type(other).__name__}")

    def export(self, *args, **kwargs) -> dict[str, Tensor]:
        """What materials need to export themselves at points of the surface."""
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A geometry that is a function of points in space, with an isosurface as its mesh."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        isosurface: bool = True
        isosurface_method: str = "mt"
        isosurface_resolution: int = 128
        isosurface_threshold: float | str = 0.0
        isosurface_chunk: int = 0
        isosurface_coarse_to_fine: bool = True
        isosurface_deformable_grid: bool = False
        isosurface_remove_outliers: bool = True
        isosurface_outlier_n_faces_threshold: int | float = 0.01

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
        self.isosurface_helper: IsosurfaceHelper | None = None
        self.unbounded = False

    def forward(self, points: Float[Tensor, "*batch dim"], output_normal: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError

    def forward_field(self, points: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor | None]:
        """Field value (*batch, 1) and, where the grid is deformable, the deformation at points."""
        raise NotImplementedError

    def forward_level(self, field: Float[Tensor, "*batch 1"], threshold: float) -> Float[Tensor, "*batch 1"]:
        """Level function: zero on the surface, positive outside."""
        raise NotImplementedError

    def isosurface(self) -> Mesh:
        """The mesh at the configured threshold; with `isosurface_coarse_to_fine`, of a grid fitted to a first one.

        Raises:
            NotImplementedError: the config turns isosurfaces off.
            ValueError: the field does not cross the threshold.
        """
        if not self.cfg.isosurface:
            raise NotImplementedError("the geometry's config has isosurface: false, so it has no mesh")
        if self.isosurface_helper is None:
            self.isosurface_helper = isosurface_helper(
                self.cfg.isosurface_method, self.cfg.isosurface_resolution
            )
            self.isosurface_helper.to(self.bbox.device)
        mesh = None
        if self.cfg.isosurface_coarse_to_fine:
            with torch.no_grad():
                coarse = self._isosurface(self.bbox)
            low, high = coarse.v_pos.amin(0), coarse.v_pos.amax(0)
            margin = (high - low) * 0.1
            fitted = torch.stack([low - margin, high + margin])
            mesh = self._isosurface(fitted.clamp(min=self.bbox[0], max=self.bbox[1]), fine_stage=True)
        else:
            mesh = self._isosurface(self.bbox)
        return mesh

    def _isosurface(self, bbox: Float[Tensor, "2 3"], fine_stage: bool = False) -> Mesh:
        def field_at(points: Tensor) -> tuple[Tensor, Tensor | None]:
            return self.forward_field(scale_tensor(points, self.isosurface_helper.points_range, bbox))

        grid = self.isosurface_helper.grid_vertices.to(bbox.device)
        field, deformation = chunk_batch(field_at, self.cfg.isosurface_chunk, grid)
        threshold = self._threshold(field)
        mesh = self.isosurface_helper(self.forward_level(field, threshold), deformation=deformation)
        if len(mesh.t_pos_idx) == 0:
            raise ValueError(
                f"the field has no surface at isosurface_threshold {threshold:g}: its values lie between "
                f"{field.min().item():g} and {field.max().item():g}"
            )
        mesh.v_pos = scale_tensor(mesh.v_pos, self.isosurface_helper.points_range, bbox)
        mesh.add_extra("bbox", bbox)
        if self.cfg.isosurface_remove_outliers:
            mesh = mesh.remove_outlier(self.cfg.isosurface_outlier_n_faces_threshold)
        return mesh

    def _threshold(self, field: Float[Tensor, "point 1"]) -> float:
        threshold = self.cfg.isosurface_threshold
        if isinstance(threshold, float | int):
            return float(threshold)
        if threshold != "auto":
            raise ValueError(f"isosurface_threshold is {threshold!r}, must be a number or 'auto'")
        threshold = float(field.detach()[field > 1e-5].mean())
        threestudio.info(f"automatic isosurface threshold: {threshold:g}")
        return threshold


class BaseExplicitGeometry(BaseGeometry):
    """A geometry that is a mesh."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0

    cfg: Config

    def configure(self) -> None:
        radius = self.cfg.radius
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3], dtype=torch.float32))
