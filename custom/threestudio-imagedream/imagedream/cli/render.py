"""`render`: a mesh becomes training views."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import Verb, say


@dataclass(frozen=True)
class Render(Verb):
    """Mesh file -> a folder of views and cameras as the trainer reads them."""

    mesh: tyro.conf.Positional[Path] = tyro.MISSING
    """GLB, OBJ, PLY, STL, ..."""
    out: Path = Path("views")
    """Folder to make; it must not exist or be empty."""
    caption: str | None = None
    """What the object is; otherwise the file's name."""
    size: int = 256
    """Side of a view in pixels."""
    views: int = 32
    """How many, evenly around the object."""
    elevation_deg: float = 10.0
    """Height angle of the cameras."""
    fov_y_deg: float = 47.5
    """Field of view of the cameras."""
    relative_distance: float = 0.73
    """Half the frame's height at the object's centre; the object's longest side is 1."""
    light: bool = True
    """Shade the object; otherwise its plain colours are seen."""

    def run(self) -> None:  # noqa: D102
        from imagedream.rendering.dataset import Ring, render_mesh_file

        ring = Ring(self.views, self.elevation_deg, self.fov_y_deg, self.relative_distance)
        say(
            render_mesh_file(
                self.mesh, self.out, caption=self.caption, size=self.size, ring=ring, lit=self.light
            )
        )
