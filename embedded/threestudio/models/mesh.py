"""Triangle meshes as tensors."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

import threestudio


class Mesh:
    """Vertices and triangles, with normals, texture coordinates and edges computed on first use."""

    def __init__(self, v_pos: Float[Tensor, "vertex 3"], t_pos_idx: Int[Tensor, "face 3"], **extras: Any):
        self.v_pos, self.t_pos_idx = v_pos, t_pos_idx
        self._v_nrm: Tensor | None = None
        self._v_tng: Tensor | None = None
        self._v_tex: Tensor | None = None
        self._t_tex_idx: Tensor | None = None
        self._v_rgb: Tensor | None = None
        self._edges: Tensor | None = None
        self.extras: dict[str, Any] = {}
        for key, value in extras.items():
            self.add_extra(key, value)

    def add_extra(self, key: str, value: Any) -> None:
        self.extras[key] = value

    @property
    def requires_grad(self) -> bool:
        return self.v_pos.requires_grad

    @property
    def v_nrm(self) -> Float[Tensor, "vertex 3"]:
        """Unit vertex normals, faces weighted by area; +z where a vertex has no proper face."""
        if self._v_nrm is None:
            corners = self.v_pos[self.t_pos_idx]  # (face, 3, 3)
            area_normal = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
            summed = torch.zeros_like(self.v_pos).index_add(
                0, self.t_pos_idx.flatten(), area_normal.repeat_interleave(3, dim=0)
            )
            up = summed.new_tensor([0.0, 0.0, 1.0])
            degenerate = (summed**2).sum(dim=-1, keepdim=True) <= 1e-20
            self._v_nrm = F.normalize(torch.where(degenerate, up, summed), dim=-1)
        return self._v_nrm

    @property
    def v_tng(self) -> Float[Tensor, "vertex 3"]:
        """Unit vertex tangents: along growing u, perpendicular to the normal."""
        if self._v_tng is None:
            corners, uv = self.v_pos[self.t_pos_idx], self.v_tex[self.t_tex_idx]
            edge_1, edge_2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
            uv_1, uv_2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
            determinant = uv_1[:, :1] * uv_2[:, 1:] - uv_1[:, 1:] * uv_2[:, :1]
            determinant = torch.where(determinant.abs() < 1e-12, 1e-12, determinant)
            tangent = (edge_1 * uv_2[:, 1:] - edge_2 * uv_1[:, 1:]) / determinant
            summed = torch.zeros_like(self.v_pos).index_add(
                0, self.t_pos_idx.flatten(), F.normalize(tangent, dim=-1).repeat_interleave(3, dim=0)
            )
            summed = summed - (summed * self.v_nrm).sum(dim=-1, keepdim=True) * self.v_nrm
            self._v_tng = F.normalize(summed, dim=-1)
        return self._v_tng

    @property
    def v_tex(self) -> Float[Tensor, "uv 2"]:
        """Texture coordinates in [0, 1]."""
        if self._v_tex is None:
            self.unwrap_uv()
        return self._v_tex

    @property
    def t_tex_idx(self) -> Int[Tensor, "face 3"]:
        """Which texture coordinates the triangles' corners have."""
        if self._t_tex_idx is None:
            self.unwrap_uv()
        return self._t_tex_idx

    @property
    def v_rgb(self) -> Float[Tensor, "vertex 3"] | None:
        return self._v_rgb

    def set_vertex_color(self, v_rgb: Float[Tensor, "vertex 3"]) -> None:
        if len(v_rgb) != len(self.v_pos):
            raise ValueError(f"got {len(v_rgb)} vertex colours for {len(self.v_pos)} vertices")
        self._v_rgb = v_rgb

    @property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """Undirected edges, each once."""
        if self._edges is None:
            pairs = torch.cat(
                [self.t_pos_idx[:, [0, 1]], self.t_pos_idx[:, [1, 2]], self.t_pos_idx[:, [2, 0]]]
            )
            self._edges = pairs.sort(dim=1).values.unique(dim=0)
        return self._edges

    def remove_outlier(self, outlier_n_faces_threshold: int | float) -> "Mesh":
        """A mesh without the small components; the mesh itself where it carries gradients.

        Args:
            outlier_n_faces_threshold: least number of faces of a component that is kept; a float is a fraction of
                the largest one's.
        """
        if self.requires_grad:
            threestudio.debug("the mesh carries gradients: its outliers are not removed")
            return self
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        faces, count = self.t_pos_idx.cpu().numpy(), len(self.v_pos)
        edges = self.edges.cpu().numpy()
        graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
        _, label = connected_components(graph, directed=False)
        size = np.bincount(label[faces[:, 0]], minlength=label.max(initial=0) + 1)
        threshold = outlier_n_faces_threshold
        if isinstance(threshold, float):
            threshold = int(size.max(initial=0) * threshold)
        kept_faces = faces[(size >= threshold)[label[faces[:, 0]]]]
        kept_vertices, renumbered = np.unique(kept_faces, return_inverse=True)
        threestudio.debug(
            f"mesh components: {int((size > 0).sum())}, kept: {int((size >= max(threshold, 1)).sum())}"
        )
        mesh = Mesh(
            self.v_pos[torch.from_numpy(kept_vertices).to(self.v_pos.device)],
            torch.from_numpy(renumbered.reshape(-1, 3)).to(self.t_pos_idx),
        )
        mesh.extras = self.extras
        return mesh

    def unwrap_uv(
        self, chart_options: dict[str, Any] | None = None, pack_options: dict[str, Any] | None = None
    ) -> None:
        """Lay the surface out in the texture, by xatlas.

        Args:
            chart_options: attributes of `xatlas.ChartOptions`.
            pack_options: attributes of `xatlas.PackOptions`.
        """
        import xatlas

        atlas = xatlas.Atlas()
        atlas.add_mesh(
            self.v_pos.detach().cpu().numpy().astype(np.float32),
            self.t_pos_idx.cpu().numpy().astype(np.uint32),
        )
        options = {"chart": xatlas.ChartOptions(), "pack": xatlas.PackOptions()}
        for kind, values in (("chart", chart_options), ("pack", pack_options)):
            for name, value in (values or {}).items():
                if not hasattr(options[kind], name):
                    raise ValueError(f"xatlas knows no {kind} option {name!r}")
                setattr(options[kind], name, value)
        atlas.generate(options["chart"], options["pack"])
        _, indices, uv = atlas.get_mesh(0)
        self._v_tex = torch.from_numpy(uv.astype(np.float32)).to(self.v_pos.device)
        self._t_tex_idx = torch.from_numpy(indices.astype(np.int64)).to(self.t_pos_idx.device)

    def normal_consistency(self) -> Float[Tensor, ""]:
        """Mean of 1 − cos between the normals at the ends of the edges."""
        normal = self.v_nrm[self.edges]
        return (1 - F.cosine_similarity(normal[:, 0], normal[:, 1], dim=-1)).mean()

    def laplacian(self) -> Float[Tensor, ""]:
        """Mean distance of vertices from the mean of their neighbours."""
        ends = torch.cat([self.edges, self.edges.flip(1)])
        total = torch.zeros_like(self.v_pos).index_add(0, ends[:, 0], self.v_pos[ends[:, 1]])
        degree = torch.bincount(ends[:, 0], minlength=len(self.v_pos)).clamp(min=1)[:, None]
        return (total / degree - self.v_pos).norm(dim=-1).mean()
