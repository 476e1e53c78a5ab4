"""Cutting the object out of an opaque picture, with what is on this machine: rembg, else OpenCV's GrabCut."""

import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

logger = logging.getLogger(__name__)

REMBG_MODELS = ("isnet-general-use", "u2net", "u2netp")
"""Models of rembg that may be used freely, best first."""

_CUT_SIDE = 512  # px; GrabCut works on this, its time grows with the area
_PLAIN_SPREAD = 10.0  # Lab units; how much a background may vary around a smooth gradient to be called plain


def remove_background(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[str, UInt8[ndarray, "height width 4"], tuple[str, ...]]:
    """The object in a picture without transparency.

    Returns:
        The method ("rembg" or "grabcut"), the picture with straight alpha, and sentences about what makes the cut
        doubtful. Alpha is 0 everywhere when nothing stands out.
    """
    method, alpha, doubts = "rembg", _rembg_alpha(rgb), ()
    if alpha is None:
        method = "grabcut"
        alpha, spread = _grabcut_alpha(rgb)
        if spread > _PLAIN_SPREAD:
            doubts = (
                "the background is not plain, so where the object ends is a guess; "
                "better give a picture with transparent background, or a mask",
            )
    return method, np.dstack([clean_edges(rgb, alpha), alpha]), doubts


def clean_edges(
    rgb: UInt8[ndarray, "height width 3"], alpha: UInt8[ndarray, "height width"]
) -> UInt8[ndarray, "height width 3"]:
    """Give the half-transparent rim the colours of the object beside it: its own are mixed with the old background."""
    inside = cv2.erode((alpha > 250).astype(np.float32), np.ones((3, 3), np.uint8), borderValue=1.0)
    sigma = max(1.5, 0.006 * max(alpha.shape))
    weight = cv2.GaussianBlur(inside, (0, 0), sigma)[..., None]
    spread = cv2.GaussianBlur(rgb * inside[..., None], (0, 0), sigma) / np.maximum(weight, 1e-6)
    replace = (inside[..., None] == 0) & (weight > 1e-3)
    return np.where(replace, spread.round().clip(0, 255).astype(np.uint8), rgb)


def _rembg_alpha(rgb: UInt8[ndarray, "height width 3"]) -> UInt8[ndarray, "height width"] | None:
    """Alpha by rembg, or None when it or its model file is not on this machine; nothing is ever downloaded."""
    if not all(importlib.util.find_spec(name) for name in ("rembg", "onnxruntime")):
        return None
    home = os.environ.get("U2NET_HOME", os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net"))
    folder = Path(home).expanduser()
    models = [name for name in REMBG_MODELS if (folder / f"{name}.onnx").is_file()]
    if not models:
        logger.info("rembg is installed, but none of its model files is in %s", folder)
        return None
    try:
        with _no_download():
            import rembg

            mask = rembg.remove(
                PIL.Image.fromarray(rgb), session=rembg.new_session(models[0]), only_mask=True
            )
        return np.asarray(mask.convert("L"))
    except (Exception, SystemExit) as error:  # rembg leaves the process when its runtime does not load
        logger.warning("rembg failed (%s)", error)
        return None


@contextmanager
def _no_download() -> Iterator[None]:
    """Keep rembg from fetching a model file anew because its checksum is not the expected one."""
    name = "MODEL_CHECKSUM_DISABLED"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _grabcut_alpha(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[UInt8[ndarray, "height width"], float]:
    """Alpha by GrabCut, told from the border's colours what background looks like; and how much the border varies."""
    height, width = rgb.shape[:2]
    reduction = min(1.0, _CUT_SIDE / max(height, width))
    cut_size = (max(1, round(width * reduction)), max(1, round(height * reduction)))
    small = np.ascontiguousarray(cv2.resize(rgb, cut_size, interpolation=cv2.INTER_AREA))
    distance, spread = _border_distance(small)
    labels = _plain_seeds(distance) if spread <= _PLAIN_SPREAD else _frame_seeds(*small.shape[:2])
    if labels is None:
        return np.zeros((height, width), np.uint8), spread
    if len(np.unique(_is_object(labels))) == 2:  # GrabCut needs examples of both
        cv2.setRNGSeed(0)  # it starts from a random clustering
        background_model, object_model = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, labels, None, background_model, object_model, 4, cv2.GC_INIT_WITH_MASK)
    found = _is_object(labels)
    found &= ~_small_pieces(found, 0.01)  # crumbs of noise
    found |= _small_pieces(~found, 0.0005)  # pinholes

    # The cut runs between pixels: soften it at the full resolution, inwards, so that no rim of background is left.
    alpha = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.7 / reduction)
    return (np.clip((alpha - 0.5) * 2, 0, 1) * 255).round().astype(np.uint8), spread


def _plain_seeds(distance: Float[ndarray, "height width"]) -> UInt8[ndarray, "height width"] | None:
    """GrabCut's labels to start from on a plain background; None where nothing stands out: it would make something up."""
    if (distance > 4).mean() < 1e-4:
        return None
    # Background for sure: looks like the border and hangs together with it, or is a large hole in the object (small
    # ones are highlights of a pale object). Object for sure: the core of what looks different.
    alike = distance < 2
    flooded = np.pad(alike.astype(np.uint8), 1, constant_values=1)
    cv2.floodFill(flooded, None, (0, 0), 2)
    outside = flooded[1:-1, 1:-1] == 2
    enclosed = alike & ~outside
    core = cv2.erode((distance > 6).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    labels = np.where(distance > 4, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[enclosed] = np.where(_small_pieces(enclosed, 0.02), cv2.GC_PR_FGD, cv2.GC_BGD)[enclosed]
    labels[core] = cv2.GC_FGD
    labels[outside] = cv2.GC_BGD
    return labels


def _frame_seeds(height: int, width: int) -> UInt8[ndarray, "height width"]:
    """Labels for a background that is not plain: it is what the frame's rim shows, the rest may be the object."""
    labels = np.full((height, width), cv2.GC_BGD, np.uint8)
    y, x = max(1, height // 20), max(1, width // 20)
    labels[y:-y, x:-x] = cv2.GC_PR_FGD
    return labels


def _border_distance(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[Float[ndarray, "height width"], float]:
    """How unlike the border's colours each pixel is, as a multiple of how much the border varies; and that, in Lab units.

    The border's colours are fitted by a quadratic surface over the picture, so gradients and soft vignettes are
    background; repeatedly, without those border pixels that turn out to belong to an object.
    """
    height, width = rgb.shape[:2]
    lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    x, y = x.ravel(), y.ravel()
    basis = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)
    border = np.maximum(abs(x), abs(y)) > 0.95
    chosen = border
    for _ in range(3):
        surface, *_ = np.linalg.lstsq(basis[chosen], lab[chosen], rcond=None)
        residual = np.linalg.norm(lab - basis @ surface, axis=-1)
        spread = max(1.5, 1.48 * float(np.median(residual[border])))
        chosen = border & (residual < 3 * spread)
        if chosen.sum() < 0.2 * border.sum():
            break
    return (residual / spread).reshape(height, width), spread


def _is_object(labels: UInt8[ndarray, "height width"]) -> Bool[ndarray, "height width"]:
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _small_pieces(pixels: Bool[ndarray, "height width"], fraction: float) -> Bool[ndarray, "height width"]:
    """The connected pieces of `pixels` smaller than `fraction` of the largest (or of 5 % of the picture, if that is more)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(pixels)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < fraction * max(areas[1:].max(), pixels.size * 0.05)
    small[0] = False  # what is not in `pixels`
    return small[labels]
