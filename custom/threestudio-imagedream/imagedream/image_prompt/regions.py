"""Sets of pixels: grown, flooded, without their small pieces."""

import cv2
import numpy as np
from jaxtyping import Bool
from numpy import ndarray

Pixels = Bool[ndarray, "height width"]


def grown(pixels: Pixels, by: int) -> Pixels:
    """These and all within `by` pixels of them, in a square."""
    return cv2.dilate(pixels.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def reached(passable: Pixels, start: Pixels | None = None) -> Pixels:
    """The connected pieces of `passable` that have a pixel of `start`, or of the picture's border."""
    if start is None:
        start = np.ones_like(passable)
        start[1:-1, 1:-1] = False
    _, pieces = cv2.connectedComponents(passable.astype(np.uint8), connectivity=4)
    return np.isin(pieces, np.unique(pieces[start & passable])) & passable


def box_of(pixels: Pixels) -> tuple[slice, slice]:
    """Rows and columns from the first to the last pixel."""
    lines = (np.flatnonzero(pixels.any(axis)) for axis in (1, 0))
    return tuple(slice(int(line[0]), int(line[-1]) + 1) for line in lines)


def small_pieces(pixels: Pixels, fraction: float, of_picture: float = 0.05) -> Pixels:
    """The connected pieces smaller than `fraction` of the largest (or of `of_picture` of the picture, if that is more)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros_like(pixels)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < fraction * max(areas[1:].max(), pixels.size * of_picture)
    small[0] = False  # what is not in `pixels`
    return small[labels]
