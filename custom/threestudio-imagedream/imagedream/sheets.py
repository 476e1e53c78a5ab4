"""Contact sheets: many small pictures at a glance."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from imagedream.pictures import to_pil

_HEADER_PX = 16


def contact_sheet(
    columns: Sequence[str],
    rows: Sequence[Sequence[Tensor | Image.Image | None]],
    tile_px: int = 96,
    names: Sequence[str] = (),
) -> Image.Image:
    """A row of pictures for each object under one line of column names.

    Args:
        columns: name above each column.
        rows: pictures, or pixels (3, height, width) in [0, 1], of any size, one for each column; None leaves a gap.
        tile_px: side of the square that each is resized to.
        names: of the rows, written into the first column.
    """
    sheet = Image.new("RGB", (len(columns) * tile_px, _HEADER_PX + len(rows) * tile_px), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        draw.text((column * tile_px + 3, 2), name, fill="black")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            if picture is not None:
                tile = picture if isinstance(picture, Image.Image) else to_pil(picture)
                tile = tile.resize((tile_px, tile_px), Image.Resampling.BICUBIC)
                sheet.paste(tile, (column * tile_px, _HEADER_PX + row * tile_px))
    for row, name in enumerate(names):
        draw.text((3, _HEADER_PX + row * tile_px + 1), name[: tile_px // 6], fill="black")
    return sheet
