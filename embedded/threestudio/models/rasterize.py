"""Triangles in the texture plane -> which triangle each texel belongs to."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CANDIDATES = 2**21
"""(triangle, texel) pairs that are tested in one go; bounds memory to some hundreds of MB."""


@torch.no_grad()
def rasterize_uv(
    uv: Float[Tensor, "uv 2"], faces: Int[Tensor, "face 3"], size: int
) -> tuple[Int[Tensor, "size size"], Float[Tensor, "size size 3"]]:
    """Find the triangle under the centre of each texel; not differentiable.

    Args:
        uv: texture coordinates in [0, 1]; u runs along a row, v down the rows (v = 0 is row 0).
        faces: rows of `uv`.
        size: of the square texture, in texels.

    Returns:
        Triangle numbers, −1 where there is none (the greatest where several overlap), and the barycentric coordinates
        in them, zero where there is none.
    """
    corners = uv[faces].double() * size - 0.5  # (face, 3, 2); texel centres are at whole numbers
    first = corners.amin(dim=1).ceil().clamp(0, size).long()
    extent = (corners.amax(dim=1).floor().long() + 1).clamp(0, size) - first
    extent = extent.clamp(min=0)  # (face, 2): columns and rows of the box around each triangle
    face_of_texel = torch.full((size * size,), -1, dtype=torch.long, device=uv.device)
    barycentric = torch.zeros(size * size, 3, dtype=uv.dtype, device=uv.device)
    counts = extent.prod(dim=1)
    group = counts.cumsum(0) // _CANDIDATES
    for number in group.unique().tolist():
        members = (group == number).nonzero()[:, 0]
        face = members.repeat_interleave(counts[members])
        start = (counts[members].cumsum(0) - counts[members]).repeat_interleave(counts[members])
        within = torch.arange(len(face), device=uv.device) - start
        columns = extent[face, 0]
        texel = first[face] + torch.stack([within % columns, within // columns], dim=-1)
        weights = _barycentric(texel.double(), corners[face])
        hit = (weights >= -1e-9).all(dim=-1)
        face, texel, weights = face[hit], texel[hit], weights[hit]
        index = texel[:, 1] * size + texel[:, 0]
        winner = face_of_texel.scatter_reduce(0, index, face, "amax")
        won = winner[index] == face
        barycentric[index[won]] = weights[won].to(uv.dtype)
        face_of_texel = winner
    return face_of_texel.view(size, size), barycentric.view(size, size, 3)


def _barycentric(
    point: Float[Tensor, "point 2"], corners: Float[Tensor, "point 3 2"]
) -> Float[Tensor, "point 3"]:
    """Barycentric coordinates; −1 for degenerate triangles."""
    to_corner = corners - point[:, None]

    def twice_area(a: Tensor, b: Tensor) -> Tensor:
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    a, b, c = to_corner.unbind(dim=1)
    areas = torch.stack([twice_area(b, c), twice_area(c, a), twice_area(a, b)], dim=-1)
    total = areas.sum(dim=-1, keepdim=True)
    return torch.where(total.abs() > 1e-12, areas / total, -1.0)
