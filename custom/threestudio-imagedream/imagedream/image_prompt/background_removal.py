"""Cutting the object out of an opaque picture, with what is on this machine: rembg, else OpenCV's GrabCut."""

import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from imagedream.image_prompt.regions import box_of, grown, reached, small_pieces

logger = logging.getLogger(__name__)

REMBG_MODELS = {"isnet-general-use": "179 MB", "u2net": "176 MB", "u2netp": "5 MB"}
"""Models of rembg that may be used freely, best first, and their sizes."""

_CUT_SIDE = 512  # px; GrabCut works on this, its time grows with the area
_COARSE_SIDE = 160  # px; where the background is not plain, a first cut works on this
_LEAST_SPREAD = 0.7  # Lab units; JPEG's noise
_PLAIN_SPREAD = 5.0  # Lab units; how much a background that is seen all around may vary around a smooth gradient to be plain


def remove_background(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[str, UInt8[ndarray, "height width 4"], tuple[str, ...]]:
    """The object in a picture without transparency.

    Returns:
        The method ("rembg" or "grabcut"), the picture with straight alpha, and sentences about what makes the cut
        doubtful. Alpha is 0 everywhere when nothing stands out.
    """
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    inner, its_alpha = rgb, alpha
    while (box := _within_bars(inner)) is not None:  # a frame may lie in another
        inner, its_alpha = inner[box], its_alpha[box]
    if inner is not rgb:
        method, its_alpha[:], doubts = _object_alpha(inner)
        doubts.append(
            f"bars of one colour around the picture were cut off: {rgb.shape[1]} x {rgb.shape[0]} "
            f"-> {inner.shape[1]} x {inner.shape[0]} pixels"
        )
    if not alpha.any():
        method, alpha, doubts = _object_alpha(rgb)
    return method, np.dstack([clean_edges(rgb, alpha), alpha]), tuple(doubts)


def _object_alpha(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[str, UInt8[ndarray, "height width"], list[str]]:
    alpha = _rembg_alpha(rgb)
    if alpha is not None:
        return "rembg", alpha, []
    alpha, doubts = _grabcut_alpha(rgb)
    around = _around_small_object(alpha)
    if around is not None:
        closer, closer_doubts = _grabcut_alpha(rgb[around])
        if closer.any():
            alpha, doubts = np.zeros_like(alpha), closer_doubts
            alpha[around] = closer
    return "grabcut", alpha, doubts


def _around_small_object(alpha: UInt8[ndarray, "height width"]) -> tuple[slice, slice] | None:
    """Rows and columns of an object and half its length around it, where GrabCut sees more of it there; else None."""
    found = alpha > 127
    if not found.any() or max(alpha.shape) <= _CUT_SIDE:
        return None
    box = box_of(found)
    margin = max(lines.stop - lines.start for lines in box) // 2 + 8
    around = tuple(slice(max(0, lines.start - margin), lines.stop + margin) for lines in box)
    return around if max(alpha[around].shape) < 0.6 * max(alpha.shape) else None


def _within_bars(rgb: UInt8[ndarray, "height width 3"]) -> tuple[slice, slice] | None:
    """What a letter box, a pillar box or a frame leaves of a picture; None where there is none.

    Bars have one colour and end in a straight edge, along all of which the picture begins.
    """
    corners = rgb[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    colour = np.median(corners, axis=0)
    if abs(corners - colour).max() > 12:
        return None
    differs = abs(rgb - colour).max(axis=-1) > 24
    box, bars = [], []
    for axis in (0, 1):
        share = differs.mean(axis=1 - axis)
        inside = np.flatnonzero(share > 0.5)
        if not len(inside):
            return None
        first, last = inside[0], inside[-1] + 1
        ends = np.r_[share[: max(0, first - 2)], share[last + 2 :]]  # but for the blurred edge
        if ends.size and ends.max() > 0.02:
            return None
        box.append(slice(first, last))
        bars.append((first, len(share) - last))
    if not any(before and after for before, after in bars) or min(differs[tuple(box)].shape) < 8:
        return None
    widths = np.ravel(bars)
    even = np.ptp(widths) <= max(2, 0.1 * widths.max())
    if widths.all() and (widths.max() > 0.2 * min(rgb.shape[:2]) or not (even or colour.max() < 40)):
        return None  # rather a box in front of a plain background
    inner = differs[tuple(box)]
    for axis, pair in enumerate(bars):
        for index, width in zip((1, -2), pair, strict=True):
            if width and inner.take(index, axis).mean() < 0.95:
                return None
    return tuple(box)


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
    """Alpha by rembg, or None where it is not installed or fails; its model is downloaded if none is here."""
    if not all(importlib.util.find_spec(name) for name in ("rembg", "onnxruntime")):
        return None
    try:
        import rembg

        model = next((name for name in REMBG_MODELS if _model_is_here(rembg, name)), None)
        if model is None:
            model, size = next(iter(REMBG_MODELS.items()))
            logger.warning(
                "rembg downloads its model %s (%s) once, from github.com/danielgatis/rembg", model, size
            )
        mask = rembg.remove(PIL.Image.fromarray(rgb), session=rembg.new_session(model), only_mask=True)
        return np.asarray(mask.convert("L"))
    except (Exception, SystemExit) as error:  # rembg leaves the process when its runtime does not load
        logger.warning("rembg failed (%s); OpenCV's GrabCut takes its place", str(error).partition("\n")[0])
        return None


def _model_is_here(rembg: ModuleType, name: str) -> bool:
    """Whether rembg has the model's file, where it keeps them today or where it used to."""
    file = f"{name}.onnx"
    try:
        from rembg.sessions import sessions

        return sessions[name].resolve_existing(file) is not None
    except (ImportError, AttributeError):  # before 2.0.80, and its offshoots that bring a model
        home = os.environ.get("U2NET_HOME", os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net"))
        return (Path(home).expanduser() / file).is_file() or Path(rembg.__file__).with_name(file).is_file()


def _grabcut_alpha(
    rgb: UInt8[ndarray, "height width 3"],
) -> tuple[UInt8[ndarray, "height width"], list[str]]:
    """Alpha by GrabCut, told from the border's colours what background looks like; and what is doubtful about it."""
    height, width = rgb.shape[:2]
    reduction = min(1.0, _CUT_SIDE / max(height, width))
    small = _shrink(rgb, _CUT_SIDE)
    backdrop = _Backdrop.fit(small)
    plain = backdrop.share > 0.4 and backdrop.spread <= _PLAIN_SPREAD * backdrop.share
    if plain:
        labels, doubts = _plain_seeds(backdrop)
    else:
        labels = _coarse_cut(small)
        doubts = [
            "the background is not plain, so where the object ends is a guess; "
            "better give a picture with transparent background, or a mask"
        ]
    if labels is None:
        return np.zeros((height, width), np.uint8), doubts
    found = _grabcut(small, labels, 4)
    found &= ~small_pieces(found, 0.01)  # crumbs of noise
    found |= small_pieces(~found, 0.0005)  # pinholes

    if plain and (share := _even_shade(backdrop, found)) > 0.05:
        doubts.append(
            f"{share:.0%} of what was cut out is the background's colour, evenly darkened: it may be a shadow"
        )
    unseen = _unseen_outline(small, found)
    if unseen > 0.1:
        doubts.append(
            f"{unseen:.0%} of the object's outline shows no edge between it and the background: a guess"
        )
    # The cut runs between pixels: soften it at the full resolution, inwards, so that no rim of background is left.
    alpha = cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(alpha, (0, 0), 0.7 / reduction)
    return (np.clip((alpha - 0.5) * 2, 0, 1) * 255).round().astype(np.uint8), doubts


def _unseen_outline(rgb: UInt8[ndarray, "height width 3"], found: Bool[ndarray, "height width"]) -> float:
    """The part of the outline along which object and background differ by less than one can see."""
    lab = cv2.GaussianBlur(cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), (0, 0), 1.0)
    steepest = cv2.dilate(np.linalg.norm(_slope(lab), axis=-1), np.ones((3, 3), np.uint8))
    outline = found & grown(~found, 1)
    return float((steepest[outline] < 2.5).mean()) if outline.any() else 0.0


def _slope(values: Float[ndarray, "height width *channel"]) -> Float[ndarray, "height width *channel"]:
    """By how much they change from pixel to pixel."""
    return np.hypot(cv2.Sobel(values, -1, 1, 0, scale=1 / 8), cv2.Sobel(values, -1, 0, 1, scale=1 / 8))


def _shrink(rgb: UInt8[ndarray, "height width 3"], side: int) -> UInt8[ndarray, "small_height small_width 3"]:
    reduction = min(1.0, side / max(rgb.shape))
    size = tuple(max(1, round(length * reduction)) for length in rgb.shape[1::-1])
    return np.ascontiguousarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA))


def _grabcut(
    rgb: UInt8[ndarray, "height width 3"], labels: UInt8[ndarray, "height width"], rounds: int
) -> Bool[ndarray, "height width"]:
    if len(np.unique(_is_object(labels))) == 2:  # GrabCut needs examples of both
        cv2.setRNGSeed(0)  # it starts from a random clustering
        background_model, object_model = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(rgb, labels, None, background_model, object_model, rounds, cv2.GC_INIT_WITH_MASK)
    return _is_object(labels)


def _coarse_cut(rgb: UInt8[ndarray, "height width 3"]) -> UInt8[ndarray, "height width"]:
    """Labels where the background is not plain: it is what the frame's rim shows; cut coarsely, the outline left open.

    GrabCut takes minutes where much is left open at full size and colours are flat.
    """
    height, width = rgb.shape[:2]
    small = _shrink(rgb, _COARSE_SIDE)
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    y, x = (max(1, side // 20) for side in labels.shape)
    labels[y:-y, x:-x] = cv2.GC_PR_FGD
    found = cv2.resize(
        _grabcut(small, labels, 4).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR
    )
    kernel = np.ones((3, 3), np.uint8)
    band = max(2, round(2.5 * max(height, width) / max(small.shape)))
    sure = cv2.erode(found, kernel, iterations=band), cv2.dilate(found, kernel, iterations=band)
    labels = np.where(found > 0, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[sure[0] > 0] = cv2.GC_FGD
    labels[sure[1] == 0] = cv2.GC_BGD
    return labels


@dataclass(frozen=True)
class _Backdrop:
    """What the background looks like: a smooth surface of colours, fitted to what the picture's border shows."""

    residual: Float[ndarray, "height width 3"]
    """Lab colours less the backdrop's."""
    surface: Float[ndarray, "height width 3"]
    """Lab colours of the backdrop."""
    spread: float
    """How much the backdrop varies around the surface, in Lab units."""
    share: float
    """The part of the border that shows it."""

    @classmethod
    def fit(cls, rgb: UInt8[ndarray, "height width 3"]) -> "_Backdrop":
        """The quadratic surface that most of the border follows most closely.

        A surface, so that gradients and soft vignettes are background. Started from the whole border, from each side
        and from each corner, as the object may touch the border anywhere; repeatedly, without the pixels that do not fit.
        """
        height, width = rgb.shape[:2]
        lab = cv2.cvtColor(rgb.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        x, y = x.ravel(), y.ravel()
        basis = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)
        border = np.flatnonzero(np.maximum(abs(x), abs(y)) > 0.95)
        colours, terms = lab[border], basis[border]
        sides = [x[border] < -0.95, x[border] > 0.95, y[border] < -0.95, y[border] > 0.95]
        corners = [abs(x[border] - i) + abs(y[border] - j) < 0.3 for i in (-1, 1) for j in (-1, 1)]
        best = (0.0, None, 0.0, 0.0)
        for chosen in [np.ones(len(border), bool), *sides, *corners]:
            if not chosen.any():
                continue  # a line of pixels has no other side
            for _ in range(5):
                fitted = _fit_smoothly(terms[chosen], colours[chosen])
                distance = np.linalg.norm(colours - terms @ fitted, axis=-1)
                spread = max(_LEAST_SPREAD, 1.48 * float(np.median(distance[chosen])))
                chosen = distance < 3 * spread
            # a gradient between two things at the border is not seen in between
            everywhere = np.linalg.norm(lab[::7] - basis[::7] @ fitted, axis=-1) < 3 * spread
            share = float(chosen.mean())
            score = (share + float(everywhere.mean())) / (spread + 2)
            best = max(best, (score, fitted, spread, share), key=lambda one: one[0])
        _, fitted, spread, share = best
        surface = (basis @ fitted).astype(np.float32)
        shape = (height, width, 3)
        return cls((lab - surface).reshape(shape), surface.reshape(shape), spread, share)


def _fit_smoothly(
    terms: Float[ndarray, "pixel 6"], colours: Float[ndarray, "pixel 3"]
) -> Float[ndarray, "6 3"]:
    """Least squares that prefer a constant where the pixels, all on one side, do not say how the colour goes on."""
    penalty = 1e-3 * np.diag([0.0, 1, 1, 1, 1, 1])
    return np.linalg.lstsq(
        terms.T @ terms / len(terms) + penalty, terms.T @ colours / len(terms), rcond=None
    )[0]


def _plain_seeds(backdrop: _Backdrop) -> tuple[UInt8[ndarray, "height width"] | None, list[str]]:
    """GrabCut's labels to start from on a plain background; None where nothing stands out: it would make something up.

    Background for sure: looks like the border and hangs together with it, be it in the shade. Object for sure: the core of
    what looks different.
    """
    doubts = []
    distance = np.linalg.norm(backdrop.residual, axis=-1) / backdrop.spread
    standing_out = distance > 4
    if standing_out.mean() < 1e-4:
        return None, doubts
    alike = distance < 2
    outside = reached(alike)
    holes, pale = _enclosed(backdrop, distance, outside)
    outside |= holes
    for sharpness in (0.27, 0.0):
        shaded = _shaded(backdrop, outside, sharpness)
        if shaded.sum() <= 0.8 * standing_out.sum():
            break  # otherwise it ran over into a grey object
    else:
        shaded[:] = False
    in_shade = (shaded & standing_out).sum() > 0.03 * standing_out.sum()
    core = distance > (6 if in_shade else 4)  # the rim of a shadow stands out a little too
    core = cv2.erode(core.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    labels = np.where(standing_out, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[core | pale] = cv2.GC_FGD
    labels[outside | shaded] = cv2.GC_BGD
    if backdrop.share < 0.7:
        doubts.append(
            f"only {backdrop.share:.0%} of the picture's border shows one plain background; what else it shows is taken for the object"
        )
    if holes.any():
        doubts.append(
            f"{holes.mean():.1%} of the picture looks like the background but lies within the object: taken for holes; "
            "if they are parts of it, give a picture with transparent background, or a mask"
        )
    if in_shade:
        doubts.append("what looks like a shadow on the background was left out")
    return labels, doubts


def _enclosed(
    backdrop: _Backdrop, distance: Float[ndarray, "height width"], outside: Bool[ndarray, "height width"]
) -> tuple[Bool[ndarray, "height width"], Bool[ndarray, "height width"]]:
    """Areas within the object that look like the background: holes in it, and its own pale parts.

    A hole shows the very colour of the background, and is no mere highlight; pale parts have their own shading.
    """
    holes, pale = np.zeros_like(outside), np.zeros_like(outside)
    inside = ((distance < 6) & ~outside).astype(np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=8)
    share = stats[:, cv2.CC_STAT_AREA] / max(1, (~outside).sum())
    at_rim = np.bincount(pieces[grown(outside, 1)], minlength=count) > 0
    lightness, *colour = np.median(backdrop.surface, axis=(0, 1))
    least = (
        0.005 if lightness > 85 and np.hypot(*colour) < 20 else 0.001
    )  # small and white: an eye, a highlight
    for piece in 1 + np.flatnonzero((share > 0.0005)[1:] & ~at_rim[1:]):
        left, top, width, height = stats[piece, :4]
        box = slice(top, top + height), slice(left, left + width)
        pixels = pieces[box] == piece
        own = np.linalg.norm(np.median(backdrop.residual[box][pixels], axis=0))
        (holes if own < 0.8 * backdrop.spread and share[piece] > least else pale)[box][pixels] = True
    return holes & (distance < 2), pale


def _shaded(
    backdrop: _Backdrop, outside: Bool[ndarray, "height width"], sharpness: float
) -> Bool[ndarray, "height width"]:
    """Shadows on the background: its hue, only darker, and reached from it without crossing an edge.

    The edge of a dark shadow is steep, but wide: less than an object's does the slope change for its steepness.
    """
    darker = _darkened(backdrop)[0]
    lab = backdrop.surface + backdrop.residual
    lightness = cv2.GaussianBlur(lab[..., 0], (0, 0), 1.5)
    bend, steepest = np.abs(cv2.Laplacian(lightness, -1)), cv2.dilate(_slope(lightness), np.ones((5, 5)))
    edges = (bend > 0.28) & (bend > sharpness * steepest)
    passable = outside | (darker & ~edges)
    shaded = grown(reached(~grown(~passable, 1), outside), 1) & darker & ~outside
    # what an edge sets off from the background all along is a pale side of the object, into which the background ran
    count, pieces = cv2.connectedComponents(shaded.astype(np.uint8), connectivity=8)
    near = [cv2.dilate(pieces.astype(np.float32), np.ones((n, n), np.uint8)).astype(int) for n in (3, 9)]
    smooth = np.bincount(near[0][outside & ~edges], minlength=count)
    sharp = np.bincount(near[1][edges & grown(outside, 3) & ~shaded], minlength=count) / 4
    shaded &= (sharp < 0.1 * smooth)[pieces]
    return grown(shaded, 2) & darker & ~outside


def _darkened(backdrop: _Backdrop) -> tuple[Bool[ndarray, "height width"], Float[ndarray, "height width"]]:
    """Where the background's hue is seen, only darker, and how much light is left everywhere."""
    lab = backdrop.surface + backdrop.residual
    # less light scales L + 16, a and b alike (the cube roots of which Lab is made)
    light = (lab[..., 0] + 16) / (backdrop.surface[..., 0] + 16)
    tint = np.linalg.norm(lab[..., 1:] - light[..., None] * backdrop.surface[..., 1:], axis=-1)
    return (light < 1) & (light > 0.4) & (tint < 2 * backdrop.spread + 2), light


def _even_shade(backdrop: _Backdrop, found: Bool[ndarray, "height width"]) -> float:
    """The part of the object that looks as a shadow with a hard edge does: the background evenly darkened, along the outline."""
    darker, light = _darkened(backdrop)
    light = cv2.GaussianBlur(light.astype(np.float32), (0, 0), 1.0)
    even = darker & found & (_slope(light) < 0.004)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(even.astype(np.uint8), connectivity=4)
    area, outline, total = stats[:, cv2.CC_STAT_AREA], grown(~found, 4), 0
    for piece in 1 + np.flatnonzero(area[1:] > 0.03 * found.sum()):
        pixels = pieces == piece
        rim = pixels & grown(~pixels, 1)
        if np.ptp(np.percentile(light[pixels], (5, 95))) < 0.014 and outline[rim].mean() > 0.3:
            total += area[piece]
    return float(total / max(1, found.sum()))


def _is_object(labels: UInt8[ndarray, "height width"]) -> Bool[ndarray, "height width"]:
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
