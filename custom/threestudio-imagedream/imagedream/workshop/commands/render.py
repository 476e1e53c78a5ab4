"""`render`: meshes become training views."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from imagedream.cli.verb import OutPath, Verb, say

if TYPE_CHECKING:
    from imagedream.workshop.rendering.object_views import RenderConfig


@dataclass(frozen=True)
class Render(Verb):
    """Meshes -> views and cameras as the trainer reads them.

    A single mesh file becomes a folder with one ring of views. A folder of meshes, an Objaverse download or toybox:N
    becomes shards: tar files of the same pictures, cameras and captions. Broken meshes are listed and skipped; the
    same command continues where it was stopped.
    """

    source: tyro.conf.Positional[str] = tyro.MISSING
    """GLB, glTF, OBJ, PLY or STL file, a folder of them at any depth, or toybox:N."""
    out: OutPath = Path("views")
    """Folder to make: new, empty, or one whose shards are not complete yet."""
    shards: bool = False
    """Shards even of a single mesh file."""
    caption: str | None = None
    """What a single mesh is."""
    captions: str = "auto"
    """CSV file (name, caption), none, or auto: NAME.txt, Objaverse annotations, glTF title, file name."""
    only: str | None = None
    """Which meshes: a text file of names without endings, one a line, or TABLE.csv:SPLIT with columns name, family, split."""
    up: Literal["auto", "x", "y", "z"] = "auto"
    """Which axis of the files is up; auto: y for glTF and OBJ, z for PLY and STL."""
    front: Literal["auto", "+x", "-x", "+y", "-y", "+z", "-z"] = "auto"
    """Which direction of the files the front faces (--front=-y); auto: +z for y up, +x for z up."""
    size: int = 256
    """Side of a view in pixels."""
    views: int = 32
    """Views in a ring around the object."""
    rings: int | None = None
    """Rings of an object; otherwise 1 of a single mesh, 2 in shards."""
    elevation_deg: tuple[float, ...] | None = None
    """Height angle of a ring, or lowest and highest; otherwise 10 of a single mesh, 0 30 in shards."""
    fov_y_deg: tuple[float, ...] | None = None
    """Field of view of a ring, or smallest and largest; otherwise 47.5 of a single mesh, 15 60 in shards."""
    relative_distance: tuple[float, ...] | None = None
    """Half the frame's height at the object's centre, whose longest side is 1; otherwise 0.73 or 0.45 0.55."""
    prompts: int | None = None
    """Prompt views of a ring, each with its own camera and light; otherwise 0 of a single mesh, 4 in shards."""
    light: Literal["random", "prompts", "fixed", "none"] | None = None
    """Random for each ring and prompt, for prompts alone, the same for all, or plain colours; otherwise fixed or random."""
    seed: int = 0
    """Of everything random."""
    jobs: int | None = None
    """Processes; all cores by default."""
    ray: str | None = None
    """Address of a Ray cluster to use instead of processes: auto, ray://HOST:10001, local."""
    timeout_s: float = 600.0
    """Seconds after which an object is given up."""
    objects_per_shard: int = 64
    """Objects in a tar file."""

    def run(self) -> None:  # noqa: D102
        from imagedream.workshop.mesh_files.reading import MESH_SUFFIXES
        from imagedream.workshop.rendering.captioned_files import TOYBOX, Item, find_items, read_names
        from imagedream.workshop.rendering.object_views import render_mesh_file
        from imagedream.workshop.rendering.shards import render_shards

        many = self.source.startswith(TOYBOX) or Path(self.source).suffix.lower() not in MESH_SUFFIXES
        many = many or Path(self.source).is_dir()
        shards = self.shards or many
        if many and self.caption is not None:
            raise ValueError("--caption is for a single mesh; --captions names a CSV file for many")
        config = self._config(shards)
        items = find_items(self.source, self.captions, read_names(self.only))
        if self.caption is not None:
            items = [Item(items[0].key, items[0].source, self.caption, "option")]
        if shards:
            jobs = self.jobs if self.jobs is not None else 0 if self.ray else os.cpu_count() or 1
            from imagedream.runs.locks import locked
            from imagedream.workshop.workers import choose_runner

            runner = choose_runner(jobs, self.ray, self.timeout_s, share_cores=False)
            with locked(self.out, "rendering", beside=True):
                render_shards(items, self.out, config, runner, self.objects_per_shard)
        else:
            render_mesh_file(items[0], self.out, config)
        say(self.out)

    def _config(self, shards: bool) -> "RenderConfig":
        from imagedream.workshop.rendering.object_views import SINGLE_MESH, RenderConfig

        given = {
            "elevation_deg": _range("elevation-deg", self.elevation_deg),
            "fov_y_deg": _range("fov-y-deg", self.fov_y_deg),
            "relative_distance": _range("relative-distance", self.relative_distance),
            "rings": self.rings,
            "prompts": self.prompts,
            "lighting": self.light,
        }
        usual = {} if shards else SINGLE_MESH
        chosen = {**usual, **{name: value for name, value in given.items() if value is not None}}
        same = {name: getattr(self, name) for name in ("size", "views", "up", "front", "seed")}
        return RenderConfig(**chosen, **same)


def _range(name: str, numbers: tuple[float, ...] | None) -> tuple[float, float] | None:
    if numbers is None:
        return None
    if len(numbers) not in (1, 2):
        raise ValueError(f"--{name} takes one number, or the lowest and the highest, got {len(numbers)}")
    return numbers[0], numbers[-1]
