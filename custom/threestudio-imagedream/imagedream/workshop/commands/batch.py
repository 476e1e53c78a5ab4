"""`batch`: a folder of pictures becomes a folder of meshes."""

import signal
from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import OutPath, Verb, say
from imagedream.runs.ranges import Count


@dataclass(frozen=True)
class Batch(Verb):
    """Every picture of a folder -> a GLB, by `launch.py`, in workers that load the model once.

    The same command continues where it was stopped: finished pictures are skipped, failed ones tried again.
    """

    pictures: tyro.conf.Positional[Path] = tyro.MISSING
    """Folder of pictures, at any depth, or a single one."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """`key=value` for every run."""
    out: OutPath = Path("batch")
    """Folder of the results; index.html in it shows them all."""
    config: str = "imagedream-toybox.yaml"
    """YAML file, or the name of one in configs/."""
    captions: str = "auto"
    """CSV file (name, caption), none, or auto: NAME.txt, otherwise the file name."""
    only: str | None = None
    """Which pictures: a text file of names without endings, one a line, or TABLE.csv:SPLIT with columns name, family, split."""
    preset: str | None = None
    """As of launch.py: auto, 8g, 12g, ..."""
    jobs: int = 1
    """Workers, each with a model of its own; they share the cores."""
    gpus: tuple[int, ...] = ()
    """Numbers of the GPUs that the workers take in turn; otherwise they share the first."""
    ray: str | None = None
    """Address of a Ray cluster to use instead of processes: auto, ray://HOST:10001, local; then --gpus 1 gives every
    worker a GPU of its own."""
    timeout_s: float = float("inf")
    """Seconds after which a run is given up."""
    attempts: Count = 2
    """How often a run may fail or its worker die before the picture counts as failed."""
    threestudio: Path | None = None
    """Folder of a real threestudio to run in, which loads the model for every picture anew."""

    def run(self) -> int:  # noqa: D102
        wrong = [override for override in self.overrides if "=" not in override]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is not an override of the form key=value")
        if "${" in str(self.out.resolve()):
            raise ValueError(f"--out is {self.out.resolve()}, must not hold ${{")
        if not self.pictures.exists():
            raise FileNotFoundError(f"{self.pictures}: no such picture or folder")
        from imagedream.image_prompt.prompt import SUFFIXES
        from imagedream.runs.project import project_folder
        from imagedream.workshop.batch.launching import Launch, check
        from imagedream.workshop.batch.run_batch import run_batch
        from imagedream.workshop.launched_run import known_pictures
        from imagedream.workshop.rendering.captioned_files import file_items, read_names

        flags = ["--preset", self.preset] if self.preset else []
        flags += ["--threestudio", str(self.threestudio.resolve())] if self.threestudio else []
        launch = Launch(
            project_folder() / "launch.py", self.config, self.out.resolve(), self.overrides, tuple(flags)
        )
        wanted, known = read_names(self.only), known_pictures(self.out)
        items = file_items(self.pictures, SUFFIXES, "picture", self.captions, wanted, self.out, known)
        check(launch)
        from imagedream.workshop.workers import choose_runner

        runner = choose_runner(self.jobs, self.ray, self.timeout_s, self.attempts, self.gpus)
        previous = signal.signal(signal.SIGTERM, _interrupt)  # ends as cleanly as Ctrl-C
        try:
            summary = run_batch(items, launch, runner)
        finally:
            signal.signal(signal.SIGTERM, previous)
        say(self.out / "index.html")
        return 1 if summary.failed else 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
