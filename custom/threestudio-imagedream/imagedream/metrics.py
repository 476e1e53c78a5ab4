"""Metrics: images against true views, meshes against true meshes, and four views where nobody knows the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, max_pool2d

from imagedream.cameras import framing_distance, look_at_origin, project, rays
from imagedream.pictures import composite

LARGEST_PSNR_DB = 100.0
"""What identical images score, so that means stay finite."""

VISIBLE_DIFFERENCE = 0.08
"""From this difference from the background in any channel on a pixel counts as object (20 of 255)."""

LIKELY_FOV_Y_DEG = 47.5
"""Vertical field of view that views are taken to have: the network is told of none; middle of the paper's [45, 50] (§4)."""

_WHITE = (1.0, 1.0, 1.0)

_HULL_PX = 64
_HULL_SAMPLES = 96
_HULL_REACH = 1.5  # half diagonal of what a frame shows at the origin, in half frames, generously


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
    # it imports torchvision and torch.compile, which takes as long as all else that a worker process needs
    from torchmetrics.functional.image import structural_similarity_index_measure

    similarity = structural_similarity_index_measure(images, targets, data_range=1.0, reduction="none")
    return similarity.reshape(len(images))


def silhouette(
    images: Float[Tensor, "image 3 height width"], background: tuple[float, float, float] = _WHITE
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


def sharpness(
    images: Float[Tensor, "image 3 height width"], targets: Float[Tensor, "image 3 height width"]
) -> Float[Tensor, " image"]:
    """Gradient energy of each image over its target's: below 1 is blurred, above 1 has edges that are not there.

    The energy is the mean squared difference of neighbouring pixels.

    >>> ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    >>> sharpness(ramp / 2, ramp)
    tensor([0.2500])
    """
    energy, wanted = (
        one.diff(dim=-1).square().flatten(1).mean(1) + one.diff(dim=-2).square().flatten(1).mean(1)
        for one in (images, targets)
    )
    return energy / wanted.clamp_min(1e-12)


def image_scores(
    images: Float[Tensor, "view 3 height width"], targets: Float[Tensor, "view 3 height width"]
) -> dict[str, float]:
    """PSNR (dB), SSIM, silhouette IoU and sharpness, means over views on white."""
    return {
        "psnr_db": float(psnr(images, targets).mean()),
        "ssim": float(ssim(images, targets).mean()),
        "iou": float(silhouette_iou(silhouette(images), silhouette(targets)).mean()),
        "sharpness": float(sharpness(images, targets).mean()),
    }


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

    Raises:
        ValueError: a mesh has no faces.
    """
    points = []
    for surface, offset in ((mesh, 0), (target, 1)):
        if not len(surface.faces):
            raise ValueError(
                f"a mesh has no faces ({len(surface.vertices)} vertices), at least one is needed"
            )
        points.append(np.asarray(trimesh.sample.sample_surface(surface, samples, seed=seed * 2 + offset)[0]))
    forth, _ = cKDTree(points[1]).query(points[0])
    back, _ = cKDTree(points[0]).query(points[1])
    return float(forth.mean() + back.mean()) / 2


def hull_agreement(
    silhouettes: Bool[Tensor, "view height width"],
    azimuths_deg: Sequence[float],
    elevation_deg: float | Sequence[float],
    fov_y_deg: float = LIKELY_FOV_Y_DEG,
) -> Float[Tensor, " view"]:
    """Share of each silhouette that the visual hull of all of them still covers.

    The visual hull is the largest object that no silhouette contradicts (Laurentini 1994); seen from the same cameras it
    never covers more than the silhouettes. True views of any object score 1. Where a view shows something that the
    others leave no room for, that part of its silhouette is lost. What is wrong in the same way in all views, or hidden
    inside the silhouettes, is not found.

    A pixel is covered when some point on its ray lies inside all silhouettes, which are widened by one pixel of
    64 × 64 against rounding.

    Args:
        silhouettes: where each view shows the object; square.
        azimuths_deg: of the views' cameras, which look at the origin from distances that show it at one scale.
        elevation_deg: of all cameras, or of each.
        fov_y_deg: vertical field of view of all cameras.

    Returns:
        Values in [0, 1]; 0 for an empty silhouette.

    Raises:
        ValueError: fewer than two views, views that are not square, or not an azimuth for each.
    """
    views, height, width = silhouettes.shape
    if views < 2 or views != len(azimuths_deg) or height != width:
        raise ValueError(
            f"{views} silhouettes of {height} x {width} pixels with {len(azimuths_deg)} azimuths; "
            "needed are two or more square ones with an azimuth each"
        )
    shown = interpolate(silhouettes[:, None].float(), (_HULL_PX, _HULL_PX), mode="area") > 0.5
    widened = max_pool2d(shown.float(), 3, stride=1, padding=1)
    fov = torch.full((views,), float(fov_y_deg))
    # in units of half a frame at the origin, so that the distance follows from the field of view
    distance = framing_distance(1.0, fov)
    poses = look_at_origin(
        torch.tensor(elevation_deg, dtype=torch.float32), torch.tensor(azimuths_deg), distance
    )
    origins, directions = rays(poses, fov, _HULL_PX, _HULL_PX)
    depths = distance[0] + torch.linspace(-_HULL_REACH, _HULL_REACH, _HULL_SAMPLES)
    covered = torch.zeros(views)
    for view in range(views):
        start, along = origins[view][shown[view, 0]], directions[view][shown[view, 0]]
        count = len(start)
        for some in depths.view(-1, 8).T:  # a few points all along each ray, until one is inside
            points = (start[:, None] + some[:, None] * along[:, None]).flatten(0, 1)
            pixels, _ = project(points.expand(views, -1, -1), poses, fov, 2, 2)
            # pixels of a frame of 2 less 1 are [-1, 1] over the frame, as grid_sample counts; outside of it nothing is shown
            inside = grid_sample(widened, pixels[:, None] - 1, mode="nearest", align_corners=False)
            outside = inside.amin(dim=0).view(-1, len(some)).amax(dim=1) == 0
            start, along = start[outside], along[outside]
        if count:
            covered[view] = 1 - len(start) / count
    return covered


@dataclass(frozen=True)
class ViewScores:
    """How good a model's views are where nobody knows the truth; larger is better."""

    clip: float | None
    """Do they show what was asked for? By the model's own encoder; None where it has no joint embedding."""
    hull: float
    """Are they views of one object? Agreement of the silhouettes with their visual hull: mean over the views."""
    view_hull: tuple[float, ...]
    """The same for each view."""

    @property
    def total(self) -> float:
        """What seeds are ranked by: clip · hull, or hull alone."""
        return self.hull * (1.0 if self.clip is None else self.clip)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        hulls = list(self.view_hull)
        return {"score": self.total, "clip": self.clip, "hull": self.hull, "hull_of_each_view": hulls}


def clip_unavailable(encoder: Any) -> str | None:
    """Why an `ImageTextEncoder` gives no CLIP score; None if it does."""
    if not encoder.config.joint_embedding:
        return "this model's encoder has no joint embedding: its published form leaves the projections out"
    if not encoder.reads_images:
        return "this model's encoder has no CLIP image encoder"
    return None


@torch.no_grad()
def score_views(
    encoder: Any,
    output: Any,
    pictures: Sequence[Float[Tensor, "4 _ _"]],
    prompt: str = "",
    background: tuple[float, float, float] = _WHITE,
) -> ViewScores:
    """Score the views that a pipeline made.

    The CLIP score is the cosine between prompt picture and the view most like it, as a picture shows one side and the
    views of the others should differ from it; the mean over several pictures. Without pictures it is the cosine with
    the text, mean over the views.

    Args:
        encoder: `ImageTextEncoder` of the pipeline.
        output: the `ImageDreamOutput` that it returned, of one group, with `output_type="pt"`.
        pictures: RGBA prompts it was given.
        prompt: what it was told.
        background: colour behind the views.
    """
    images = output.images
    shown = silhouette(images.cpu(), background)
    view_hull = (1.0,)  # nothing contradicts a single view
    if len(shown) > 1:
        view_hull = tuple(hull_agreement(shown, output.azimuths_deg, output.elevations_deg).tolist())
    clip = None
    if clip_unavailable(encoder) is None:
        views = encoder.encode_image(images).embedding
        given = [composite(picture, torch.tensor(background)) for picture in pictures]
        wanted = [encoder.encode_image(picture[None].to(images.device)).embedding for picture in given]
        if wanted:
            clip = float((torch.cat(wanted) @ views.T).float().amax(dim=1).mean())
        else:
            clip = float((encoder.embed_text([prompt]) @ views.T).float().mean())
    return ViewScores(clip, sum(view_hull) / len(view_hull), view_hull)


def rank_seeds(
    pipeline: Any,
    seeds: Sequence[int],
    prompts: Sequence[Any],
    prompt: str = "",
    background: tuple[float, float, float] = _WHITE,
    **options: Any,
) -> list[tuple[int, Any, ViewScores]]:
    """The views of several seeds with their scores, the best first.

    Args:
        pipeline: an `ImageDreamPipeline`.
        seeds: of the noise.
        prompts: pictures of the object, as `ImagePrompt`.
        prompt: what the object is.
        background: colour behind the views.
        options: further arguments of the pipeline's call.
    """
    results = []
    for seed in seeds:
        output = pipeline(
            images=prompts,
            prompt=prompt,
            background=background,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **options,
        )
        shown = [picture.rgba for picture in prompts]
        results.append((seed, output, score_views(pipeline.encoder, output, shown, prompt, background)))
    return sorted(results, key=lambda result: -result[2].total)
