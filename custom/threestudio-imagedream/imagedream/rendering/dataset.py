"""A mesh file -> a folder of RGBA views and their cameras, as the diffusion trainer reads them.

The folder holds `view_000.png`, `view_001.png`, … (straight alpha, azimuth growing from the front), `caption.txt` and
`cameras.json`: `caption`, `size`, and under `views`, for each picture, `file`, `name`, `azimuth_deg`, `elevation_deg`,
`fov_y_deg` and `camera_to_world` (4 rows of 4, `imagedream.cameras`).
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
import trimesh
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from imagedream import cameras
from imagedream.files import atomic_folder
from imagedream.rendering.meshes import load_mesh, normalise
from imagedream.rendering.raycast import Light, render

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ring:
    """Cameras evenly spread on a circle around the object, the first in front of it."""

    views: int = 32
    """A multiple of 4, so that front, left, back and right are among them."""
    elevation_deg: float = 10.0
    fov_y_deg: float = 47.5
    relative_distance: float = 0.73
    """Half the frame's height at the origin, in world units; the object's longest side is 1."""

    def __post_init__(self):
        cameras.check_angles(self.elevation_deg, self.fov_y_deg)
        if self.views < 4 or self.views % 4:
            raise ValueError(f"views is {self.views}, must be a multiple of 4 and at least 4")
        if not self.relative_distance > 0:
            raise ValueError(f"relative_distance is {self.relative_distance}, must be larger than 0")

    @property
    def azimuths_deg(self) -> Float[Tensor, " view"]:
        """Angles of the cameras in degrees, from 0."""
        return cameras.orthogonal_azimuths(0.0, self.views)

    @property
    def fovs_y_deg(self) -> Float[Tensor, " view"]:
        """The field of view, once for each camera."""
        return torch.full((self.views,), self.fov_y_deg)

    @property
    def camera_to_world(self) -> Float[Tensor, "view 4 4"]:
        """The cameras' matrices."""
        distance = cameras.framing_distance(self.relative_distance, self.fovs_y_deg)
        return cameras.look_at_origin(
            torch.full((self.views,), self.elevation_deg), self.azimuths_deg, distance
        )


def render_mesh_file(
    source: str | Path,
    out: str | Path,
    *,
    caption: str | None = None,
    size: int = 256,
    ring: Ring = Ring(),
    lit: bool = True,
    supersample: int = 2,
) -> Path:
    """Render a mesh file, brought to the unit cube, into a folder of views; the folder appears complete or not at all.

    Args:
        source: mesh file, see `imagedream.rendering.meshes.load_mesh`.
        out: folder to make; it must not exist or be empty.
        caption: what the object is; None takes the file's name with spaces for `_` and `-`.
        size: side of the pictures in pixels.
        ring: where the cameras stand.
        lit: whether a light shades the object; otherwise its plain colours are seen.
        supersample: samples along each side of a pixel.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such mesh file.
        FileExistsError: the folder holds something already.
        imagedream.rendering.meshes.MeshError: nothing in the file can be rendered.
    """
    source, out = Path(source), Path(out)
    mesh = normalise(load_mesh(source))
    if caption is None:
        caption = source.stem.replace("_", " ").replace("-", " ")
    with atomic_folder(out) as folder:
        write_views(mesh, folder, caption, size, ring, Light() if lit else None, supersample)
    logger.info("rendered %s (%d faces) as %d views into %s", source, len(mesh.faces), ring.views, out)
    return out


def write_views(
    mesh: trimesh.Trimesh,
    folder: Path,
    caption: str,
    size: int,
    ring: Ring,
    light: Light | None,
    supersample: int = 2,
) -> None:
    """Write the views, `caption.txt` and `cameras.json` of one mesh into an existing folder."""
    views = render(mesh, ring.camera_to_world, ring.fovs_y_deg, size, light, supersample)
    pixels = (views.rgba.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    records = []
    for index, azimuth_deg in enumerate(ring.azimuths_deg.tolist()):
        name = f"view_{index:03d}.png"
        Image.fromarray(pixels[index], "RGBA").save(folder / name)
        record = {
            "file": name,
            "name": cameras.view_name(azimuth_deg),
            "azimuth_deg": azimuth_deg,
            "elevation_deg": ring.elevation_deg,
            "fov_y_deg": ring.fov_y_deg,
            "camera_to_world": ring.camera_to_world[index].tolist(),
        }
        records.append(record)
    (folder / "caption.txt").write_text(caption + "\n", encoding="utf-8")
    description = {"caption": caption, "size": size, "views": records}
    (folder / "cameras.json").write_text(
        json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
