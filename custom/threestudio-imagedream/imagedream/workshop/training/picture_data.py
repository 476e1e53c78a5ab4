"""Single pictures with captions beside the rendered objects, so that the network forgets nothing about pictures.

What a 2D step looks like (MVDream §3: 30 % of the steps; ImageDream says only that it adheres to it):

- one noisy frame a group and no cameras: the camera vector is all zeros, which is how the pixel controller's prompt frame
  says "no camera" too; attention over the frames of a group is then attention over one picture;
- the prompt is the picture itself (ImageDream §3.1). The local and global controllers read it as they read any prompt,
  and the pixel controller gets its clean frame behind the noisy one, as it will at inference. That frame would give the
  answer away pixel by pixel, and the step would teach copying; so the prompt is a crop of the picture, of
  `prompt_crop` of its side. `prompt_crop: [1, 1]` is the paper's letter;
- no background is put in: pictures are opaque, transparent ones stand on white;
- a step has `batch_size` pictures; twice the objects of a 3D step by default, so that 2 frames each are no more than the
  5 frames of an object, and a 2D step never needs the most memory.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from imagedream.image_prompt.prompt import MAX_BYTES, MAX_PIXELS
from imagedream.runs.arguments import parse_object
from imagedream.workshop.rendering.samples import Files, SampleError, read_caption
from imagedream.workshop.training.random_draws import uniform
from imagedream.workshop.training.shard_data import Entry, Members, find, index, read
from imagedream.workshop.training.train_config import PicturesConfig

OPTION = "data.pictures.folders"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def examine_picture(files: Members, where: str) -> str:
    """Check that there is one picture and a caption."""
    size = files.sizes[_picture_name(files, where)]
    if size > MAX_BYTES:
        raise SampleError(f"{where}: its picture has {size:,} bytes, the limit is {MAX_BYTES:,}")
    _caption(files, where)
    return where


def _picture_name(files: Members | Files, where: str) -> str:
    names = [name for name in files if f".{name.lower()}" in SUFFIXES]
    if len(names) != 1:
        raise SampleError(
            f"{where}: has {len(names)} pictures ({', '.join(SUFFIXES)}) among {len(files)} files, must be 1"
        )
    return names[0]


def _caption(files: Members | Files, where: str) -> str:
    if "txt" in files or "json" not in files:
        return read_caption(files, "txt", where)
    try:
        caption = parse_object(files["json"], "it")["caption"]
    except (ValueError, LookupError) as error:
        raise SampleError(f"{where}: json has no caption: {error}") from error
    if not isinstance(caption, str):
        raise SampleError(f"{where}: caption is {caption!r} ({type(caption).__name__}), must be text")
    return caption.strip()


def check_pictures(config: PicturesConfig) -> None:
    """Raise FileNotFoundError if a folder does not exist."""
    for folder in config.folders:
        if not Path(folder).exists():
            raise FileNotFoundError(f"{OPTION}: {folder} does not exist")


def find_pictures(config: PicturesConfig, cache: str | Path, workers: int | None) -> list[Entry]:
    """All pictures, checked as far as it can be done without decoding them.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing in one of them, or a broken sample.
    """
    found = []
    for folder in config.folders:
        shards, _ = find(folder, "", OPTION)
        if not shards:
            raise ValueError(f"{OPTION}: {folder} holds no shards (*.tar), as img2dataset writes them")
        found += index(shards, [], examine_picture, cache, workers, config.skip_broken)
    return found


class Pictures:
    """Batches of single pictures, which are their own prompts.

    Args:
        entries: where the pictures lie.
        config: how they are shown.
        image_size: side in pixels.
    """

    def __init__(self, entries: Sequence[Entry], config: PicturesConfig, image_size: int) -> None:
        self.entries, self.config, self.image_size = entries, config, image_size

    def __len__(self) -> int:
        return len(self.entries)

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """The middle square of each picture, and a crop of it as its prompt, as opaque floats in [0, 1].

        Returns:
            `targets` (batch, 1, 4, size, size), `prompts` (batch, 4, size, size), `captions`, `objects`; no cameras.
        """
        crops = uniform(self.config.prompt_crop, (len(indices),), generator)
        places = torch.rand(len(indices), 2, generator=generator)
        targets, prompts, captions = [], [], []
        for row, number in enumerate(indices.tolist()):
            square, caption = self._read(self.entries[number])
            side = max(1, round(float(crops[row]) * square.shape[-1]))
            top, left = (places[row] * (square.shape[-1] - side + 1)).long().tolist()
            targets.append(self._resize(square))
            prompts.append(self._resize(square[:, top : top + side, left : left + side]))
            captions.append(caption)
        return {
            "targets": torch.stack(targets)[:, None],
            "prompts": torch.stack(prompts),
            "captions": captions,
            "objects": [self.entries[number].where for number in indices.tolist()],
        }

    def _read(self, entry: Entry) -> tuple[Float[Tensor, "3 side side"], str]:
        files = read(entry)
        name = _picture_name(files, entry.where)
        content, caption = files[name], _caption(files, entry.where)
        try:
            image = Image.open(io.BytesIO(content), formats=["PNG", "JPEG", "WEBP"])
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, the limit is {MAX_PIXELS:,}")
            image = ImageOps.exif_transpose(image).convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        except Exception as error:  # whatever damage makes a decoder raise
            raise SampleError(
                f"{entry.where}: {name} ({len(content)} bytes) cannot be decoded: {error}"
            ) from error
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        pixels = np.array(image.crop((left, top, left + side, top + side)))
        rgb = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return rgb, caption

    def _resize(self, rgb: Float[Tensor, "3 side side"]) -> Float[Tensor, "4 size size"]:
        """Of the batch's size, with an alpha of 1."""
        size = (self.image_size, self.image_size)
        resized = interpolate(rgb[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
        return torch.cat([resized, torch.ones_like(resized[:1])])
