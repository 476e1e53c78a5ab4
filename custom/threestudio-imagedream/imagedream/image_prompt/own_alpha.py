"""What a picture's own transparency tells: whether it cuts an object out, and what in it is no part of one."""

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imagedream.image_prompt.regions import Pixels, box_of, grown, reached, small_pieces

VISIBLE_ALPHA = 0.05
"""From this opacity on a pixel counts as part of the object."""

SPECK = 0.0025
"""Pieces smaller than this part of the largest are specks."""


def visible(alpha: UInt8[ndarray, "height width"]) -> Pixels:
    """What counts as part of the object."""
    return alpha > VISIBLE_ALPHA * 255


def outline_shape(alpha: UInt8[ndarray, "height width"]) -> str:
    """The plain shape that is not transparent: "rectangle" (rounded or not) or "ellipse"; or "object" where it is none."""
    solid = visible(alpha) & (alpha > alpha.max() / 2)
    if solid.all():
        return "rectangle"
    inner = solid[box_of(solid & ~small_pieces(solid, SPECK, 0.0))]
    outside = reached(np.pad(~inner, 1, constant_values=True))[1:-1, 1:-1]
    # corners of this radius, in pixels, leave out as much
    radius = min((outside.sum() / (4 - np.pi)) ** 0.5, 0.4 * min(inner.shape))
    y, x = (abs(np.linspace(-side / 2, side / 2, side)) - side / 2 + radius for side in inner.shape)
    corners = np.hypot(y.clip(0)[:, None], x.clip(0)) > radius
    if outside.mean() < 0.08 or (outside == corners).mean() > 0.97:
        return "rectangle"
    y, x = (np.linspace(-1, 1, side) for side in inner.shape)
    return "ellipse" if (outside == (y[:, None] ** 2 + x**2 > 1)).mean() > 0.97 else "object"


def without_specks(alpha: UInt8[ndarray, "height width"]) -> tuple[UInt8[ndarray, "height width"], list[str]]:
    """Alpha without specks, and what is to be said about it."""
    specks = small_pieces(visible(alpha), SPECK, 0.0)
    if not specks.any():
        return alpha, []
    return np.where(grown(specks, 1) & ~(visible(alpha) & ~specks), 0, alpha), [
        f"specks of {specks.sum()} pixels were left out"
    ]


def fully_opaque(
    rgba: UInt8[ndarray, "height width 4"],
) -> tuple[UInt8[ndarray, "height width 4"], list[str]]:
    """The picture with its most opaque pixel opaque, as where a layer was saved half transparent."""
    most = int(rgba[..., 3].max())
    if not VISIBLE_ALPHA * 255 < most < 250:
        return rgba, []
    rgba = np.dstack([rgba[..., :3], (rgba[..., 3] * (255 / most)).round().astype(np.uint8)])
    return rgba, [
        f"no part of the picture is more than {most / 255:.0%} opaque; all were made more so, up to 100%"
    ]


def without_shadow(
    rgba: UInt8[ndarray, "height width 4"],
) -> tuple[UInt8[ndarray, "height width 4"], list[str]]:
    """The picture without a shadow or veil in its alpha: wide, half-transparent, dark or hardly there, around the object.

    Where the rim of the object lies on a shadow, `1 - alpha = (1 - object) (1 - shadow)` is solved for the object.
    """
    alpha = rgba[..., 3].astype(np.float32) / 255
    solid = alpha > 0.75
    if solid.sum() < 0.25 * (alpha > VISIBLE_ALPHA).sum():
        return rgba, []  # the object itself is half transparent
    faint = reached(~solid) & (alpha > 0) & ((rgba[..., :3].max(-1) < 80) | (alpha < 0.15)) & ~grown(solid, 2)
    wide = max(2, round(0.004 * max(alpha.shape)))
    core = ~grown(~faint, wide)
    shadow = reached(faint, core)
    if shadow.mean() < 0.005:
        return rgba, []
    behind = cv2.dilate(np.where(shadow, alpha, 0), np.ones((9, 9), np.uint8))
    own = np.where(shadow, 0, ((alpha - behind) / np.maximum(1 - behind, 1e-3)).clip(0, 1))
    rgba = np.dstack([rgba[..., :3], (own * 255).round().astype(np.uint8)])
    return rgba, [
        f"a faint area around the object, a shadow or a veil, was left out ({shadow.mean():.0%} of the picture)"
    ]
