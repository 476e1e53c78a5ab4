"""Any picture file becomes the prompt the model sees: one object, cut out, centred, at a stated size in a square frame."""

import io
import logging
import os
import re
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import cv2
import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
import torch
from annotated_types import Interval
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from imagedream.image_prompt.background_removal import clean_edges, remove_background
from imagedream.image_prompt.own_alpha import (
    SPECK,
    VISIBLE_ALPHA,
    fully_opaque,
    outline_shape,
    visible,
    without_shadow,
    without_specks,
)
from imagedream.image_prompt.regions import box_of, reached, small_pieces
from imagedream.pictures import FORMATS, MAX_PIXELS, from_pixels, premultiplied, to_pil
from imagedream.runs.files import atomic_path
from imagedream.runs.ranges import PromptSize, check_value

logger = logging.getLogger(__name__)

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".tga", ".jp2",
    ".heic", ".heif",
)  # fmt: skip
"""Endings of such files, and of phones' HEIC (needs pillow-heif), which a folder is searched for."""
MAX_DECODED_BYTES = 2**30
"""Most memory that a picture may take while it is decoded, reckoned from its header."""
MAX_BYTES = 256 * 2**20
"""Largest picture file that is opened."""
OBJECT_FRACTION = 0.90
"""The object's longest side over the frame's: the mean of the paper's test pictures."""

_BYTES_PER_PIXEL = {"WEBP": 17, "AVIF": 16, "HEIF": 16, "JPEG2000": 24}
"""Of memory while decoding, as measured; 8 for what is not listed."""
_BITS, _PLANES = 258, 284
"""Tags of TIFF."""
_WORKING_SIDE = 1536  # px; larger pictures are reduced to this first, which no prompt size can tell


class ImagePromptError(ValueError):
    """A picture that cannot become a prompt; the message names the file and says why."""


@dataclass(frozen=True)
class ImagePrompt:
    """The picture as the model sees it."""

    rgba: Float[Tensor, "4 size size"]
    """Straight (not premultiplied) alpha, sRGB, values in [0, 1]; the object is centred in the frame."""
    background_removal: str
    """Where the alpha comes from: "alpha" (the picture's own), "mask" (given), "rembg" or "grabcut"."""
    warnings: tuple[str, ...] = ()
    """What may spoil the result, one sentence each."""
    azimuth_deg: float | None = None
    """From where the picture was taken: 0 is the object's front; None where nobody knows."""

    def to_pil(self) -> PIL.Image.Image:
        """The prompt as an RGBA picture of 8 bits a channel."""
        return to_pil(self.rgba)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the prompt as a PNG file (whatever the ending of `path`), complete or not at all."""
        with atomic_path(path) as temporary:
            self.to_pil().save(temporary, format="PNG")


def load_image_prompt(
    path: str | os.PathLike[str],
    size: int = 256,
    object_fraction: float | None = OBJECT_FRACTION,
    mask: str | os.PathLike[str] | None = None,
) -> ImagePrompt:
    """Read a picture file and prepare it as the model's prompt.

    Args:
        path: a picture file: PNG, JPEG, WebP and the other `FORMATS`, any colour mode, any EXIF rotation.
        size: side of the square result in pixels.
        object_fraction: longest side of the object over the side of the frame, in (0, 1]; None leaves the object where it
            stands in the picture, whose longest side then fills the frame.
        mask: a picture of the same aspect, white where the object is; used instead of alpha or background removal.

    Returns:
        The prompt, with its warnings, which are logged too.

    Raises:
        ImagePromptError: names the file and what is wrong with it.
    """
    image = open_picture(path)
    mask_image = open_picture(mask) if mask is not None else None
    try:
        return prepare_image_prompt(image, size, object_fraction, mask_image)
    except ImagePromptError as error:
        raise ImagePromptError(f"{path}: {error}") from error


def prepare_image_prompt(
    image: PIL.Image.Image,
    size: int = 256,
    object_fraction: float | None = OBJECT_FRACTION,
    mask: PIL.Image.Image | None = None,
) -> ImagePrompt:
    """Cut the object out of a picture and place it in the frame; see `load_image_prompt`."""
    _check_frame(size, object_fraction)
    pixels = _to_rgba(image)  # (height, width, 4) uint8
    if mask is not None:
        removal, pixels, doubts = "mask", _apply_mask(pixels, mask), []
    else:
        removal, pixels, doubts = _cut_out(pixels)
    pixels[..., 3], specks = without_specks(pixels[..., 3])
    logger.info("background: %s", _REMOVAL_WORDS[removal])

    seen = visible(pixels[..., 3])
    if not seen.any():
        found = {"alpha": "it is transparent everywhere", "mask": "the mask is black everywhere"}
        raise ImagePromptError(
            f"no object found: {found.get(removal, 'nothing stands out from the background')}; "
            "give a picture with an object, cut out (transparent background) if need be"
        )
    messages = (*doubts, *specks, *_inspect(seen, pixels[..., 3] > 127, size, object_fraction))
    for message in messages:
        logger.warning("picture: %s", message)
    rgba = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
    return ImagePrompt(place(rgba, size, object_fraction), removal, messages)


def as_image_prompt(picture: Any, size: int, azimuth_deg: float | None = None) -> ImagePrompt:
    """The prompt of anything that may be one.

    Args:
        picture: a path, a PIL picture, an array `(height, width, channel)` or a tensor `(channel, height, width)` with values in
            [0, 1], from which the object is cut out; an `ImagePrompt`, or a tensor with four channels, straight alpha, which is
            the prompt as it stands.
        size: side in pixels of a prompt that is cut out.
        azimuth_deg: from where the picture was taken, if that is known.

    Raises:
        ValueError: shape, type or values of pixels are none of these.
        ImagePromptError: no object is in it.
    """
    if isinstance(picture, Tensor) and len(picture) == 4:
        from_pixels(picture)  # says what is wrong with shape and values
        rgba = picture if picture.is_floating_point() else picture / 255
        if not (rgba[3] > VISIBLE_ALPHA).any():
            raise ImagePromptError("no object found: every pixel is transparent")
        picture = ImagePrompt(rgba, "alpha")
    elif isinstance(picture, Tensor | np.ndarray):
        picture = from_pixels(picture)
    if isinstance(picture, PIL.Image.Image):
        picture = prepare_image_prompt(picture, size)
    elif not isinstance(picture, ImagePrompt):
        picture = load_image_prompt(picture, size)
    return picture if azimuth_deg is None else replace(picture, azimuth_deg=azimuth_deg)


def _cut_out(
    pixels: UInt8[ndarray, "height width 4"],
) -> tuple[str, UInt8[ndarray, "height width 4"], list[str]]:
    """Where the alpha comes from, the picture with that alpha, and what is doubtful about it.

    A few transparent pixels, rounded corners, a margin: such transparency cuts no object out, so the background is removed
    from what it leaves.
    """
    pixels, raised = fully_opaque(pixels)
    pixels, faint = without_shadow(pixels)
    said = raised + faint
    alpha = pixels[..., 3]
    seen = visible(alpha)
    seen &= ~small_pieces(seen, SPECK, 0.0)
    shape = outline_shape(alpha) if seen.any() else "object"
    if shape == "object":
        return "alpha", pixels, said
    box = box_of(seen)
    beside_border = any(
        within.start < 2 or within.stop > side - 2 for within, side in zip(box, alpha.shape, strict=True)
    )
    kept = (
        []
        if seen.all()
        else [f"the picture's transparency leaves a plain {shape}, background may be left in it"]
    )
    if shape == "ellipse" or not beside_border:
        return "alpha", pixels, said + ([] if _has_one_colour(pixels) else kept)
    hole = float((~seen[box] & ~reached(~seen[box])).mean())
    if hole > 0.05:
        said.append(
            f"{hole:.0%} of the picture is a transparent hole: if the object is there, its transparency is inverted"
        )
    # what is transparent takes the colour of the nearest pixel that is not
    _, nearest = cv2.distanceTransformWithLabels(
        (~seen[box]).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((nearest.max() + 1, 3), np.uint8)
    colours[nearest[seen[box]]] = pixels[box][seen[box]][:, :3]
    removal, found, doubts = remove_background(colours[nearest])
    share = float(visible(found[..., 3]).mean())
    if share and outline_shape(found[..., 3]) == "rectangle" and not _has_one_colour(found):
        doubts = (*doubts, "what was cut out is a plain rectangle: if it is a picture in a frame, crop it")
    if not seen.all() or raised:
        if not 0.02 < share < 0.98:
            return "alpha", pixels, said + kept
        doubts = (
            "the picture's transparency cuts no object out of it, so its background was removed",
            *doubts,
        )
    result = np.zeros_like(pixels)
    result[box] = found
    result[..., 3] = np.minimum(result[..., 3], alpha)
    return removal, result, [*said, *doubts]


def _has_one_colour(pixels: UInt8[ndarray, "height width 4"]) -> bool:
    return bool(np.ptp(pixels[pixels[..., 3] > 250][:, :3], axis=0).max(initial=0) < 40)


_REMOVAL_WORDS = {
    "alpha": "the picture's own transparency",
    "mask": "the given mask",
    "rembg": "removed by rembg",
    "grabcut": "removed by OpenCV GrabCut, seeded from the border's colours",
}


def place(
    rgba: Float[Tensor, "4 height width"], size: int, object_fraction: float | None
) -> Float[Tensor, "4 {size} {size}"]:
    """Centre the object in a square frame, its longest side at `object_fraction` of the frame's.

    Resized with premultiplied colours, so that what colour a transparent pixel happens to have never shows (no halos).

    Args:
        rgba: straight alpha, values in [0, 1].
        size: side of the result in pixels.
        object_fraction: longest side of the object's box over the side of the frame, in (0, 1]; None: the box is the
            whole picture, and fills the frame.

    Returns:
        Straight alpha; colour 0 where nothing is.

    Raises:
        ImagePromptError: when every pixel is (nearly) transparent.
    """
    _check_frame(size, object_fraction)
    visible = rgba[3] > VISIBLE_ALPHA
    if not visible.any():
        raise ImagePromptError("no object found: every pixel is transparent")
    if object_fraction is None:
        visible, object_fraction = torch.ones_like(visible), 1.0
    rows, columns = visible.any(1).nonzero()[:, 0], visible.any(0).nonzero()[:, 0]
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    scale = size * object_fraction / max(bottom - top, right - left)
    height, width = (max(1, round(side * scale)) for side in (bottom - top, right - left))

    crop = premultiplied(rgba[:, top:bottom, left:right])
    resized = torch.nn.functional.interpolate(crop[None], (height, width), mode="bicubic", antialias=True)[0]
    alpha = resized[3:].clamp(0, 1)
    colour = (resized[:3] / alpha.clamp_min(1e-4)).clamp(0, 1) * (alpha > 1e-4)

    frame = rgba.new_zeros(4, size, size)
    y, x = (size - height) // 2, (size - width) // 2
    frame[:, y : y + height, x : x + width] = torch.cat([colour, alpha])
    return frame


def open_picture(path: str | os.PathLike[str]) -> PIL.Image.Image:
    """Decode a picture file, turned upright; nothing is decoded before its size is known to be sane.

    Raises:
        ImagePromptError: no such file, a folder, not a picture, too large, truncated, or several frames.
    """
    # two letters or more: `C:/` is a drive
    if re.match(r"[a-z][a-z0-9+.-]+:/|data:", str(path), re.IGNORECASE) and not os.path.exists(path):
        raise ImagePromptError(
            f"{str(path)[:80]} is an address; pictures are read from this machine only, download it first"
        )
    path = Path(path)
    if path.is_dir():
        raise ImagePromptError(f"{path} is a folder, a picture file is needed")
    if not path.exists():
        raise ImagePromptError(f"{path}: no such file")
    if not path.is_file():
        raise ImagePromptError(f"{path} is no regular file, a picture file is needed")
    if path.stat().st_size > MAX_BYTES:
        raise ImagePromptError(
            f"{path} has {path.stat().st_size:,} bytes, the limit is {MAX_BYTES:,}; make it smaller"
        )
    try:
        # not by its name: pixels that Pillow maps into memory are not turned upright
        with path.open("rb") as file:
            return _decode(file, path)
    except PermissionError as error:
        raise ImagePromptError(f"{path}: no permission to read it") from error


def _decode(file: BinaryIO, path: Path) -> PIL.Image.Image:
    head = file.read(16)
    formats = _formats(head, path)
    try:
        with warnings.catch_warnings(action="ignore"):  # Pillow's own limit; ours is checked below
            image = PIL.Image.open(file, formats=formats)
    except PIL.Image.DecompressionBombError as error:
        raise ImagePromptError(
            f"{path}: more than {MAX_PIXELS:,} pixels, the limit; make it smaller"
        ) from error
    except Exception as error:  # whatever a broken header makes a decoder raise
        kind = next((name for name in formats if _begins_as(name, head)), None)
        if kind is None:
            raise ImagePromptError(
                f"{path} is not a picture of a known format ({', '.join(FORMATS)})"
            ) from error
        raise ImagePromptError(
            f"{path}: {kind} with pixels of a kind that is not read, or damaged; save it with 8 bits a channel"
        ) from error
    with image:
        width, height = image.size
        if width * height == 0:
            raise ImagePromptError(f"{path}: the picture is {width} x {height} pixels")
        if width * height > MAX_PIXELS:
            raise ImagePromptError(
                f"{path}: {width} x {height} = {width * height:,} pixels, the limit is {MAX_PIXELS:,}; make it smaller"
            )
        needed = width * height * _BYTES_PER_PIXEL.get(image.format, 8)
        if needed > MAX_DECODED_BYTES:
            raise ImagePromptError(
                f"{path}: {width} x {height} pixels of {image.format} take {needed:,} bytes to decode, the limit is "
                f"{MAX_DECODED_BYTES:,}; make it smaller"
            )
        tags = getattr(image, "tag_v2", {})
        if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:  # Pillow mixes up their bytes
            raise ImagePromptError(
                f"{path}: {image.format} with separate planes of more than 8 bits; save it with 8 bits a channel"
            )
        try:
            # not counted: a small file can hold millions. MPO: a phone's JPEG with a preview behind the picture
            if getattr(image, "is_animated", False) and image.format not in ("MPO", "HEIF"):
                raise ImagePromptError(
                    f"{path}: several frames, a single picture is needed; save one frame of it"
                )
            with warnings.catch_warnings(action="ignore"):  # remarks on odd metadata
                image.load()
        except ImagePromptError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
            raise ImagePromptError(f"{path}: damaged or incomplete, cannot be decoded ({error})") from error
        try:
            PIL.ImageOps.exif_transpose(image, in_place=True)
        except Exception:
            logger.warning("%s: unreadable EXIF data, the picture is taken as it is", path)
        return image


def _begins_as(name: str, head: bytes) -> bool:
    """Whether the first 16 bytes are those of a format."""
    accept = PIL.Image.OPEN[name][1]
    return accept is not None and accept(head) is True


def _formats(head: bytes, path: Path) -> tuple[str, ...]:
    """The formats of Pillow that may open a file: with HEIF, which needs a package of its own, where it is one."""
    if head[4:8] != b"ftyp" or head[8:12] not in (
        b"heic",
        b"heix",
        b"hevc",
        b"hevx",
        b"heim",
        b"heis",
        b"mif1",
        b"msf1",
    ):
        return FORMATS
    try:
        import pillow_heif
    except ImportError as error:
        raise ImagePromptError(
            f"{path} is a HEIC picture, which needs pillow-heif: pip install 'imagedream[heif]', or share it as JPEG"
        ) from error
    pillow_heif.register_heif_opener(thumbnails=False)
    return (*FORMATS, "HEIF")


def _check_frame(size: int, object_fraction: float | None) -> None:
    check_value("size", size, PromptSize)
    check_value("object_fraction", object_fraction, Annotated[float | None, Interval(gt=0, le=1)])


def _to_rgba(image: PIL.Image.Image) -> UInt8[ndarray, "height width 4"]:
    """Any Pillow mode as straight 8-bit sRGB with alpha, at most `_WORKING_SIDE` pixels long."""
    if image.mode[0] in "IF":  # more than 8 bits of grey: Pillow would clip at 255, so scale
        values, key = np.asarray(image), image.info.get("transparency")
        if image.mode == "F" or values.min() < 0 or values.max() >= 2**16:
            raise ImagePromptError("32-bit pixels have no agreed white; save it with 8 or 16 bits a channel")
        bits = next(bits for bits in (8, 10, 12, 16) if values.max() < 2**bits)
        white = 2**bits - 1
        if bits < 16:
            logger.warning(
                "picture: no grey in it is more than %d of %d: taken for %d bits", values.max(), 65535, bits
            )
        grey = np.concatenate(
            [
                (rows.clip(0, white) * (255 / white)).round().astype(np.uint8)
                for rows in np.array_split(values, max(1, values.size >> 20))
            ]
        )
        image = PIL.Image.fromarray(grey)
        if isinstance(key, int):
            image.putalpha(PIL.Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255))))
    much = max(image.size) // (2 * _WORKING_SIDE)
    if much > 1 and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and "transparency" not in image.info:
        image = image.reduce(much)
    try:
        image = _to_srgb(image)
        if image.mode == "CMYK":
            image = image.convert("RGB")
        image = image.convert("RGBA")
    except ValueError as error:
        raise ImagePromptError(
            f"colour mode {image.mode} is not supported, save it as RGB or RGBA"
        ) from error
    reduction = _WORKING_SIDE / max(image.size)
    if reduction < 1:  # Pillow premultiplies RGBA inside resize
        smaller = tuple(max(1, round(side * reduction)) for side in image.size)
        image = image.resize(smaller, PIL.Image.Resampling.LANCZOS)
    return np.array(image)


def _to_srgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Colours of an embedded profile (Display P3 of phones, print CMYK) as sRGB; broken profiles are passed over."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGB" if image.mode == "CMYK" else image.mode
        return PIL.ImageCms.profileToProfile(
            image, source, PIL.ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except (PIL.ImageCms.PyCMSError, OSError, ValueError):
        logger.info("the picture's colour profile is unusable, its colours are taken as sRGB")
        return image


def _apply_mask(
    pixels: UInt8[ndarray, "height width 4"], mask: PIL.Image.Image
) -> UInt8[ndarray, "height width 4"]:
    height, width = pixels.shape[:2]
    if abs(mask.width / mask.height - width / height) > 0.02 * width / height:
        raise ImagePromptError(
            f"the mask is {mask.width} x {mask.height} pixels, its aspect is not the picture's"
        )
    rgba = _to_rgba(mask)
    opaque = (rgba[..., 3] > 127).all()  # a mask may come as black and white or as transparency
    values = PIL.Image.fromarray(rgba, "RGBA").convert("L") if opaque else PIL.Image.fromarray(rgba[..., 3])
    values = np.asarray(values.resize((width, height), PIL.Image.Resampling.BILINEAR))
    return np.dstack([clean_edges(pixels[..., :3], values), values])


def _inspect(
    visible: Bool[ndarray, "height width"],
    solid: Bool[ndarray, "height width"],
    size: int,
    object_fraction: float | None,
) -> list[str]:
    """Sentences about what may spoil the result."""
    messages = []
    sides = {"left": visible[:, 0], "right": visible[:, -1], "top": visible[0], "bottom": visible[-1]}
    touched = [name for name, line in sides.items() if line.any()]
    if touched:
        messages.append(f"the object touches the {', '.join(touched)} border and may be cut off there")
    share = visible.mean()
    if share < 0.01:
        messages.append(
            f"the object is tiny, it fills {share:.2%} of the picture; crop the picture around it"
        )
    rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
    longest = int(max(np.ptp(rows), np.ptp(columns))) + 1
    wanted = size * (longest / max(visible.shape) if object_fraction is None else object_fraction)
    if longest < 0.5 * wanted:
        messages.append(
            f"the object is only {longest} pixels long and is enlarged to {wanted:.0f}: it will be blurred"
        )
    count, _, stats, _ = cv2.connectedComponentsWithStats(solid.astype(np.uint8), connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    pieces = int((areas > 0.02 * areas.max()).sum()) if count > 1 else 0
    if pieces > 1:
        messages.append(f"the picture shows {pieces} separate pieces; they are treated as one object")
    return messages
