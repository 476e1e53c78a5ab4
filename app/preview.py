"""What comes before a run: the cut-out, mended by hand if need be, and the four views of several seeds, one of which is picked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from imagedream import checkpoints
from imagedream.image_prompt.multi_image import with_azimuths
from imagedream.image_prompt.prompt import (
    ImagePrompt,
    load_image_prompt,
    open_picture,
    prepare_image_prompt,
)
from imagedream.memory_options import precision
from imagedream.metrics import rank_seeds
from imagedream.pictures import label_strip, on_white, to_pil
from imagedream.runs.project import project_folder
from imagedream.runs.settings import apply_presets, read_presets, read_with_bases

MOST_SEEDS = 8
EDITED_SIDE = 640
"""Longest side in pixels of the picture whose cut-out is mended."""
KEEP, REMOVE = (0, 170, 0), (230, 0, 0)
"""Colours of the two brushes."""


def find_recipes(weights: str, configs: Sequence[str] = ()) -> dict[str, tuple[str, str | None, str]]:
    """Ways to make a model, by name: config, preset, what it is.

    Args:
        weights: of the diffusion model.
        configs: files in `configs/`; by default those that are for the weights.
    """
    folder = project_folder() / "configs"
    ours = (
        ("imagedream-toybox", "imagedream-toybox-fast")
        if weights == "toybox"
        else ("imagedream", "imagedream-fast")
    )
    names = list(configs) or [f"{name}.yaml" for name in ours if (folder / f"{name}.yaml").is_file()]
    presets, recipes = read_presets(folder / "presets"), {}
    for name in names:
        bases = [file.stem for file in read_with_bases(folder / name)]
        stem = bases[-1]
        recipes[stem] = (name, None, presets["default"].about)
        for preset, content in presets.items():
            if any(content.settings.get(base) for base in bases):  # it changes something
                recipes[f"{stem} {preset}"] = (name, preset, content.about)
    return recipes


class Preview:
    """The diffusion model, loaded once, and what it makes of pictures: just what a run with the same settings will make.

    Args:
        weights: a source of `imagedream.checkpoints.load`.
        device: where it computes.
    """

    def __init__(self, weights: str, device: torch.device) -> None:
        self.weights, self.device = weights, device

    @cached_property
    def pipeline(self) -> Any:
        """Loaded when it is first wanted."""
        dtype = precision("auto", self.device)
        return checkpoints.load(self.weights, dtype=dtype, device=self.device)

    def views(
        self,
        pictures: Mapping[str, Path],
        prompt: str,
        config: str,
        preset: str | None,
        seeds: Sequence[int],
        mask: Path | None = None,
    ) -> list[tuple[int, float, PIL.Image.Image]]:
        """Seed, score and labelled strip of four views, the best first.

        Args:
            pictures: of the object: `picture`, and further ones by the side they show.
            prompt: what the object is.
            config: name of a file in `configs/`.
            preset: or None.
            seeds: of the noise.
            mask: white where the object is in `picture`.
        """
        settings = system_settings(config, preset)
        shown, guidance, processor = settings.get("views", {}), settings.guidance, settings.prompt_processor
        sides = {side: path for side, path in pictures.items() if side != "picture"}
        options = {"object_fraction": processor.object_fraction} if "object_fraction" in processor else {}
        images = [
            replace(
                load_image_prompt(
                    path, processor.get("image_size", 256), mask=mask if azimuth is None else None, **options
                ),
                azimuth_deg=azimuth,
            )
            for path, azimuth in with_azimuths([pictures["picture"]], sides)
        ]
        given = {
            "num_inference_steps": shown.get("steps"),
            "guidance_scale": shown.get("guidance_scale"),
            "elevation_deg": shown.get("elevation_deg"),
            "prompt_suffix": guidance.get("prompt_suffix"),
            "prompt_temperature": guidance.get("prompt_temperature"),
            "negative_prompt": processor.get("negative_prompt"),
        }
        given = {name: value for name, value in given.items() if value is not None}
        ranked = rank_seeds(self.pipeline, seeds, images, prompt, **given)
        return [
            (seed, scores.total, label_strip(output.images, output.azimuths_deg))
            for seed, output, scores in ranked
        ]


def system_settings(config: str, preset: str | None) -> Any:
    """The `system` part of a config with its bases and a preset."""
    folder = project_folder() / "configs"
    names, presets = [preset] if preset else [], read_presets(folder / "presets")
    settings, _ = apply_presets(read_with_bases(folder / config), names, presets, "embedded", "0")
    return settings.system


def seen_by_the_model(prompt: ImagePrompt) -> PIL.Image.Image:
    """The cut-out before a chequered ground, which is no colour of the object's."""
    size = prompt.rgba.shape[-1]
    cells = torch.arange(size) // max(size // 16, 1)
    ground = torch.where((cells[:, None] + cells) % 2 == 0, 0.92, 0.78).expand(3, -1, -1)
    alpha = prompt.rgba[3:]
    return to_pil(alpha * prompt.rgba[:3] + (1 - alpha) * ground)


def cut_out(path: Path, mask: Path | None) -> tuple[ImagePrompt, PIL.Image.Image]:
    """The prompt of a picture, and the picture to mend its cut-out on: what is cut away is pale.

    Raises:
        ImagePromptError: names what is wrong with the picture.
    """
    prompt = load_image_prompt(path, mask=mask)
    picture, alpha = _in_its_frame(path, mask)
    dim = np.asarray(picture, np.float32)
    kept = np.asarray(alpha, np.float32)[..., None] / 255
    return prompt, PIL.Image.fromarray((kept * dim + (1 - kept) * (0.25 * dim + 191)).astype(np.uint8))


def mended_mask(path: Path, mask: Path | None, strokes: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """The mask of a picture's cut-out with brush strokes on it, of the picture's aspect.

    Args:
        path: the picture.
        mask: the mask so far; None for the cut-out by itself.
        strokes: RGBA layers on the picture of `cut_out`; what is painted with `KEEP` belongs to the object, anything else not.
    """
    _, alpha = _in_its_frame(path, mask)
    values = np.array(alpha)
    for layer in strokes:
        painted = np.asarray(layer.convert("RGBA").resize(alpha.size, PIL.Image.Resampling.NEAREST), np.int32)
        red, green, _, opacity = np.moveaxis(painted, -1, 0)
        values[(opacity > 127) & (green >= red)] = 255
        values[(opacity > 127) & (green < red)] = 0
    return PIL.Image.fromarray(values)


def _in_its_frame(path: Path, mask: Path | None) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """The picture, reduced to `EDITED_SIDE`, and its cut-out's alpha, both in the picture's own frame."""
    picture = open_picture(path)
    side = min(max(picture.size), EDITED_SIDE)
    given = None if mask is None else open_picture(mask)
    square = prepare_image_prompt(picture, max(side, 8), None, given).to_pil().getchannel("A")
    scale = side / max(picture.size)
    width, height = (max(round(length * scale), 1) for length in picture.size)
    left, top = (square.width - width) // 2, (square.height - height) // 2
    shown = on_white(picture.convert("RGBA").resize((width, height)))
    return shown, square.crop((left, top, left + width, top + height))
