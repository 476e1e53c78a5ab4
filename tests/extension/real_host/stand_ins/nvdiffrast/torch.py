"""Stand-in for nvdiffrast on a machine without CUDA: slow, few triangles, and edges are not smoothed."""

import torch

_PAIRS = 2**22


class RasterizeGLContext:
    def __init__(self, device=None):
        pass


class RasterizeCudaContext(RasterizeGLContext):
    pass


def _barycentric(pixels, corners):
    """Perspective-correct coordinates of pixels (pixel, 2) in triangles (pixel, 3, xyzw): x, y and w are linear in them."""
    matrix = corners[..., [0, 1, 3]]
    target = torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1)
    a, b, c = matrix.unbind(-2)
    areas = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], -2)
    shares = (areas * target[:, None]).sum(-1)
    return shares / shares.sum(-1, keepdim=True)


def rasterize(ctx, pos, tri, resolution, grad_db=True):
    """(batch, height, width, [u, v, z/w, triangle + 1]), 0 where there is none; row 0 is at y = −1."""
    height, width = resolution
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 2 - 1,
        (torch.arange(width) + 0.5) / width * 2 - 1,
        indexing="ij",
    )
    pixels = torch.stack([x, y], -1).reshape(-1, 2)
    views = [_rasterize_view(corners[tri.long()], pixels).reshape(height, width, 4) for corners in pos]
    return torch.stack(views), torch.zeros(len(pos), height, width, 4)


def _rasterize_view(corners, pixels):
    winner = torch.full((len(pixels),), -1)
    nearest = torch.full((len(pixels),), float("inf"))
    with torch.no_grad():
        projected = corners[..., :2] / corners[..., 3:]
        first, last = projected.amin(1), projected.amax(1)
        for begin in range(0, len(pixels), max(1, _PAIRS // len(corners))):
            part = slice(begin, begin + max(1, _PAIRS // len(corners)))
            inside = ((pixels[part, None] >= first) & (pixels[part, None] <= last)).all(-1)
            pixel, face = inside.nonzero(as_tuple=True)
            share = _barycentric(pixels[part][pixel], corners[face])
            hit = (share >= 0).all(-1)
            pixel, face, share = pixel[hit] + begin, face[hit], share[hit]
            place = (share[..., None] * corners[face]).sum(1)
            depth = place[:, 2] / place[:, 3]
            nearest = nearest.scatter_reduce(0, pixel, depth, "amin")
            front = depth == nearest[pixel]
            winner[pixel[front]] = face[front]
    hit = winner >= 0
    share = _barycentric(pixels[hit], corners[winner[hit]])
    values = torch.cat([share[:, :2], nearest[hit, None], winner[hit, None] + 1.0], -1)
    return torch.zeros(len(pixels), 4).index_put((hit,), values)


def interpolate(attr, rast, tri, rast_db=None, diff_attrs=None):
    u, v, _, number = rast.unbind(-1)
    share = torch.stack([u, v, 1 - u - v], -1)
    corners = tri.long()[(number.long() - 1).clamp(min=0)]
    batch = torch.arange(len(rast))[:, None, None, None].expand_as(corners) if len(attr) > 1 else 0
    mean = (attr[batch, corners] * share[..., None]).sum(-2)
    return mean * (number > 0)[..., None], None


def antialias(color, rast, pos, tri):
    return color
