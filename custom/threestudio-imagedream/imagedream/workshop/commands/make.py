"""`make`: a picture becomes a mesh file."""

import shutil
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import OutPath, Verb, check_ending, say

_OURS = ("exp_root_dir", "name", "tag", "timestamp", "use_timestamp", "resume")


@dataclass(frozen=True)
class Make(Verb):
    """A picture -> a textured mesh, by `launch.py`, which also leaves a report, pictures and checkpoints in a folder beside it."""

    logs_itself = True

    picture: tyro.conf.Positional[Path] = tyro.MISSING
    """PNG, JPEG, WebP, ..."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """`key=value`: what to change in the config."""
    out: OutPath = Path("model.glb")
    """Mesh to write (.glb, .ply, .stl or .usdz); the run's folder is OUT without its ending, with /run."""
    prompt: str = ""
    """What the object is."""
    config: str = "imagedream-toybox.yaml"
    """YAML file, or the name of one in configs/."""
    preset: str | None = None
    """As of launch.py: preview, auto, 8g, 12g, ..."""
    resume: bool = False
    """Continue a run that was stopped."""

    def run(self) -> int:  # noqa: D102
        check_ending(self.out, (".glb", ".ply", ".stl", ".usdz"))
        if not self.picture.is_file():
            raise FileNotFoundError(f"{self.picture}: no such picture")
        if self.out.is_dir() or self.out.parent.is_file():
            raise ValueError(f"--out is {self.out}, must name a file in a folder")
        given = dict(override.partition("=")[::2] for override in self.overrides)
        taken = [key for key in _OURS if key in given]
        if taken:
            raise ValueError(
                f"{taken[0]} is set by make: --out says where the run's folder is, --resume resumes"
            )
        ending = self.out.suffix.lower()[1:]
        formats = given.get("system.exporter.fmt", ending)
        if ending not in formats.split("+"):
            raise ValueError(f"system.exporter.fmt is {formats}, but --out is {self.out}")

        from imagedream.runs.files import atomic_path
        from imagedream.runs.project import project_folder
        from imagedream.workshop.launched_run import LaunchedRun, load_launcher

        launcher, folder = project_folder() / "launch.py", self.out.resolve().with_suffix("")
        run = LaunchedRun(folder, str(self.picture.resolve()), self.prompt, self.config, self.preset)
        overrides = [f"trainer.enable_progress_bar={str(not self.quiet).lower()}", *self.overrides]
        command = run.arguments(overrides, ["--verbose"] if self.verbose else [], formats, self.resume)
        sys.argv = [str(launcher), *command]  # what a run notes of its command
        with redirect_stdout(sys.stderr):
            code = load_launcher(launcher).main(command)
        if code:
            return code
        with atomic_path(self.out) as path:
            shutil.copyfile(run.exported_files(f".{ending}")[-1], path)
        say(self.out)
        return 0
