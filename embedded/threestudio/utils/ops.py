"""Small functions on tensors: activations, rays and matrices of cameras, chunked evaluation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

ValidScale = tuple[float, float] | Float[Tensor, "2 D"]


def dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def scale_tensor(dat: Tensor, inp_scale: ValidScale | None, tgt_scale: ValidScale | None) -> Tensor:
    """The affine map that takes `inp_scale` to `tgt_scale`; None stands for (0, 1)."""
    inp_scale = (0, 1) if inp_scale is None else inp_scale
    tgt_scale = (0, 1) if tgt_scale is None else tgt_scale
    fraction = (dat - inp_scale[0]) / (inp_scale[1] - inp_scale[0])
    return fraction * (tgt_scale[1] - tgt_scale[0]) + tgt_scale[0]


class _TruncatedExponential(torch.autograd.Function):
    """`exp` whose gradient stops growing at exp(15)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.exp(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.exp(torch.clamp(x, max=15))


trunc_exp = _TruncatedExponential.apply


_activations: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "exp": torch.exp,
    "sigmoid": torch.sigmoid,
    "trunc_exp": trunc_exp,
    "shifted_trunc_exp": lambda x: trunc_exp(x - 1.0),
    "shifted_softplus": lambda x: F.softplus(x - 1.0),
}


def get_activation(name: str | None) -> Callable[[Tensor], Tensor]:
    """An activation by name: ours, or any function of `torch.nn.functional`."""
    key = "none" if name is None else name.lower()
    if key in _activations:
        return _activations[key]
    function = getattr(F, key, None)
    if not callable(function):
        raise ValueError(
            f"unknown activation {name!r}; known: {', '.join(_activations)} and the functions of torch.nn.functional; "
            "the rest is threestudio's"
        )
    return function


def chunk_batch(func: Callable, chunk_size: int, *args: Any, **kwargs: Any) -> Any:
    """`func` on pieces of at most `chunk_size` along the first axis of every tensor argument.

    Args:
        func: returns a tensor, a tuple, list or dict of tensors (or None in them), or None.
        chunk_size: 0 or less means all at once.
        *args: arguments of `func`.
        **kwargs: arguments of `func`.

    Returns:
        What `func` returns for all at once; detached when gradients are off.
    """
    if chunk_size <= 0:
        return func(*args, **kwargs)
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    if not tensors:
        raise ValueError("chunk_batch needs at least one tensor argument")
    outputs = []
    for begin in range(0, max(1, tensors[0].shape[0]), chunk_size):

        def piece(a: Any, begin: int = begin) -> Any:
            return a[begin : begin + chunk_size] if isinstance(a, Tensor) else a

        outputs.append(func(*map(piece, args), **{key: piece(value) for key, value in kwargs.items()}))
    return _joined(outputs)


def _joined(values: list) -> Any:
    """One tensor, or one dict, tuple or list of tensors, of those of the pieces."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, dict):
        return {key: _joined([value[key] for value in values]) for key in first}
    if isinstance(first, tuple | list):
        return type(first)(_joined(list(column)) for column in zip(*values, strict=True))
    joined = torch.cat(values)
    return joined if torch.is_grad_enabled() else joined.detach()


# ------------------------------------------------------------------------------------------------------- cameras


def get_ray_directions(
    H: int, W: int, focal: float | tuple[float, float], principal: tuple[float, float] | None = None
) -> Float[Tensor, "H W 3"]:
    """Directions through the middles of all pixels in camera space (x right, y up, looking down −z); z is −1."""
    fx, fy = (focal, focal) if isinstance(focal, int | float) else focal
    cx, cy = (W / 2, H / 2) if principal is None else principal
    j, i = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    return torch.stack([(i - cx) / fx, -(j - cy) / fy, -torch.ones_like(i)], -1)


def get_rays(
    directions: Float[Tensor, "... 3"],
    c2w: Float[Tensor, "... 4 4"],
    keepdim: bool = False,
    normalize: bool = True,
) -> tuple[Float[Tensor, "... 3"], Float[Tensor, "... 3"]]:
    """Origins and world directions of rays.

    Args:
        directions: (N, 3) one per camera or all of one camera; (H, W, 3) shared by all cameras; or (B, H, W, 3).
        c2w: (4, 4) or (B, 4, 4) camera-to-world.
        keepdim: keep the directions' axes; otherwise the result is (rays, 3).
        normalize: make the directions unit vectors.
    """
    if directions.ndim not in (2, 3, 4):
        raise ValueError(f"directions must be (N,3), (H,W,3) or (B,H,W,3), got {tuple(directions.shape)}")
    if directions.ndim in (2, 4) and c2w.ndim == 2:
        c2w = c2w[None]
    if directions.ndim > 2:
        c2w = c2w[..., None, None, :, :]
    rays_d = (directions[..., None, :] * c2w[..., :3, :3]).sum(-1)
    rays_o = c2w[..., :3, 3].expand(rays_d.shape)
    if normalize:
        rays_d = F.normalize(rays_d, dim=-1)
    if not keepdim:
        rays_o, rays_d = rays_o.reshape(-1, 3), rays_d.reshape(-1, 3)
    return rays_o, rays_d


def get_projection_matrix(
    fovy: Float[Tensor, "B"] | float, aspect_wh: float, near: float, far: float
) -> Float[Tensor, "B 4 4"]:
    """OpenGL projections with y flipped (as nvdiffrast wants it); `fovy` in radians."""
    fovy = torch.as_tensor(fovy, dtype=torch.float32)
    tangent = torch.tan(fovy / 2)
    matrix = torch.zeros(*fovy.shape, 4, 4, device=fovy.device)
    matrix[..., 0, 0] = 1.0 / (tangent * aspect_wh)
    matrix[..., 1, 1] = -1.0 / tangent
    matrix[..., 2, 2] = -(far + near) / (far - near)
    matrix[..., 2, 3] = -2.0 * far * near / (far - near)
    matrix[..., 3, 2] = -1.0
    return matrix


def get_mvp_matrix(c2w: Float[Tensor, "B 4 4"], proj_mtx: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 4 4"]:
    """Projection after the inverse of the rigid camera-to-world."""
    rotation = c2w[..., :3, :3].transpose(-1, -2)
    w2c = torch.zeros_like(c2w)
    w2c[..., :3, :3] = rotation
    w2c[..., :3, 3:] = -rotation @ c2w[..., :3, 3:]
    w2c[..., 3, 3] = 1.0
    return proj_mtx @ w2c


# -------------------------------------------------------------------------------------------------------- losses


def binary_cross_entropy(input: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Mean binary cross entropy, written out so that half precision autocast allows it."""
    return -(target * torch.log(input) + (1 - target) * torch.log(1 - input)).mean()


def validate_empty_rays(
    ray_indices: Int[Tensor, "Ns"], t_start: Float[Tensor, "Ns"], t_end: Float[Tensor, "Ns"]
) -> tuple[Int[Tensor, "Ns"], Float[Tensor, "Ns"], Float[Tensor, "Ns"]]:
    """The samples; or, if there are none, one sample of length 0 on ray 0."""
    if ray_indices.nelement() == 0:
        ray_indices, t_start, t_end = ray_indices.new_zeros(1), t_start.new_zeros(1), t_end.new_zeros(1)
    return ray_indices, t_start, t_end
