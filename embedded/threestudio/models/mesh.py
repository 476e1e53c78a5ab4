"""Triangle meshes as tensors: what losses on meshes and exporters read of them."""

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class Mesh:
    """Vertices and triangles, with normals and edges computed on first use."""

    def __init__(self, v_pos: Float[Tensor, "vertex 3"], t_pos_idx: Int[Tensor, "face 3"], **extras: Any):
        self.v_pos, self.t_pos_idx, self.extras = v_pos, t_pos_idx, extras

    def add_extra(self, key: str, value: Any) -> None:
        self.extras[key] = value

    @property
    def requires_grad(self) -> bool:
        return self.v_pos.requires_grad

    @cached_property
    def v_nrm(self) -> Float[Tensor, "vertex 3"]:
        """Unit vertex normals, faces weighted by area; +z where a vertex has no proper face."""
        corners = self.v_pos[self.t_pos_idx]  # (face, 3, 3)
        area_normal = torch.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=-1)
        summed = torch.zeros_like(self.v_pos).index_add(
            0, self.t_pos_idx.flatten(), area_normal.repeat_interleave(3, dim=0)
        )
        up = summed.new_tensor([0.0, 0.0, 1.0])
        degenerate = (summed**2).sum(dim=-1, keepdim=True) <= 1e-20
        return F.normalize(torch.where(degenerate, up, summed), dim=-1)

    @cached_property
    def edges(self) -> Int[Tensor, "edge 2"]:
        """Undirected edges, each once."""
        pairs = torch.cat([self.t_pos_idx[:, [0, 1]], self.t_pos_idx[:, [1, 2]], self.t_pos_idx[:, [2, 0]]])
        return pairs.sort(dim=1).values.unique(dim=0)

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
