"""The one camera convention of this project.

World: right-handed, +z up. Azimuth 0 looks at the object from +x and grows from +x towards +y; elevation grows
towards +z. An object's canonical front faces +x, so azimuth 0 sees the front, 90 its left side (the object's own
left, +y), 180 the back and 270 its right side. Camera frame: OpenGL/Blender (x right, y up, looks down −z).
Image: row 0 on top, pixel centres at half-integers. Objects live in the unit cube around the origin.

The official ImageDream code counts azimuth from −y, so *its* second view is the front (MVDream, dreamgaussian and
LGM say the same); nothing else in this project needs to know.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

VIEW_NAMES = ("front", "left", "back", "right")
"""Names of the canonical azimuths 0, 90, 180 and 270 degrees."""


def orthogonal_azimuths(
    start_deg: Float[Tensor, "*batch"] | float = 0.0, views: int = 4
) -> Float[Tensor, "*batch view"]:
    """Azimuths of a canonical group: `views` directions evenly spread over the circle, in degrees.

    >>> orthogonal_azimuths(10.0)
    tensor([ 10., 100., 190., 280.])
    """
    start = torch.as_tensor(start_deg, dtype=torch.float32)
    return start[..., None] + torch.arange(views, device=start.device) * (360.0 / views)


def look_at_origin(
    elevation_deg: Float[Tensor, "*#batch"],
    azimuth_deg: Float[Tensor, "*#batch"],
    distance: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch 4 4"]:
    """Camera-to-world matrices of upright cameras on a sphere that look at the origin.

    Args:
        elevation_deg: height angle above the xy plane, in (−90, 90) degrees.
        azimuth_deg: angle from +x towards +y in degrees.
        distance: from the origin, in world units.

    Returns:
        Matrices whose columns are the camera's right, up and backward axes and its position.
    """
    elevation_deg, azimuth_deg, distance = torch.broadcast_tensors(elevation_deg, azimuth_deg, distance)
    elevation, azimuth = torch.deg2rad(elevation_deg), torch.deg2rad(azimuth_deg)
    sin_e, cos_e, sin_a, cos_a = elevation.sin(), elevation.cos(), azimuth.sin(), azimuth.cos()
    zero = torch.zeros_like(sin_e)
    backward = torch.stack([cos_e * cos_a, cos_e * sin_a, sin_e], dim=-1)
    right = torch.stack([-sin_a, cos_a, zero], dim=-1)
    up = torch.stack([-sin_e * cos_a, -sin_e * sin_a, cos_e], dim=-1)
    position = backward * distance[..., None]
    top = torch.stack([right, up, backward, position], dim=-1)  # (*batch, 3, 4)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def framing_distance(
    half_extent: Float[Tensor, "*batch"] | float, fov_y_deg: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Distance at which the frame's half height at the origin is `half_extent` world units (MVDream's relative distance)."""
    return half_extent / torch.tan(torch.deg2rad(fov_y_deg) / 2)


def camera_condition(camera_to_world: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 16"]:
    """The 16 numbers the diffusion model is told about a camera (paper §3.2; MVDream).

    The camera-to-world matrix with its translation scaled to the unit sphere, flattened row by row; so neither
    distance nor field of view is conditioned on. A camera at the origin keeps its zero translation.
    """
    translation = torch.nn.functional.normalize(camera_to_world[..., :3, 3], dim=-1)
    top = torch.cat([camera_to_world[..., :3, :3], translation[..., None]], dim=-1)
    return torch.cat([top, camera_to_world[..., 3:, :]], dim=-2).flatten(-2)


def rays(
    camera_to_world: Float[Tensor, "*batch 4 4"], fov_y_deg: Float[Tensor, "*batch"], height: int, width: int
) -> tuple[Float[Tensor, "*batch {height} {width} 3"], Float[Tensor, "*batch {height} {width} 3"]]:
    """Origins and unit directions, in world space, of the rays through all pixel centres."""
    dtype, device = camera_to_world.dtype, camera_to_world.device
    half = torch.tan(torch.deg2rad(fov_y_deg) / 2)[..., None, None]
    x = ((torch.arange(width, dtype=dtype, device=device) + 0.5) * 2 - width) / height
    y = (height - (torch.arange(height, dtype=dtype, device=device) + 0.5) * 2) / height
    y, x = torch.meshgrid(y, x, indexing="ij")
    directions = torch.stack([x * half, y * half, -torch.ones_like(x).expand_as(x * half)], dim=-1)
    directions = torch.einsum("...ij,...hwj->...hwi", camera_to_world[..., :3, :3], directions)
    origins = camera_to_world[..., None, None, :3, 3].expand_as(directions)
    return origins, torch.nn.functional.normalize(directions, dim=-1)


def project(
    points: Float[Tensor, "*batch point 3"],
    camera_to_world: Float[Tensor, "*batch 4 4"],
    fov_y_deg: Float[Tensor, "*batch"],
    height: int,
    width: int,
) -> tuple[Float[Tensor, "*batch point 2"], Float[Tensor, "*batch point"]]:
    """World points -> (x, y) in pixels (0, 0 is the top left corner of the frame) and depth along the view axis.

    Points behind the camera have negative depth and meaningless pixels.
    """
    rotation, position = camera_to_world[..., :3, :3], camera_to_world[..., :3, 3]
    local = torch.einsum("...ji,...nj->...ni", rotation, points - position[..., None, :])
    depth = -local[..., 2]
    focal_px = height / 2 / torch.tan(torch.deg2rad(fov_y_deg) / 2)[..., None]
    x = width / 2 + focal_px * local[..., 0] / depth
    y = height / 2 - focal_px * local[..., 1] / depth
    return torch.stack([x, y], dim=-1), depth


def view_name(azimuth_deg: float) -> str:
    """The nearest canonical side's name with the angle when it is not exact: 'front', 'left', 'front+30°'."""
    nearest = round(azimuth_deg / 90) % 4
    offset = (azimuth_deg - nearest * 90 + 180) % 360 - 180
    return VIEW_NAMES[nearest] + (f"{offset:+.0f}°" if abs(offset) >= 0.5 else "")


def check_angles(elevation_deg: float | Sequence[float], fov_y_deg: float | Sequence[float] = 45.0) -> None:
    """Raise ValueError unless elevation is in (−90, 90) and field of view in (0, 180) degrees."""
    for name, values, low, high in (
        ("elevation_deg", elevation_deg, -90, 90),
        ("fov_y_deg", fov_y_deg, 0, 180),
    ):
        for value in values if isinstance(values, Sequence) else [values]:
            if not (math.isfinite(value) and low < value < high):
                raise ValueError(f"{name} is {value}, must lie between {low} and {high} degrees (exclusive)")


def camera_angles(
    azimuths_deg: Sequence[float], elevation_deg: float | Sequence[float]
) -> tuple[Float[Tensor, " view"], Float[Tensor, " view"]]:
    """Azimuth and elevation of each camera in degrees; a single elevation is that of all.

    Raises:
        ValueError: no camera, angles that are none, or not as many elevations as azimuths.
    """
    azimuths = torch.tensor([float(azimuth) for azimuth in azimuths_deg])
    if not len(azimuths) or not azimuths.isfinite().all():
        raise ValueError(f"azimuths are {list(azimuths_deg)}, must be angles in degrees, at least one")
    elevations = elevation_deg if isinstance(elevation_deg, Sequence) else [elevation_deg] * len(azimuths)
    check_angles(elevations)
    if len(elevations) != len(azimuths):
        raise ValueError(
            f"{len(elevations)} elevations for {len(azimuths)} cameras, must be one for all or one for each"
        )
    return azimuths, torch.tensor([float(elevation) for elevation in elevations])
