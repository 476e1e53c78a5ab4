"""Everything a system writes: images, grids, videos, meshes, data. Files appear whole or not at all."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from threestudio.utils.config import config_to_primitive

DEFAULT_KWARGS: dict[str, dict[str, Any]] = {
    "rgb": {"data_format": "HWC", "data_range": (0, 1)},
    "uv": {"data_format": "HWC", "data_range": (0, 1), "cmap": "checkerboard"},
    "grayscale": {"data_range": None, "cmap": "jet"},
}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` (same suffix); what is written there replaces `path` when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class SaverMixin:
    """Saves under `set_save_dir`'s folder; names may contain subfolders; most methods return the path."""

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
        if data is None or isinstance(data, np.ndarray):
            return data
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            return (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        if isinstance(data, list):
            return [self.convert_data(item) for item in data]
        if isinstance(data, dict):
            return {key: self.convert_data(value) for key, value in data.items()}
        raise TypeError(
            f"data must be a tensor, an array, or lists and dicts of them, got {type(data).__name__}"
        )

    # ------------------------------------------------------------------------------------------------- loggers

    def create_loggers(self, cfg_loggers: Any) -> None:
        cfg = config_to_primitive(cfg_loggers) or {}
        wandb = cfg.get("wandb", {})
        if wandb.get("enable", False):
            from pytorch_lightning.loggers import WandbLogger

            self._wandb_logger = WandbLogger(project=wandb.get("project"), name=wandb.get("name"))

    def get_loggers(self) -> list:
        return [self._wandb_logger] if self._wandb_logger is not None else []

    def _log_image(self, name: str | None, step: int | None, path: str) -> None:
        if self._wandb_logger is not None and name:
            self._wandb_logger.log_image(key=name, images=[path], step=step)

    # -------------------------------------------------------------------------------------------------- images

    def get_rgb_image_(self, img: Any, data_format: str, data_range: tuple, rgba: bool = False) -> np.ndarray:
        """uint8 BGR(A); more than 3 (4) channels are cut into pictures side by side, the last padded with zeros."""
        img = self.convert_data(img)
        if data_format not in ("CHW", "HWC"):
            raise ValueError(f"data_format is {data_format!r}, must be 'HWC' or 'CHW'")
        if data_format == "CHW":
            img = img.transpose(1, 2, 0)
        if img.dtype != np.uint8:
            low, high = data_range
            img = ((img.clip(low, high) - low) / (high - low) * 255.0).astype(np.uint8)
        depth = 4 if rgba else 3
        pieces = []
        for begin in range(0, img.shape[-1], depth):
            piece = img[..., begin : begin + depth]
            piece = np.pad(piece, ((0, 0), (0, 0), (0, depth - piece.shape[-1])))
            pieces.append(piece[..., [2, 1, 0, 3] if rgba else [2, 1, 0]])
        return np.concatenate(pieces, axis=1)

    def save_rgb_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple = (0, 1),
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        path = self._write_bgr(filename, self.get_rgb_image_(img, data_format, data_range))
        self._log_image(name, step, path)
        return path

    def get_uv_image_(
        self, img: Any, data_format: str, data_range: tuple, cmap: str | None = "checkerboard"
    ) -> np.ndarray:
        """2 channels as a checkerboard of 64 cells a side, or as colours."""
        img = self.convert_data(img)
        if data_format == "CHW":
            img = img.transpose(1, 2, 0)
        low, high = data_range
        img = (img.clip(low, high) - low) / (high - low)
        if cmap == "checkerboard":
            odd = (img * 64).astype(int).sum(-1) % 2 == 0
            return np.where(odd[..., None], np.uint8([255, 0, 255]), np.uint8([255, 255, 255]))
        if cmap == "color":
            u, v = (img * 255).astype(np.uint8)[..., 0], (img * 255).astype(np.uint8)[..., 1]
            return np.stack([np.zeros_like(u), v, u], axis=-1)
        raise ValueError(f"cmap of a uv image is {cmap!r}, must be 'checkerboard' or 'color'")

    def save_uv_image(
        self,
        filename: str,
        img: Any,
        data_format: str = "HWC",
        data_range: tuple = (0, 1),
        cmap: str | None = "checkerboard",
    ) -> str:
        return self._write_bgr(filename, self.get_uv_image_(img, data_format, data_range, cmap))

    def get_grayscale_image_(self, img: Any, data_range: tuple | None, cmap: str | None) -> np.ndarray:
        """uint8 BGR of a 2-D image; without a range, from its minimum to its maximum."""
        img = np.nan_to_num(self.convert_data(img))
        if img.ndim != 2:
            raise ValueError(f"a grayscale image has 2 axes, got shape {img.shape}")
        low, high = (img.min(), img.max()) if data_range is None else data_range
        img = (img.clip(low, high) - low) / (high - low if high > low else 1.0)
        if cmap not in (None, "jet", "magma", "spectral"):
            raise ValueError(
                f"cmap of a grayscale image is {cmap!r}, must be None, 'jet', 'magma' or 'spectral'"
            )
        if cmap is None:
            return np.repeat((img * 255.0).astype(np.uint8)[..., None], 3, axis=-1)
        import matplotlib

        colors = matplotlib.colormaps["Spectral" if cmap == "spectral" else cmap]
        return (colors(img)[..., :3] * 255.0).astype(np.uint8)[..., ::-1]

    def save_grayscale_image(
        self,
        filename: str,
        img: Any,
        data_range: tuple | None = None,
        cmap: str | None = "jet",
        name: str | None = None,
        step: int | None = None,
    ) -> str:
        path = self._write_bgr(filename, self.get_grayscale_image_(img, data_range, cmap))
        self._log_image(name, step, path)
        return path

    def get_image_grid_(self, imgs: list, align: Any) -> np.ndarray:
        """Cells `{"type": "rgb" | "uv" | "grayscale", "img": ..., "kwargs": {...}}`, in a row or in rows."""
        rows = imgs if isinstance(imgs[0], list) else [imgs]
        pictures = [[self._get_cell(cell) for cell in row] for row in rows]
        heights = [picture.shape[0] for row in pictures for picture in row]
        widths = [picture.shape[1] for row in pictures for picture in row]
        if align in ("max", "min"):
            choose = max if align == "max" else min
            height, width = choose(heights), choose(widths)
        else:
            height, width = (align, align) if isinstance(align, int) else align
        rows = [
            np.concatenate([_resize(picture, height, width) for picture in row], axis=1) for row in pictures
        ]
        widest = max(row.shape[1] for row in rows)
        return np.concatenate(
            [np.pad(r, ((0, 0), (0, widest - r.shape[1]), (0, 0)), constant_values=255) for r in rows]
        )

    def _get_cell(self, cell: dict) -> np.ndarray:
        writers = {
            "rgb": self.get_rgb_image_,
            "uv": self.get_uv_image_,
            "grayscale": self.get_grayscale_image_,
        }
        if cell["type"] not in writers:
            raise ValueError(
                f"type of an image cell is {cell['type']!r}, must be one of {', '.join(writers)}"
            )
        return writers[cell["type"]](
            cell["img"], **{**DEFAULT_KWARGS[cell["type"]], **(cell.get("kwargs") or {})}
        )

    def save_image_grid(
        self,
        filename: str,
        imgs: list,
        align: Any = "max",
        name: str | None = None,
        step: int | None = None,
        texts: list[str] | None = None,
    ) -> str:
        grid = self.get_image_grid_(imgs, align)
        if texts is not None:
            grid = _draw_texts(grid, texts)
        path = self._write_bgr(filename, grid)
        self._log_image(name, step, path)
        return path

    def save_image(self, filename: str, img: Any) -> str:
        """uint8 or uint16; (H, W), RGB or RGBA."""
        img = self.convert_data(img)
        if img.dtype not in (np.uint8, np.uint16) or not (
            img.ndim == 2 or (img.ndim == 3 and img.shape[-1] in (3, 4))
        ):
            raise ValueError(
                f"an image is uint8 or uint16 of shape (H,W), (H,W,3) or (H,W,4), got {img.dtype} {img.shape}"
            )
        return self._write_rgb(filename, img)

    def save_cubemap(self, filename: str, img: Any, data_range: tuple = (0, 1), rgba: bool = False) -> str:
        """Six faces (6, S, S, C) unfolded to a cross of 3 rows and 4 columns."""
        faces = [self.get_rgb_image_(face, "HWC", data_range, rgba=rgba) for face in self.convert_data(img)]
        empty = np.zeros_like(faces[2])
        cross = [
            [empty, faces[2], empty, empty],
            [faces[1], faces[4], faces[0], faces[5]],
            [empty, faces[3], empty, empty],
        ]
        return self._write_bgr(filename, np.concatenate([np.concatenate(row, axis=1) for row in cross]))

    def _write_bgr(self, filename: str, img: np.ndarray) -> str:
        return self._write_rgb(filename, img[..., [2, 1, 0, 3][: img.shape[-1]]])

    def _write_rgb(self, filename: str, img: np.ndarray) -> str:
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            if img.dtype == np.uint16 and img.ndim == 3:
                import cv2  # Pillow has no 16-bit colour

                cv2.imwrite(str(temporary), img[..., [2, 1, 0, 3][: img.shape[-1]]])
            else:
                Image.fromarray(np.ascontiguousarray(img)).save(temporary)
        return path

    # ---------------------------------------------------------------------------------------------------- data

    def save_data(self, filename: str, data: Any) -> str:
        """A dict as `.npz`, an array as `.npy`."""
        data = self.convert_data(data)
        suffix = ".npz" if isinstance(data, dict) else ".npy"
        path = self.get_save_path(filename if filename.endswith(suffix) else filename + suffix)
        with atomic_path(path) as temporary:
            np.savez(temporary, **data) if isinstance(data, dict) else np.save(temporary, data)
        return path

    def save_state_dict(self, filename: str, data: Any) -> str:
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            torch.save(data, temporary)
        return path

    def save_json(self, filename: str, payload: Any) -> str:
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(payload), encoding="utf-8")
        return path

    def save_file(self, filename: str, src_path: str) -> str:
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            shutil.copyfile(src_path, temporary)
        return path

    # --------------------------------------------------------------------------------------------------- video

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

        if save_format not in ("gif", "mp4"):
            raise ValueError(f"save_format is {save_format!r}, must be 'gif' or 'mp4'")
        filename = filename if filename.endswith(f".{save_format}") else f"{filename}.{save_format}"
        folder = os.path.join(self.get_save_dir(), img_dir)
        pattern = re.compile(matcher)
        found = [
            (int(match.group(1)), file) for file in os.listdir(folder) if (match := pattern.search(file))
        ]
        if not found:
            raise FileNotFoundError(f"no image in {folder} matches {matcher!r}")
        path = self.get_save_path(filename)
        options = (
            {"duration": 1000.0 / fps, "loop": 0}
            if save_format == "gif"
            else {"fps": fps, "macro_block_size": 1, "codec": "libx264"}
        )
        with atomic_path(path) as temporary, imageio.get_writer(temporary, **options) as writer:
            for _, file in sorted(found):
                frame = imageio.imread(os.path.join(folder, file))
                writer.append_data(_pad_to_blocks(frame) if save_format == "mp4" else frame)
        if self._wandb_logger is not None and name:
            import wandb

            self._wandb_logger.experiment.log({name: wandb.Video(path), "trainer/global_step": step})
        return path

    # -------------------------------------------------------------------------------------------------- meshes

    def save_mesh(
        self, filename: str, v_pos: Any, t_pos_idx: Any, v_tex: Any = None, t_tex_idx: Any = None
    ) -> str:
        """Positions and triangles by trimesh, in the format of the file's suffix."""
        import trimesh

        path = self.get_save_path(filename)
        mesh = trimesh.Trimesh(self.convert_data(v_pos), self.convert_data(t_pos_idx), process=False)
        with atomic_path(path) as temporary:
            mesh.export(temporary)
        return path

    def save_obj(
        self,
        filename: str,
        mesh: Any,
        save_mat: bool = False,
        save_normal: bool = False,
        save_uv: bool = False,
        save_vertex_color: bool = False,
        map_Kd: Any = None,
        map_Ks: Any = None,
        map_Bump: Any = None,
        map_Pm: Any = None,
        map_Pr: Any = None,
        map_format: str = "jpg",
    ) -> list[str]:
        """A mesh as OBJ, with `save_mat` also MTL and textures beside it; returns the paths of all files."""
        name = filename.removesuffix(".obj")
        paths: list[str] = []
        header = "g object\n"
        if save_mat:
            maps = {
                "map_Kd": map_Kd,
                "map_Ks": map_Ks,
                "map_Bump": map_Bump,
                "map_Pm": map_Pm,
                "map_Pr": map_Pr,
            }
            paths += self._save_mtl(f"{name}.mtl", maps, map_format)
            header = f"mtllib {os.path.basename(name)}.mtl\ng object\nusemtl default\n"
        positions, triangles = self.convert_data(mesh.v_pos), self.convert_data(mesh.t_pos_idx) + 1
        lines = (
            positions
            if not save_vertex_color
            else np.concatenate([positions, self.convert_data(mesh.v_rgb)], axis=1)
        )
        text = [header, _lines("v", lines)]
        normal_index = uv_index = np.full(triangles.shape, "", dtype=object)
        if save_normal:
            text.append(_lines("vn", self.convert_data(mesh.v_nrm)))
            normal_index = triangles
        if save_uv:
            uv = self.convert_data(mesh.v_tex)
            text.append(_lines("vt", np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=-1)))
            uv_index = self.convert_data(mesh.t_tex_idx) + 1
        for corners in zip(triangles.tolist(), uv_index.tolist(), normal_index.tolist(), strict=True):
            text.append("f " + " ".join(f"{p}/{t}/{n}" for p, t, n in zip(*corners, strict=True)) + "\n")
        path = self.get_save_path(f"{name}.obj")
        with atomic_path(path) as temporary:
            temporary.write_text("".join(text), encoding="utf-8")
        return [*paths, path]

    def _save_mtl(self, filename: str, maps: dict[str, Any], map_format: str) -> list[str]:
        folder = os.path.dirname(filename)
        names = {
            "map_Kd": "texture_kd",
            "map_Ks": "texture_ks",
            "map_Bump": "texture_nrm",
            "map_Pm": "texture_metallic",
            "map_Pr": "texture_roughness",
        }
        instead = {"map_Kd": "Kd 1.0 1.0 1.0\n", "map_Ks": "Ks 0.0 0.0 0.0\n"}
        text, paths = ["newmtl default\nKa 0.0 0.0 0.0\n"], []
        for key, image in maps.items():
            if image is None:
                text.append(instead.get(key, ""))
                continue
            image = self.convert_data(image)
            texture = f"{names[key]}.{map_format}"
            if image.ndim == 3 and image.shape[-1] == 1:
                image = image[..., 0]
            target = os.path.join(folder, texture)
            paths.append(
                self.save_grayscale_image(target, image, data_range=(0, 1), cmap=None)
                if image.ndim == 2
                else self.save_rgb_image(target, image, data_format="HWC", data_range=(0, 1))
            )
            text.append(f"{key} {texture}\n")
        path = self.get_save_path(filename)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(text), encoding="utf-8")
        return [*paths, path]


def _lines(tag: str, rows: np.ndarray) -> str:
    return "".join(f"{tag} " + " ".join(f"{value:.6f}" for value in row) + "\n" for row in rows.tolist())


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(picture)).resize((width, height), Image.Resampling.BILINEAR)
    )


def _draw_texts(picture: np.ndarray, texts: list[str]) -> np.ndarray:
    """One text at the top of each of `len(texts)` equal vertical slots, black with a white outline."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    draw = ImageDraw.Draw(image)
    slot = picture.shape[0] // len(texts)
    for i, text in enumerate(texts):
        draw.text((4, 4 + i * slot), text, fill=(0, 0, 0), stroke_width=1, stroke_fill=(255, 255, 255))
    return np.asarray(image)


def _pad_to_blocks(frame: np.ndarray, block: int = 16) -> np.ndarray:
    """RGB, its sides continued to multiples of `block` (video codecs want that)."""
    frame = frame[..., :3] if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=-1)
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, -height % block), (0, -width % block), (0, 0)), mode="edge")
