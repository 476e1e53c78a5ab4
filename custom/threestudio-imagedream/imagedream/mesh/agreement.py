"""How much a mesh looks like the field it was made from, seen from around."""

from dataclasses import dataclass

import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from imagedream.mesh.field import ViewFunction, sphere_views
from imagedream.mesh.isosurface import outline_iou
from imagedream.mesh.raycast import Raycaster
from imagedream.metrics import psnr

VIEWS, VIEW_SIZE = 16, 96


@dataclass(frozen=True)
class Agreement:
    """How much a mesh looks like the field, over `VIEWS` views that were not used for its texture."""

    psnr_db: float | None
    """Mean over the views, both over white; None where the mesh has no colours."""
    colour_psnr_db: float | None
    """Colours alone, where both mesh and field are more than half opaque: the texture without the outline."""
    silhouette_iou: float


@dataclass(frozen=True)
class FieldViews:
    """What the field looks like from around, as the truth that meshes are compared with."""

    camera_to_world: Float[Tensor, "view 4 4"]
    fov_y_deg: Float[Tensor, " view"]
    rgba: Float[Tensor, "view 4 size size"]
    """Premultiplied sRGB and opacity."""

    @staticmethod
    def of(view_fn: ViewFunction, half_extent: float) -> "FieldViews":
        """`VIEWS` views, `VIEW_SIZE` pixels square, of all that lies within `half_extent` of the origin."""
        camera_to_world, fov_y_deg = sphere_views(half_extent, VIEWS)
        return FieldViews(camera_to_world, fov_y_deg, view_fn(camera_to_world, fov_y_deg, VIEW_SIZE))

    @property
    def over_white(self) -> Float[Tensor, "view 3 size size"]:
        """The views in front of white."""
        return self.rgba[:, :3] + 1 - self.rgba[:, 3:]

    @property
    def mean_opacity(self) -> float:
        """Mean opacity where the field is more than half opaque; nearly 1 if it has a clear surface."""
        opacity = self.rgba[:, 3]
        inside = opacity > 0.5
        return float(opacity[inside].mean()) if inside.any() else 0.0

    @property
    def hard_edges_psnr_db(self) -> float:
        """What the field's own colours with hard edges reach: opaque where it is more than half opaque, else white.

        A mesh can hardly look more like the field: what is missing is the haze that no mesh shows.
        """
        opacity = self.rgba[:, 3:]
        cut = torch.where(opacity > 0.5, self.rgba[:, :3] / opacity.clamp_min(0.5), 1.0)
        return float(psnr(cut, self.over_white).mean())

    def agreement(self, mesh: trimesh.Trimesh, has_colours: bool = True) -> Agreement:
        """Compare an unlit mesh in world axes with the field."""
        views = Raycaster(mesh).render(self.camera_to_world, self.fov_y_deg, self.rgba.shape[-1], light=None)
        alpha, opacity = views.rgba[:, 3:], self.rgba[:, 3:]
        iou = outline_iou(alpha[:, 0], opacity[:, 0])
        if not has_colours:
            return Agreement(None, None, iou)
        psnr_db = float(psnr(views.over_white, self.over_white).mean())
        inside = ((alpha > 0.5) & (opacity > 0.5)).expand(-1, 3, -1, -1)
        if not inside.any():
            return Agreement(psnr_db, None, iou)
        own, true = views.rgba[:, :3][inside], (self.rgba[:, :3] / opacity)[inside]
        return Agreement(psnr_db, float(psnr(own[None, None, None], true[None, None, None])), iou)
