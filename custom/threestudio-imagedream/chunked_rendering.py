"""Rendering a batch in chunks, for when all of its rays at once do not fit into memory."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from imagedream.runs.seeds import from_seed


def first_images(values: dict[str, Any], count: int, total: int) -> dict[str, Any]:
    """Everything that has one row an image, for the first images only."""
    return {
        name: value[:count] if isinstance(value, Tensor) and value.ndim and len(value) == total else value
        for name, value in values.items()
    }


def can_be_split(renderer: Any) -> bool:
    """Whether a renderer is given rays; one of meshes needs whole images."""
    return "rays_o" in inspect.signature(renderer.forward).parameters


def render_in_chunks(
    renderer: Callable[..., dict[str, Any]], batch: dict[str, Any], most_rays: int
) -> dict[str, Any]:
    """What `renderer(**batch)` returns, in chunks of about `most_rays` rays (but a row of each image at least).

    A chunk is every n-th row of all images, so all chunks see as much of the object. In training a chunk keeps only what
    it returns; the rest is computed again in the backward pass. All chunks draw the same random numbers, so that a choice
    that is made once a call, such as a material's shading, is the same for all.

    Args:
        renderer: of a host, given `rays_o` and `rays_d` (batch, height, width, 3) and more, one row an image.
        batch: the cameras.
        most_rays: in a chunk.
    """
    images, height, width = batch["rays_o"].shape[:3]
    count = min(math.ceil(images * height * width / most_rays), height)
    seed = int(torch.randint(2**31, ()))

    def render(first: int) -> dict[str, Any]:
        rays = {name: batch[name][:, first::count] for name in ("rays_o", "rays_d")}
        with from_seed(seed):
            return renderer(**{**batch, **rays, "height": rays["rays_o"].shape[1]})

    def keep_little(first: int) -> dict[str, Any]:
        return checkpoint(render, first, use_reentrant=False, preserve_rng_state=False)

    outputs = [(keep_little if torch.is_grad_enabled() else render)(first) for first in range(count)]
    return _joined(outputs, height, width)


def _joined(outputs: list[dict[str, Any]], height: int, width: int) -> dict[str, Any]:
    """One output of those of every n-th row; samples are in the order of the chunks."""
    count, joined = len(outputs), {}
    for name, value in outputs[0].items():
        values = [output[name] for output in outputs]
        if not isinstance(value, Tensor) or not value.ndim:
            joined[name] = value
        elif value.ndim == 4:  # pictures
            picture = value.new_empty(len(value), height, *value.shape[2:])
            for first, rows in enumerate(values):
                picture[:, first::count] = rows
            joined[name] = picture
        elif name == "ray_indices":
            joined[name] = torch.cat(
                [_ray_numbers(rays, first, count, height, width) for first, rays in enumerate(values)]
            )
        else:  # one row a sample
            joined[name] = torch.cat(values)
    return joined


def _ray_numbers(rays: Tensor, first: int, count: int, height: int, width: int) -> Tensor:
    """Of all images' rays, those that a chunk counts as `rays`."""
    rows = len(range(first, height, count))
    image, row, column = rays // (rows * width), rays // width % rows, rays % width
    return (image * height + first + row * count) * width + column
