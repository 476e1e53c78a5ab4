"""Metrics where the truth is known: images against true views, meshes against true meshes."""

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

LARGEST_PSNR_DB = 100.0
"""What identical images score, so that means stay finite."""

VISIBLE_DIFFERENCE = 0.08
"""From this difference from the background in any channel on a pixel counts as object (20 of 255)."""


def psnr(
    images: Float[Tensor, "image channel height width"], targets: Float[Tensor, "image channel height width"]
) -> Float[Tensor, " image"]:
    """Peak signal-to-noise ratio of each image in dB, −10 log10(mean squared error), for pixels in [0, 1].

    >>> psnr(torch.full((1, 3, 2, 2), 0.6), torch.full((1, 3, 2, 2), 0.5))
    tensor([20.0000])
    """
    error = (images - targets).square().flatten(1).mean(1)
    return (-10 * torch.log10(error.clamp_min(1e-30))).clamp(max=LARGEST_PSNR_DB)


def ssim(
    images: Float[Tensor, "image channel height width"], targets: Float[Tensor, "image channel height width"]
) -> Float[Tensor, " image"]:
    """Structural similarity of each image (Wang et al. 2004: Gaussian window of σ 1.5), for pixels in [0, 1].

    Raises:
        ValueError: images smaller than the 11-pixel window.
    """
    if min(images.shape[-2:]) < 11:
        raise ValueError(
            f"images are {images.shape[-2]} x {images.shape[-1]} pixels, SSIM needs at least 11 x 11"
        )
    similarity = structural_similarity_index_measure(images, targets, data_range=1.0, reduction="none")
    return similarity.reshape(len(images))


def silhouette(
    images: Float[Tensor, "image 3 height width"], background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Bool[Tensor, "image height width"]:
    """Where images on a plain colour show the object: any channel at least `VISIBLE_DIFFERENCE` from it."""
    colour = images.new_tensor(background)[:, None, None]
    return ((images - colour).abs() >= VISIBLE_DIFFERENCE).any(dim=1)


def silhouette_iou(
    shown: Bool[Tensor, "image height width"], true: Bool[Tensor, "image height width"]
) -> Float[Tensor, " image"]:
    """Intersection over union of each pair of silhouettes; 1 where both are empty.

    >>> silhouette_iou(torch.tensor([[[True, True, False]]]), torch.tensor([[[False, True, True]]]))
    tensor([0.3333])
    """
    both, either = (shown & true).flatten(1).sum(1), (shown | true).flatten(1).sum(1)
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both / 1.0))


def chamfer_distance(
    mesh: trimesh.Trimesh, target: trimesh.Trimesh, samples: int = 10_000, seed: int = 0
) -> float:
    """Chamfer distance of two surfaces: mean distance to the nearest point of the other, averaged over both directions.

    Not squared, in world units. Points are drawn evenly over each surface, so identical surfaces score about
    0.5 · sqrt(area / samples), not 0.

    Args:
        mesh: one surface.
        target: the other.
        samples: points on each.
        seed: decides the points.
    """
    from imagedream.mesh.reading import check_mesh  # here, since meshes are checked with these metrics

    points = []
    for surface, offset in ((mesh, 0), (target, 1)):
        check_mesh(surface)
        points.append(np.asarray(trimesh.sample.sample_surface(surface, samples, seed=seed * 2 + offset)[0]))
    forth, _ = cKDTree(points[1]).query(points[0])
    back, _ = cKDTree(points[0]).query(points[1])
    return float(forth.mean() + back.mean()) / 2


def image_scores(
    images: Float[Tensor, "view 3 height width"], targets: Float[Tensor, "view 3 height width"]
) -> dict[str, float]:
    """PSNR (dB), SSIM and silhouette IoU, means over views on white."""
    return {
        "psnr_db": float(psnr(images, targets).mean()),
        "ssim": float(ssim(images, targets).mean()),
        "iou": float(silhouette_iou(silhouette(images), silhouette(targets)).mean()),
    }
