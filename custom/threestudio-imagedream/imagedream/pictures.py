"""Tensors as pictures: before a plain colour, and for people as labelled strips, rows under headings, contact sheets."""

from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from imagedream.cameras import VIEW_NAMES, view_name

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000")
"""Pictures that are opened: raster formats only (Pillow would hand EPS to an external interpreter)."""
MAX_PIXELS = 120_000_000
"""Most pixels that are decoded, of a picture or of an object's textures: they take half a gigabyte in memory."""

_INK, _PAPER = (40, 44, 52), (255, 255, 255)
_HEADER_PX = 16


def composite(
    rgba: Float[Tensor, "*batch 4 height width"], background: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3 height width"]:
    """The picture in front of a plain colour: alpha · rgb + (1 − alpha) · background."""
    alpha = rgba[..., 3:, :, :]
    return alpha * rgba[..., :3, :, :] + (1 - alpha) * background[..., None, None]


def over_white(rgba: Float[Tensor, "*batch 4 height width"]) -> Float[Tensor, "*batch 3 height width"]:
    """The picture in front of white."""
    return composite(rgba, rgba.new_ones(*rgba.shape[:-3], 3))


def premultiplied(rgba: Float[Tensor, "*batch 4 height width"]) -> Float[Tensor, "*batch 4 height width"]:
    """Straight alpha -> colours times alpha, as pictures are resized and moved, so that what nobody sees never shows."""
    return torch.cat([rgba[..., :3, :, :] * rgba[..., 3:, :, :], rgba[..., 3:, :, :]], dim=-3)


def on_white(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in front of white, RGB."""
    page = PIL.Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture.convert("RGBA"))
    return page.convert("RGB")


def leftmost_square(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Of squares side by side, as runs save what they see, the first: the colours."""
    return picture.crop((0, 0, picture.height, picture.height))


def to_pil(image: Float[Tensor, "channel height width"]) -> PIL.Image.Image:
    """Pixels in [0, 1] (3 channels RGB, 4 RGBA) as a picture of 8 bits a channel; values outside are clipped."""
    pixels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return PIL.Image.fromarray(
        pixels.permute(1, 2, 0).contiguous().numpy(), {3: "RGB", 4: "RGBA"}[len(image)]
    )


def from_pixels(
    pixels: Shaped[np.ndarray, "height width *channel"] | Shaped[Tensor, "channel height width"],
) -> PIL.Image.Image:
    """A picture from 8-bit pixels, or from values in [0, 1]; grey, RGB or RGBA.

    Raises:
        ValueError: other values or shapes.
    """
    if isinstance(pixels, Tensor):
        pixels = pixels.detach().cpu().movedim(0, -1)
        pixels = (pixels.float() if pixels.is_floating_point() else pixels).numpy()
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.size == 0 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise ValueError(f"a picture of shape {pixels.shape}: must be height x width with 1, 3 or 4 channels")
    if np.issubdtype(pixels.dtype, np.floating):
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(f"pixels from {pixels.min():g} to {pixels.max():g}, must lie in [0, 1]")
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels are {pixels.dtype}, must be uint8 or floating point in [0, 1]")
    return PIL.Image.fromarray(pixels)


def label_strip(
    images: Float[Tensor, "view 3 height width"] | Sequence[PIL.Image.Image],
    azimuths_deg: Sequence[float],
    min_side: int = 192,
) -> PIL.Image.Image:
    """Views side by side, each under the name of the side it shows (front, left, back, right) or its azimuth.

    Args:
        images: pixels in [0, 1], or pictures, all of one size.
        azimuths_deg: where each view is seen from; 0 is the object's front.
        min_side: smaller views are enlarged by a whole factor, without blurring, to at least this many pixels.

    Returns:
        One RGB picture.
    """
    if len(images) != len(azimuths_deg) or not len(images):
        raise ValueError(
            f"{len(images)} images and {len(azimuths_deg)} azimuths, must be equally many and not none"
        )
    pictures = [image if isinstance(image, PIL.Image.Image) else to_pil(image) for image in images]
    factor = max(1, -(-min_side // min(pictures[0].size)))
    width, height = (side * factor for side in pictures[0].size)
    font = PIL.ImageFont.load_default(max(14, width // 14))
    label, gap = int(font.size * 1.7), 4
    strip = PIL.Image.new("RGB", (len(pictures) * (width + gap) - gap, height + label), _PAPER)
    draw = PIL.ImageDraw.Draw(strip)
    for index, (picture, azimuth) in enumerate(zip(pictures, azimuths_deg, strict=True)):
        x = index * (width + gap)
        strip.paste(picture.convert("RGB").resize((width, height), PIL.Image.Resampling.NEAREST), (x, label))
        name = view_name(azimuth)
        text = name if name in VIEW_NAMES else f"{azimuth % 360:.4g}°"
        draw.text((x + width / 2, label / 2), text, fill=_INK, font=font, anchor="mm")
    return strip


def stack_under_headings(pictures: Sequence[tuple[str, PIL.Image.Image]]) -> PIL.Image.Image:
    """Headings and pictures, one below the other, as one RGB picture as wide as the widest."""
    if not pictures:
        raise ValueError("no pictures to stack")
    width = max(picture.width for _, picture in pictures)
    font = PIL.ImageFont.load_default(max(14, width // 56))
    line = int(font.size * 1.8)
    sheet = PIL.Image.new("RGB", (width, sum(line + picture.height for _, picture in pictures)), _PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    y = 0
    for heading, picture in pictures:
        draw.text((4, y + line / 2), heading, fill=_INK, font=font, anchor="lm")
        sheet.paste(picture.convert("RGB"), (0, y + line))
        y += line + picture.height
    return sheet


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[Sequence[Tensor | PIL.Image.Image | None]],
    tile_px: int = 96,
    names: Sequence[str] = (),
) -> PIL.Image.Image:
    """A row of small pictures for each object under one line of column names.

    Args:
        columns: name above each column.
        rows: pictures, or pixels (3, height, width) in [0, 1], of any size, one for each column; None leaves a gap.
        tile_px: side of the square that each is resized to.
        names: of the rows, written into the first column.
    """
    sheet = PIL.Image.new("RGB", (len(columns) * tile_px, _HEADER_PX + len(rows) * tile_px), _PAPER)
    draw = PIL.ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((column * tile_px + 3, 2), name, fill="black")
    for row, pictures in enumerate(rows):
        top = _HEADER_PX + row * tile_px
        for column, picture in enumerate(pictures):
            if picture is not None:
                tile = picture if isinstance(picture, PIL.Image.Image) else to_pil(picture)
                sheet.paste(
                    tile.resize((tile_px, tile_px), PIL.Image.Resampling.BICUBIC), (column * tile_px, top)
                )
        if names:
            draw.text((3, top + 1), names[row][: tile_px // 6], fill="black")
    return sheet
