"""Losses beside the distillation's, of what a renderer gives for a batch of cameras."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from threestudio.utils.ops import binary_cross_entropy, dot


def orientation_loss(out: dict[str, Tensor]) -> Tensor:
    """Surfaces that are seen should not face away (Ref-NeRF): Σ w · max(n · d, 0)² over rays that hit something."""
    if "normal" not in out:
        raise ValueError(
            "lambda_orient needs normals; use a material with requires_normal, or set lambda_orient to 0"
        )
    facing_away = dot(out["normal"], out["t_dirs"]).clamp_min(0) ** 2
    return (out["weights"].detach() * facing_away).sum() / (out["opacity"] > 0).sum().clamp_min(1)


def sparsity_loss(out: dict[str, Tensor]) -> Tensor:
    """Mean √(opacity² + 0.01): space is empty unless something needs it."""
    return (out["opacity"] ** 2 + 0.01).sqrt().mean()


def opaque_loss(out: dict[str, Tensor]) -> Tensor:
    """Entropy of the opacity: a pixel is object or background."""
    opacity = out["opacity"].clamp(1e-3, 1 - 1e-3)
    return binary_cross_entropy(opacity, opacity)


def z_variance_loss(out: dict[str, Tensor]) -> Tensor:
    """Mean variance of depth along rays that hit something (HiFA): surfaces are thin."""
    return (
        out["z_variance"][out["opacity"] > 0.5].mean()
        if (out["opacity"] > 0.5).any()
        else 0 * out["opacity"].sum()
    )


def normal_consistency_loss(out: dict[str, Any]) -> Tensor:
    """Mean 1 − cosine between the normals of neighbouring vertices of the rendered mesh."""
    return _mesh(out).normal_consistency()


def laplacian_smoothness_loss(out: dict[str, Any]) -> Tensor:
    """Uniform Laplacian of the rendered mesh: vertices lie amid their neighbours."""
    return _mesh(out).laplacian()


def _mesh(out: dict[str, Any]) -> Any:
    if "mesh" not in out:
        raise ValueError(
            "lambda_normal_consistency and lambda_laplacian_smoothness need a renderer of meshes, such as "
            "nvdiff-rasterizer; set them to 0"
        )
    return out["mesh"]


REGULARISERS: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "orient": orientation_loss,
    "sparsity": sparsity_loss,
    "opaque": opaque_loss,
    "z_variance": z_variance_loss,
    "normal_consistency": normal_consistency_loss,
    "laplacian_smoothness": laplacian_smoothness_loss,
}
"""`lambda_NAME` in `system.loss` is the weight of each."""
