"""A surface -> texture coordinates, and the places on the surface that the texels of its texture stand for."""

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
import xatlas
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from imagedream.mesh.raycast import barycentric, embree_scene

_RAYS_PER_CALL = 2**20
_PADDING_PX = 3  # texels kept free between charts


@dataclass(frozen=True)
class UnwrappedMesh:
    """A mesh cut open along the seams of its texture, in world axes."""

    vertices: Float[np.ndarray, "vertex 3"]
    normals: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    uv: Float[np.ndarray, "vertex 2"]
    """Texture coordinates in [0, 1]; v grows upwards."""
    source: Int[np.ndarray, " vertex"]
    """The vertex of the uncut mesh that each vertex is a copy of."""

    def uncut(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Vertices (point, 3), normals (point, 3) and faces (face, 3) without the seams; faces keep their order."""
        _, first, inverse = np.unique(self.source, return_index=True, return_inverse=True)
        return self.vertices[first], self.normals[first], inverse.reshape(-1)[self.faces]


@dataclass(frozen=True)
class Texels:
    """The texels of a square texture that lie on a mesh, row by row from the top."""

    mask: Bool[np.ndarray, "size size"]
    """Which texels of the texture these are."""
    corners: Int[np.ndarray, "texel 3"]
    """Vertices of the triangle on which each texel lies."""
    weights: Float[np.ndarray, "texel 3"]
    """Barycentric coordinates in it."""
    positions: Float[Tensor, "texel 3"]
    """World points."""
    normals: Float[Tensor, "texel 3"]
    """Unit vertex normals, interpolated."""

    def interpolate(self, attribute: Float[np.ndarray, "vertex channel"]) -> Float[Tensor, "texel channel"]:
        """A vertex attribute at the texels."""
        return _interpolate(attribute, self.corners, self.weights)

    def picture(self, values: Float[Tensor, "texel 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """Values in [0, 1] as a texture; texels outside all charts repeat the nearest one inside.

        So neither the blending between texels nor smaller copies of the texture show the seams.
        """
        texture = np.zeros((*self.mask.shape, 3), dtype=np.uint8)
        texture[self.mask] = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return fill_gaps(texture, self.mask)


def unwrap(mesh: trimesh.Trimesh, texture_size: int) -> UnwrappedMesh:
    """Cut a mesh into charts and lay them out in one texture (xatlas).

    Args:
        mesh: best at most about 10,000 faces: the time grows faster than their number.
        texture_size: side of the texture in texels.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    # one pass instead of several: nearly as few charts in a fraction of the time
    chart.max_iterations = 1
    pack.resolution, pack.padding, pack.bilinear = texture_size, _PADDING_PX, True
    atlas.generate(chart, pack)
    mapping, faces, uv = atlas[0]
    return UnwrappedMesh(
        mesh.vertices[mapping].astype(np.float32),
        mesh.vertex_normals[mapping].astype(np.float32),
        faces.astype(np.int64),
        uv.astype(np.float32),
        mapping.astype(np.int64),
    )


def texels(mesh: UnwrappedMesh, size: int) -> Texels:
    """The texels of a texture of side `size` that lie on the mesh.

    Raises:
        ValueError: not a single one does.
    """
    face_map, barycentric = rasterize_uv(mesh.uv, mesh.faces, size)
    mask = face_map >= 0
    if not mask.any():
        raise ValueError("no texel is covered by the mesh; the texture is too small or the mesh has no area")
    corners, weights = mesh.faces[face_map[mask]], barycentric[mask]
    positions = _interpolate(mesh.vertices, corners, weights)
    normals = functional.normalize(_interpolate(mesh.normals, corners, weights), dim=-1)
    return Texels(mask, corners, weights, positions, normals)


def _interpolate(attribute: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> Tensor:
    return torch.from_numpy(np.einsum("tcx,tc->tx", attribute[corners], weights)).float()


def rasterize_uv(
    uv: Float[np.ndarray, "vertex 2"], faces: Int[np.ndarray, "face 3"], size: int
) -> tuple[Int[np.ndarray, "{size} {size}"], Float[np.ndarray, "{size} {size} 3"]]:
    """Which triangle covers each texel centre, and where inside it: rays down onto the flat triangles find out.

    Row 0 is the top of the picture (v = 1); the centre of texel (row, column) is
    u = (column + ½) / size, v = 1 − (row + ½) / size.

    Returns:
        Face index, −1 where no triangle lies; barycentric coordinates, 0 there.
    """
    scene, _flat = embree_scene(np.pad(uv, ((0, 0), (0, 1))), faces)
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    face_map = np.full((size, size), -1)
    weights = np.zeros((size, size, 3), dtype=np.float32)
    for rows in np.array_split(np.arange(size), -(-(size**2) // _RAYS_PER_CALL)):
        v, u = np.meshgrid(1 - centres[rows], centres, indexing="ij")
        origins = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3)
        hits = scene.run(origins, np.tile(np.float32([0, 0, -1]), (len(origins), 1)), output=True)
        face_map[rows] = hits["primID"].reshape(len(rows), size)
        weights[rows] = barycentric(hits).reshape(len(rows), size, 3)
    weights[face_map < 0] = 0
    return face_map, weights


def fill_gaps(
    texture: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Give texels outside `mask`, which must not be empty, the colour of the nearest texel inside."""
    row, column = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return texture[row, column]
