"""mesh-exporter: the isosurface with its albedo, as OBJ."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

import threestudio
from threestudio.models.exporters.base import Exporter, ExporterOutput
from threestudio.models.mesh import Mesh
from threestudio.models.rasterize import rasterize_uv
from threestudio.utils.ops import chunk_batch

_CHUNK = 2**18
_MAPS = {"albedo": "map_Kd", "metallic": "map_Pm", "roughness": "map_Pr", "bump": "map_Bump"}
"""What materials export -> the OBJ material's texture."""


@threestudio.register("mesh-exporter")
class MeshExporter(Exporter):
    """`fmt` "obj-mtl": textures on an unwrapped mesh; "obj": vertex colours."""

    @dataclass
    class Config(Exporter.Config):
        fmt: str = "obj-mtl"
        save_name: str = "model"
        save_normal: bool = False
        save_uv: bool = True
        save_texture: bool = True
        texture_size: int = 1024
        texture_format: str = "jpg"
        xatlas_chart_options: dict = field(default_factory=dict)
        xatlas_pack_options: dict = field(default_factory=dict)
        # of nvdiffrast, which is not used here
        context_type: str = "gl"

    cfg: Config

    def __call__(self) -> list[ExporterOutput]:
        if self.cfg.fmt not in ("obj-mtl", "obj"):
            raise ValueError(f"fmt is {self.cfg.fmt!r}, must be 'obj-mtl' or 'obj'")
        if self.cfg.fmt == "obj-mtl" and self.cfg.save_texture and not self.cfg.save_uv:
            raise ValueError(
                "save_texture needs save_uv: a texture without texture coordinates cannot be used"
            )
        mesh = self.geometry.isosurface()
        if self.cfg.save_uv:
            mesh.unwrap_uv(self.cfg.xatlas_chart_options, self.cfg.xatlas_pack_options)
        params = {
            "mesh": mesh,
            "save_mat": self.cfg.fmt == "obj-mtl",
            "save_normal": self.cfg.save_normal,
            "save_uv": self.cfg.save_uv,
            "save_vertex_color": False,
        }
        if self.cfg.fmt == "obj-mtl":
            params |= {"map_format": self.cfg.texture_format}
            if self.cfg.save_texture:
                params |= self.bake(mesh)
        elif self.cfg.save_texture:
            colors = self.surface(mesh.v_pos)
            if "albedo" in colors:
                mesh.set_vertex_color(colors["albedo"])
                params["save_vertex_color"] = True
        return [ExporterOutput(f"{self.cfg.save_name}.obj", "obj", params)]

    @torch.no_grad()
    def surface(self, points: Float[Tensor, "point 3"]) -> dict[str, Float[Tensor, "point channel"]]:
        """What the material exports at surface points."""
        if len(points) == 0:
            return {}

        def export(points: Tensor) -> dict[str, Tensor]:
            return self.material.export(points=points, **self.geometry.export(points=points))

        return chunk_batch(export, _CHUNK, points)

    def bake(self, mesh: Mesh) -> dict[str, Float[Tensor, "size size channel"]]:
        """The material's textures by the names of `save_obj`'s arguments; texels outside charts are filled in."""
        size = self.cfg.texture_size
        face, barycentric = rasterize_uv(mesh.v_tex, mesh.t_tex_idx, size)
        covered = face >= 0
        corners = mesh.v_pos[mesh.t_pos_idx[face[covered]]]  # (texel, 3, 3)
        points = (corners * barycentric[covered][..., None]).sum(dim=1)
        maps = {}
        for name, values in self.surface(points).items():
            if name not in _MAPS:
                threestudio.warn(f"the material exports {name}, for which OBJ has no texture")
                continue
            image = values.new_zeros(size, size, values.shape[-1])
            image[covered] = values
            maps[_MAPS[name]] = _fill(image, covered)
        return maps


def _fill(
    image: Float[Tensor, "size size channel"], covered: Bool[Tensor, "size size"]
) -> Float[Tensor, "size size channel"]:
    """The image with each texel that no triangle covers taken from the nearest one that a triangle does."""
    rows, columns = distance_transform_edt(
        ~covered.cpu().numpy(), return_distances=False, return_indices=True
    )
    return image[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]
