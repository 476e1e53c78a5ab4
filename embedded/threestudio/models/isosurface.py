"""Level functions on grids -> meshes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

import threestudio
from threestudio.models.mesh import Mesh


class IsosurfaceHelper(nn.Module):
    """Turns the values of a level function at `grid_vertices` into a mesh with vertices in `points_range`."""

    points_range: tuple[float, float] = (0.0, 1.0)

    @property
    def grid_vertices(self) -> Float[Tensor, "vertex 3"]:
        """Where the level function is to be evaluated."""
        raise NotImplementedError

    def forward(self, level: Float[Tensor, "vertex 1"], deformation: Tensor | None = None) -> Mesh:
        """The zero set of `level`, whose positive side is outside."""
        raise NotImplementedError


class MarchingCubeCPUHelper(IsosurfaceHelper):
    """Marching cubes on a regular grid, by scikit-image; not differentiable."""

    def __init__(self, resolution: int):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("_device", torch.empty(0), persistent=False)

    @property
    def grid_vertices(self) -> Float[Tensor, "vertex 3"]:
        axis = torch.linspace(*self.points_range, self.resolution, device=self._device.device)
        return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)

    def forward(self, level: Float[Tensor, "vertex 1"], deformation: Tensor | None = None) -> Mesh:
        from skimage.measure import marching_cubes

        if deformation is not None:
            threestudio.warn("marching cubes does not use the grid's deformation")
        volume = level.detach().float().cpu().view(*[self.resolution] * 3).numpy()
        if volume.min() < 0 < volume.max():
            # the object is where the level is low, which is what "descent" says; faces come out counter-clockwise
            vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
        else:
            vertices, faces = torch.zeros(0, 3).numpy(), torch.zeros(0, 3, dtype=torch.int32).numpy()
        device = self._device.device
        v_pos = torch.from_numpy(vertices.copy()).float().to(device) / (self.resolution - 1)
        return Mesh(v_pos, torch.from_numpy(faces.astype("int64")).to(device))


def isosurface_helper(method: str, resolution: int) -> IsosurfaceHelper:
    """The helper that `isosurface_method` names."""
    if method != "mc-cpu":
        raise ValueError(f"isosurface_method is {method!r}, the embedded host can do 'mc-cpu' only")
    return MarchingCubeCPUHelper(resolution)
