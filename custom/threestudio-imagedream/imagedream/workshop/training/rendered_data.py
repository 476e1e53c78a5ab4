"""Rendered samples (`imagedream.workshop.rendering.samples`) as training batches."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import default_collate

from imagedream.image_prompt.prompt import VISIBLE_ALPHA, place
from imagedream.pictures import premultiplied
from imagedream.pipeline import with_suffix
from imagedream.workshop.rendering.samples import (
    CAMERAS,
    CAPTION,
    Files,
    Picture,
    Sample,
    SampleError,
    check_files,
    decode_png,
    read_caption,
)
from imagedream.workshop.training.random_draws import uniform
from imagedream.workshop.training.shard_data import Entry, Members, find, read
from imagedream.workshop.training.train_config import VIEWS, RenderedConfig

OPTION = "data.rendered.folders"

_PNG_BEGIN, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


def find_rendered(folders: Sequence[str]) -> tuple[list, list]:
    """Shards and folders of views.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: there is nothing in one of them.
    """
    shards, singles = [], []
    for folder in folders:
        found = find(folder, CAMERAS, OPTION)
        if not any(found):
            raise ValueError(
                f"{OPTION}: {folder} holds no shards (*.tar) and no folder of views ({CAMERAS}); "
                "python -m imagedream render makes them from meshes"
            )
        shards += found[0]
        singles += found[1]
    return shards, singles


def examine_rendered(files: Members, where: str) -> str:
    """Check all of a sample but the insides of its pictures; returns the object's name."""
    if CAMERAS not in files:
        raise SampleError(f"{where}: {CAMERAS} is missing among its {len(files)} files")
    sample = Sample.from_json(files[CAMERAS], where)
    check_files(sample, files, where)
    read_caption(files, CAPTION, where)
    for picture in (*sample.views, *sample.prompts):
        head, tail = files.edges(picture.file, 24, len(_PNG_END))
        if not head.startswith(_PNG_BEGIN) or tail != _PNG_END:
            raise SampleError(
                f"{where}: {picture.file} ({files.sizes[picture.file]} bytes) is no complete PNG file"
            )
        width, height = (int.from_bytes(head[start : start + 4], "big") for start in (16, 20))
        size = sample.size if picture in sample.views else width
        if (width, height) != (size, size):
            raise SampleError(
                f"{where}: {picture.file} is {width} x {height} pixels, must be {size} x {size}"
            )
    return sample.object or where


def check_sizes(entries: Sequence[Entry], image_size: int) -> None:
    """Raise ValueError if a shard was rendered smaller than the network's views are; its first sample speaks for it."""
    firsts = {entry.path: entry for entry in reversed(entries)}
    sizes = {path: Sample.from_json(read(entry)[CAMERAS], entry.where).size for path, entry in firsts.items()}
    small = sorted(path for path, size in sizes.items() if size < image_size)
    if small:
        raise ValueError(
            f"data.rendered.image_size is {image_size}, but {len(small)} of {len(sizes)} shards were rendered smaller: "
            f"{small[0]} at {sizes[small[0]]}; render them again with --size {image_size}"
        )


def allows(config: RenderedConfig, prompt: Picture) -> bool:
    """Whether a prompt view is taken from within the config's ranges."""
    azimuth_deg = (prompt.azimuth_deg + 180) % 360 - 180
    taken = (
        (azimuth_deg, config.prompt_azimuth_deg),
        (prompt.elevation_deg, config.prompt_elevation_deg),
        (prompt.fov_y_deg, config.prompt_fov_y_deg),
    )
    return all(low <= value <= high for value, (low, high) in taken)


class RenderedSamples:
    """Batches of rings of views, read when they are asked for.

    Args:
        entries: where the samples lie.
        config: how they are shown.
    """

    def __init__(self, entries: Sequence[Entry], config: RenderedConfig) -> None:
        self.entries, self.config = entries, config

    def __len__(self) -> int:
        return len(self.entries)

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """Four views a quarter turn apart and one prompt of each sample, as floats in [0, 1].

        Returns:
            `targets` (batch, 4, 4, size, size), `azimuths_deg` (batch, 4), `elevations_deg` (batch,), `prompts`
            (batch, 4, size, size), `prompt_azimuths_deg` (batch,), `captions`, `objects`.

        Raises:
            SampleError: a picture is damaged.
        """
        rows = [self._sample(self.entries[index], generator) for index in indices.tolist()]
        return default_collate(rows)

    def _sample(self, entry: Entry, generator: torch.Generator) -> dict[str, Tensor | str]:
        # one seed a sample: how many numbers a sample draws changes nothing for the others
        draws = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
        files = read(entry)
        sample = Sample.from_json(files[CAMERAS], entry.where)
        count = len(sample.views)
        start = int(torch.randint(count, (), generator=draws))
        views = [sample.views[(start + step * count // VIEWS) % count] for step in range(VIEWS)]
        prompts = [prompt for prompt in sample.prompts if allows(self.config, prompt)]
        own = bool(torch.rand((), generator=draws) < self.config.own_prompts) and bool(prompts)
        half = [view for view in sample.views if -90 <= (view.azimuth_deg + 180) % 360 - 180 < 90]
        prompt, picture = self._prompt(prompts if own else half, files, entry, draws)
        pixels = [decode_png(files[view.file], sample.size, f"{entry.where}: {view.file}") for view in views]
        return {
            "targets": torch.stack(
                [_resize(_to_float(one), self.config.image_size, entry) for one in pixels]
            ),
            "azimuths_deg": torch.tensor([view.azimuth_deg for view in views]),
            "elevations_deg": torch.tensor(sample.elevation_deg),
            "prompts": prompt,
            "prompt_azimuths_deg": torch.tensor(picture.azimuth_deg),
            "objects": entry.where,
            "captions": with_suffix(read_caption(files, CAPTION, entry.where), self.config.caption_suffix),
        }

    def _prompt(
        self, pictures: Sequence[Picture], files: Files, entry: Entry, draws: torch.Generator
    ) -> tuple[Float[Tensor, "4 size size"], Picture]:
        fraction = float(uniform(self.config.prompt_fraction, (), draws))
        for choice in torch.randperm(len(pictures), generator=draws).tolist():
            name = pictures[choice].file
            rgba = _to_float(decode_png(files[name], None, f"{entry.where}: {name}"))
            if (rgba[3] > VISIBLE_ALPHA).any():  # a sheet of paper seen from its edge shows nothing
                return place(rgba, self.config.image_size, fraction), pictures[choice]
        raise SampleError(f"{entry.where}: nothing is to be seen in any of {len(pictures)} prompt views")


def _to_float(pixels: UInt8[np.ndarray, "height width 4"]) -> Float[Tensor, "4 height width"]:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _resize(rgba: Float[Tensor, "4 height width"], size: int, entry: Entry) -> Float[Tensor, "4 size size"]:
    """Reduced with premultiplied colours."""
    if rgba.shape[-1] == size:
        return rgba
    if rgba.shape[-1] < size:
        raise SampleError(
            f"{entry.where}: its views are {rgba.shape[-1]} pixels wide, data.rendered.image_size {size} would enlarge them"
        )
    smaller = interpolate(premultiplied(rgba)[None], (size, size), mode="area")[0]
    return torch.cat([(smaller[:3] / smaller[3:].clamp_min(1e-4)).clamp(0, 1), smaller[3:]])
