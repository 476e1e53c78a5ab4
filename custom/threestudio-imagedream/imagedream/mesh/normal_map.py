"""A normal map: the fine shape of a field on a coarse mesh, in the tangent frames of glTF 2.0 (§3.7.2.1, §3.9.3)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from imagedream.mesh.texture import Texels, UnwrappedMesh

_STEEPEST_COS = 0.5


def tangents(mesh: UnwrappedMesh) -> Float[np.ndarray, "vertex 4"]:
    """Unit tangents along growing u, and the sign with which normal × tangent points along growing v.

    Vertices whose triangles have no area in the texture get any direction in the surface.
    """
    edges = mesh.vertices[mesh.faces[:, 1:]] - mesh.vertices[mesh.faces[:, :1]]  # (face, 2, 3)
    du, dv = np.moveaxis(mesh.uv[mesh.faces[:, 1:]] - mesh.uv[mesh.faces[:, :1]], -1, 0)  # (face, 2)
    # position = origin + u · along_u + v · along_v on each triangle; the sign of its area keeps mirrored charts right
    sign = np.sign(du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0])[:, None]
    along_u = sign * (dv[:, 1:] * edges[:, 0] - dv[:, :1] * edges[:, 1])
    along_v = sign * (du[:, :1] * edges[:, 1] - du[:, 1:] * edges[:, 0])
    total = np.zeros((2, *mesh.vertices.shape))
    for corner in range(3):
        np.add.at(total[0], mesh.faces[:, corner], along_u)
        np.add.at(total[1], mesh.faces[:, corner], along_v)
    flat = total[0] - mesh.normals * (mesh.normals * total[0]).sum(1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    # the axis least along the normal gives a direction that is never zero
    anywhere = np.cross(mesh.normals, np.eye(3)[np.abs(mesh.normals).argmin(1)])
    anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True).clip(1e-12)
    tangent = np.where(length > 1e-12, flat / length.clip(1e-12), anywhere)
    along = np.einsum("vx,vx->v", np.cross(mesh.normals, tangent), total[1])
    return np.concatenate([tangent, np.where(along < 0, -1.0, 1.0)[:, None]], axis=1).astype(np.float32)


def normal_map(
    mesh: UnwrappedMesh, texels: Texels, normals: Float[Tensor, "texel 3"]
) -> Float[Tensor, "texel 3"]:
    """World normals at the texels, written in the mesh's tangent frames: x, y and z from [−1, 1] to [0, 1].

    Normals more than 60° off the mesh's are bent back to that, those that point into it count as the mesh's.

    Args:
        mesh: with the vertex normals that a viewer will interpolate.
        texels: of its texture.
        normals: unit, in world axes; a zero vector means the mesh's own.
    """
    frame = texels.interpolate(tangents(mesh))
    upright = texels.normals
    tangent = frame[:, :3] - upright * (frame[:, :3] * upright).sum(-1, keepdim=True)
    tangent = functional.normalize(tangent, dim=-1)
    bitangent = torch.linalg.cross(upright, tangent) * frame[:, 3:].sign()
    height = (normals * upright).sum(-1, keepdim=True)
    normals = torch.where(height > 0, normals, upright)
    sideways = functional.normalize(normals - upright * (normals * upright).sum(-1, keepdim=True), dim=-1)
    steepest = _STEEPEST_COS * upright + (1 - _STEEPEST_COS**2) ** 0.5 * sideways
    normals = torch.where((height > 0) & (height < _STEEPEST_COS), steepest, normals)
    local = torch.stack([(normals * axis).sum(-1) for axis in (tangent, bitangent, upright)], dim=-1)
    return (local + 1) / 2
