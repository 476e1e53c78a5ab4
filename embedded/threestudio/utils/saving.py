"""Everything a system writes: pictures in a grid, videos, data. Files appear whole or not at all."""

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from threestudio.utils.config import config_to_primitive

VIDEO_BLOCK = 16
"""Video codecs want sides that are multiples of this."""


class SaverMixin:
    """Saves under `set_save_dir`'s folder; names may contain subfolders; methods return the path."""

    _save_dir: str | None = None
    _wandb_logger: Any = None

    def set_save_dir(self, save_dir: str) -> None:
        self._save_dir = str(save_dir)

    def get_save_dir(self) -> str:
        if self._save_dir is None:
            raise ValueError("Save dir is not set; call set_save_dir first")
        return self._save_dir

    def get_save_path(self, filename: str) -> str:
        folder = os.path.realpath(self.get_save_dir())
        path = os.path.join(self.get_save_dir(), filename)
        if os.path.commonpath([folder, os.path.realpath(path)]) != folder:
            raise ValueError(f"{filename!r} would be written outside the trial's folder {folder}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def convert_data(self, data: Any) -> Any:
        """Tensors, alone or in dicts, as arrays."""
        if data is None or isinstance(data, np.ndarray):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        if isinstance(data, dict):
            return {key: self.convert_data(value) for key, value in data.items()}
        raise TypeError(f"data must be a tensor, an array, or a dict of them, got {type(data).__name__}")

    def _write(self, filename: str, write: Callable[[Path], Any]) -> str:
        path = Path(self.get_save_path(filename))
        temporary = path.with_name(f".unfinished-{uuid.uuid4().hex[:8]}{path.suffix}")
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return str(path)

    # ------------------------------------------------------------------------------------------------- loggers

    def create_loggers(self, cfg_loggers: Any) -> None:
        wandb = (config_to_primitive(cfg_loggers) or {}).get("wandb", {})
        if wandb.get("enable", False):
            from pytorch_lightning.loggers import WandbLogger

            self._wandb_logger = WandbLogger(project=wandb.get("project"), name=wandb.get("name"))

    def get_loggers(self) -> list:
        return [self._wandb_logger] if self._wandb_logger is not None else []

    # ------------------------------------------------------------------------------------------------ pictures

    def get_rgb_image_(self, img: Any, data_format: str = "HWC", data_range: tuple = (0, 1)) -> np.ndarray:
        """uint8 BGR of a picture of three channels."""
        img = self.convert_data(img)
        if data_format not in ("CHW", "HWC"):
            raise ValueError(f"data_format is {data_format!r}, must be 'HWC' or 'CHW'")
        if data_format == "CHW":
            img = img.transpose(1, 2, 0)
        if img.ndim != 3 or img.shape[-1] != 3:
            raise ValueError(f"a picture has 3 channels, got shape {img.shape}; the rest is threestudio's")
        if img.dtype != np.uint8:
            low, high = data_range
            img = ((img.clip(low, high) - low) / (high - low) * 255.0).astype(np.uint8)
        return img[..., ::-1]

    def get_grayscale_image_(
        self, img: Any, data_range: tuple | None = None, cmap: str | None = "jet"
    ) -> np.ndarray:
        """uint8 BGR of a 2-D image; without a range, from its minimum to its maximum."""
        img = np.nan_to_num(self.convert_data(img))
        if img.ndim != 2:
            raise ValueError(f"a grayscale image has 2 axes, got shape {img.shape}")
        low, high = (img.min(), img.max()) if data_range is None else data_range
        img = (img.clip(low, high) - low) / (high - low if high > low else 1.0)
        if cmap is None:
            return np.repeat((img * 255.0).astype(np.uint8)[..., None], 3, axis=-1)
        import matplotlib

        return (matplotlib.colormaps[cmap](img)[..., :3] * 255.0).astype(np.uint8)[..., ::-1]

    def get_image_grid_(self, imgs: list) -> np.ndarray:
        """Cells `{"type": "rgb" | "grayscale", "img": ..., "kwargs": {...}}` in a row, all as large as the largest; BGR."""
        pictures = [self._get_cell(cell) for cell in imgs]
        height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
        return np.concatenate([_resize(picture, height, width) for picture in pictures], axis=1)

    def _get_cell(self, cell: dict) -> np.ndarray:
        kinds = {"rgb": self.get_rgb_image_, "grayscale": self.get_grayscale_image_}
        if cell["type"] not in kinds:
            raise ValueError(
                f"type of an image cell is {cell['type']!r}, must be one of {', '.join(kinds)}; the rest is "
                "threestudio's"
            )
        return kinds[cell["type"]](cell["img"], **(cell.get("kwargs") or {}))

    def save_rgb_image(
        self, filename: str, img: Any, data_format: str = "HWC", data_range: tuple = (0, 1), **log: Any
    ) -> str:
        return self._save_bgr(filename, self.get_rgb_image_(img, data_format, data_range), **log)

    def save_grayscale_image(
        self, filename: str, img: Any, data_range: tuple | None = None, cmap: str | None = "jet", **log: Any
    ) -> str:
        return self._save_bgr(filename, self.get_grayscale_image_(img, data_range, cmap), **log)

    def save_image_grid(self, filename: str, imgs: list, **log: Any) -> str:
        """A file of `get_image_grid_`; also to wandb where it is on and `log` has a name (and a step)."""
        return self._save_bgr(filename, self.get_image_grid_(imgs), **log)

    def _save_bgr(
        self, filename: str, img: np.ndarray, name: str | None = None, step: int | None = None
    ) -> str:
        path = self._write(filename, Image.fromarray(np.ascontiguousarray(img[..., ::-1])).save)
        if self._wandb_logger is not None and name:
            self._wandb_logger.log_image(key=name, images=[path], step=step)
        return path

    def save_img_sequence(
        self,
        filename: str,
        img_dir: str,
        matcher: str,
        save_format: str = "mp4",
        fps: int = 30,
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        """A video of the images in `img_dir` (relative to the save dir), ordered by the matcher's integer group."""
        import imageio.v2 as imageio

        if save_format != "mp4":
            raise ValueError(f"save_format is {save_format!r}, must be 'mp4'; the rest is threestudio's")
        folder = Path(self.get_save_dir(), img_dir)
        matches = [(re.search(matcher, path.name), path) for path in folder.iterdir()]
        frames = sorted((int(match[1]), path) for match, path in matches if match)
        if not frames:
            raise FileNotFoundError(f"no image in {folder} matches {matcher!r}")

        def write(temporary: Path) -> None:
            options = {"fps": fps, "macro_block_size": 1, "codec": "libx264"}
            with imageio.get_writer(temporary, **options) as writer:
                for _, frame in frames:
                    writer.append_data(_padded(imageio.imread(frame)))

        path = self._write(f"{filename.removesuffix('.mp4')}.mp4", write)
        if self._wandb_logger is not None and name:
            self._wandb_logger.log_video(key=name, videos=[path], step=step)
        return path

    # ---------------------------------------------------------------------------------------------------- data

    def save_data(self, filename: str, data: Any) -> str:
        """A dict as `.npz`, an array as `.npy`."""
        data = self.convert_data(data)
        suffix = ".npz" if isinstance(data, dict) else ".npy"
        filename = filename if filename.endswith(suffix) else filename + suffix
        if isinstance(data, dict):
            return self._write(filename, lambda path: np.savez(path, **data))
        return self._write(filename, lambda path: np.save(path, data))

    def save_json(self, filename: str, payload: Any) -> str:
        return self._write(filename, lambda path: path.write_text(json.dumps(payload), encoding="utf-8"))

    def save_file(self, filename: str, src_path: str) -> str:
        return self._write(filename, lambda path: shutil.copyfile(src_path, path))


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _padded(frame: np.ndarray) -> np.ndarray:
    """RGB, its sides continued to multiples of a codec's blocks."""
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, -height % VIDEO_BLOCK), (0, -width % VIDEO_BLOCK), (0, 0)), mode="edge")
