"""An object that looks different from every side: an arrow towards +x with a fin on its back, as a field."""

import torch


def _box(points, lower, upper):
    lower, upper = torch.tensor(lower), torch.tensor(upper)
    q = (points - (lower + upper) / 2).abs() - (upper - lower) / 2
    return q.clamp_min(0).norm(dim=-1) + q.amax(-1).clamp_max(0)


def distance(points):
    """Signed distance, negative inside: shaft, cone from x = 0.1 to its tip at 0.5, fin upwards at the rear."""
    x, off_axis = points[:, 0], points[:, 1:].norm(dim=-1)
    cone = torch.maximum(torch.maximum(0.1 - x, x - 0.5), (off_axis - 0.75 * (0.5 - x)) * 0.8)
    shaft = _box(points, [-0.5, -0.1, -0.1], [0.15, 0.1, 0.1])
    fin = _box(points, [-0.5, -0.03, 0.0], [-0.3, 0.03, 0.35])
    return torch.minimum(torch.minimum(shaft, cone), fin)


def colour(points):
    """Blue head, green left (+y), red right (−y), yellow top, dark rear, light grey elsewhere."""
    x, y, z = points.unbind(-1)
    result = torch.full((len(points), 3), 0.8)
    for where, rgb in (
        (z > 0.05, [0.9, 0.9, 0.1]),
        (y > 0.05, [0.1, 0.7, 0.1]),
        (y < -0.05, [0.8, 0.1, 0.1]),
        (x > 0.05, [0.1, 0.2, 0.9]),
        (x < -0.44, [0.1, 0.1, 0.1]),
    ):
        result[where] = torch.tensor(rgb)
    return result


def density(sharpness=400.0, highest=100.0):
    """Density falling off over about 1 / `sharpness` around the surface."""
    return lambda points: highest * torch.sigmoid(-distance(points) * sharpness)
