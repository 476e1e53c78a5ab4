"""Colours of a density field -> colours of the texels of a mesh.

A density field is seen through a depth, so its colour at a texel's place (`field.query`) is not what viewers see there.
"""

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from imagedream import cameras
from imagedream.mesh.field import ViewFunction
from imagedream.mesh.raycast import Raycaster
from imagedream.mesh.texture import Texels

_GRAZING_COS = 0.1  # flatter views tell nothing
_NEIGHBOURS = 8
_TREE_POINTS = 50_000


@torch.no_grad()
def bake_colours(
    texels: Texels,
    surface: trimesh.Trimesh,
    view_fn: ViewFunction,
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    size: int,
) -> tuple[Float[Tensor, "texel 3"], Bool[Tensor, " texel"]]:
    """Give each texel the mean colour of what the field shows there in the views that see it.

    A view counts with the square of the cosine between the texel's normal and the direction to the camera, and with
    the opacity it has there. Colours of sRGB fields stay sRGB, as glTF wants its base colours.

    Args:
        texels: where colours are wanted.
        surface: the mesh they lie on; it hides what is behind it.
        view_fn: renders the field.
        camera_to_world: OpenGL cameras all around.
        fov_y_deg: vertical fields of view.
        size: side of the views in pixels.

    Returns:
        Colours, and which texels are seen in any view; the colours of the others are 0 (see `inpaint`).
    """
    caster = Raycaster(surface)
    total = torch.zeros(len(texels.positions), 4)
    for pose, fov in zip(camera_to_world, fov_y_deg, strict=True):
        view = view_fn(pose[None], fov[None], size)
        depth = caster.depth(pose[None], fov[None], size)[0]
        cosine = _cosines(texels, pose)
        near = (cosine > _GRAZING_COS).nonzero()[:, 0]
        place_px, texel_depth = cameras.project(texels.positions[near], pose, fov, size, size)
        column, row = place_px.floor().long().clamp(0, size - 1).unbind(-1)
        # a surface seen at a slant falls off within a pixel; what lies deeper than that is hidden
        pixel = 2 * texel_depth * torch.tan(torch.deg2rad(fov) / 2) / size
        slope = (1 - cosine[near] ** 2).sqrt() / cosine[near]
        front = depth[row, column]
        seen = front.isfinite() & (texel_depth <= front + pixel * (1 + slope))
        near, place_px = near[seen], place_px[seen]
        grid = (place_px / size * 2 - 1)[None, None]
        samples = functional.grid_sample(view, grid, align_corners=False, padding_mode="border")
        total.index_add_(0, near, samples[0, :, 0].T * cosine[near, None] ** 2)
    seen = total[:, 3] > 1e-4
    return torch.where(seen[:, None], total[:, :3] / total[:, 3:].clamp_min(1e-4), 0.0).clamp(0, 1), seen


def _cosines(texels: Texels, pose: Float[Tensor, "4 4"]) -> Float[Tensor, " texel"]:
    towards = functional.normalize(pose[:3, 3] - texels.positions, dim=-1)
    return (texels.normals * towards).sum(-1)


def inpaint(
    texels: Texels, colours: Float[Tensor, "texel 3"], seen: Bool[Tensor, " texel"]
) -> Float[Tensor, "texel 3"]:
    """Give texels that no view sees the blended colours of the nearest seen ones on the surface.

    Nearness counts in space, not in the texture, where neighbours may be far apart; and texels that face another way,
    such as those on the far side of a thin wall, count as farther than they are.

    Raises:
        ValueError: no texel is seen at all.
    """
    if not seen.any():
        raise ValueError(
            f"none of the {len(seen)} texels is seen in any view, so there are no colours to spread"
        )
    if seen.all():
        return colours
    turn = 0.3 * float((texels.positions.amax(0) - texels.positions.amin(0)).max())
    place = torch.cat([texels.positions, turn * texels.normals], dim=-1).numpy()
    known = seen.nonzero()[:, 0].numpy()
    known = known[:: -(-len(known) // _TREE_POINTS)]
    nearest = range(1, 1 + min(_NEIGHBOURS, len(known)))
    distance, neighbour = cKDTree(place[known]).query(place[~seen.numpy()], k=nearest)
    weights = torch.from_numpy(1 / np.maximum(distance, 1e-9)).float()
    weights /= weights.sum(1, keepdim=True)
    filled = colours.clone()
    filled[~seen] = torch.einsum("tn,tnc->tc", weights, colours[known[neighbour]])
    return filled
