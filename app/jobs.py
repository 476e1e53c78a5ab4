"""The runs of the page: what was asked lies on disk, `launch.py` makes one after the other, whoever looks reads how far they are.

Each run has a folder, see `imagedream.workshop.launched_run`. A run is a program of its own, which neither a closed page nor a stopped
server ends; a server that starts again finds it.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil

from imagedream.image_prompt.prompt import SUFFIXES
from imagedream.runs.disk_space import LEAST_FREE_BYTES, check_folder
from imagedream.runs.files import atomic_folder, atomic_path
from imagedream.runs.user_errors import one_line
from imagedream.workshop.launched_run import LOG, LaunchedRun, identify, read_run

logger = logging.getLogger("imagedream.app")

MOST_WAITING = 8
MOST_PROMPT = 500
"""Characters."""

_OBJ = "model-obj.zip"
_KEY = re.compile(r"\d{8}-\d{6}-\d{6}")
_PROGRESS = re.compile(r"(Four views|Training|Rendering): +\d+%.*? (\d+)/(\d+) \[[\d:]+<([\d:]+|\?)")
_TAIL_BYTES = 16384


@dataclass(frozen=True)
class Progress:
    """What the log says of how far a run is."""

    phase: str
    done: int
    total: int
    left: str
    """Time, as in 03:20; `?` where nobody knows."""


class Runs:
    """All runs in a folder, one at work at a time.

    Args:
        folder: theirs; each has a folder in it.
        launcher: `launch.py`.
        overrides: `key=value` for every run.
        formats: of the exported mesh, joined by +.
    """

    def __init__(
        self, folder: Path, launcher: Path, overrides: tuple[str, ...] = (), formats: str = "glb+obj"
    ) -> None:
        self.folder, self.launcher = folder.resolve(), launcher
        self.overrides, self.formats = overrides, formats
        self.problem = ""
        """Why the queue waits though nothing runs."""
        self._lock, self._wake = threading.RLock(), threading.Event()
        self._children: dict[str, subprocess.Popen] = {}

    # ------------------------------------------------------------------------------------------------- asking

    def submit(
        self,
        picture: Path,
        config: str,
        preset: str | None = None,
        prompt: str = "",
        seed: int = 0,
        mask: Path | None = None,
        sides: Mapping[str, Path] | None = None,
    ) -> LaunchedRun:
        """Put a run into the queue, see `LaunchedRun`; its pictures are copied.

        Raises:
            ValueError: the queue is full, or the prompt too long.
            OSError: the disk is full, or cannot be written.
        """
        if len(prompt) > MOST_PROMPT:
            raise ValueError(
                f"the prompt has {len(prompt)} characters, {MOST_PROMPT} are allowed; shorten it"
            )
        with self._lock:
            waiting = sum(run.state == "queued" for run in self.all())
            if waiting >= MOST_WAITING:
                raise ValueError(
                    f"{waiting} runs are waiting, which is the most; cancel one or wait until one ends"
                )
            check_folder(self.folder, LEAST_FREE_BYTES)
            folder = self.folder / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
            files = {"picture": picture, "mask": mask, **(sides or {})}
            names = {name: _safe_name(name, path) for name, path in files.items() if path is not None}
            with atomic_folder(folder) as unfinished:
                for name, file in names.items():
                    shutil.copyfile(files[name], unfinished / file)
                pictures = {"mask": names.get("mask"), "sides": {side: names[side] for side in sides or {}}}
                run = LaunchedRun(unfinished, names["picture"], prompt, config, preset, seed, **pictures)
                run.note("queued")
        self._wake.set()
        return self.get(folder.name)

    def stop(self, key: str) -> LaunchedRun:
        """Take a run out of the queue; or let it stop, keep and export what is there; asked again, end it at once."""
        with self._lock:
            run = self.get(key)
            if run.state == "queued":
                return run.note("cancelled")
            if run.state == "running":
                if program := run.program():
                    program.send_signal(signal.SIGTERM if run.stop_asked else signal.SIGINT)
                return run.note(stop_asked=True)
            return run

    def resume(self, key: str) -> LaunchedRun:
        """Put a run that was stopped or failed into the queue again, to go on from its last checkpoint."""
        with self._lock:
            run = self.get(key)
            if run.state not in ("stopped", "failed", "cancelled"):
                return run
            run = run.note("queued", stop_asked=False, error="", process=None)
        self._wake.set()
        return run

    # ------------------------------------------------------------------------------------------------ looking

    def get(self, key: str) -> LaunchedRun:
        """The run of that name.

        Raises:
            ValueError: there is none; a name that is none of ours is not looked for.
        """
        run = read_run(self.folder / key) if _KEY.fullmatch(key) else None
        if run is None:
            raise ValueError(f"there is no run {key[:40]!r} here")
        return run

    def all(self) -> list[LaunchedRun]:
        """Every run, the oldest first."""
        found = (read_run(folder) for folder in sorted(self.folder.glob("*")) if _KEY.fullmatch(folder.name))
        return [run for run in found if run is not None]

    def waiting_before(self, run: LaunchedRun) -> int:
        """Runs that come first."""
        return sum(other.state in ("queued", "running") and other.key < run.key for other in self.all())

    def progress(self, run: LaunchedRun) -> Progress | None:
        """The last that the log says; None while it says nothing."""
        try:
            with (run.folder / LOG).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
                tail = file.read().decode(errors="replace")
        except OSError:
            return None
        found = _PROGRESS.findall(tail.replace("\r", "\n"))
        if not found:
            return None
        phase, done, total, left = found[-1]
        return Progress(phase, int(done), int(total), left)

    def snapshot(self, run: LaunchedRun) -> Path | None:
        """The newest picture of the object: a validation view, colour first of the squares side by side."""
        return _newest((run.trial / "save").glob("it*-0.png"))

    def model(self, run: LaunchedRun) -> Path | None:
        """The newest GLB, finished or not."""
        return _newest(run.exported_files(".glb"))

    def files(self, run: LaunchedRun) -> list[Path]:
        """What can be taken home by now."""
        found = [self.model(run), run.folder / _OBJ, _newest(run.exported_files(".usdz"))]
        found += [_newest((run.trial / "save").glob("it*-test.mp4"))]
        found += [run.trial / "report.html", run.trial / "views.png", run.folder / LOG]
        return [path for path in found if path is not None and path.is_file()]

    # ----------------------------------------------------------------------------------------------- the queue

    def command(self, run: LaunchedRun) -> list[str]:
        """The program of a run."""
        return [sys.executable, str(self.launcher), *run.arguments(self.overrides, formats=self.formats)]

    def step(self) -> None:
        """Note what has ended, start what is next."""
        with self._lock:
            runs = self.all()
            for run in runs:
                if run.state == "running" and not self._alive(run):
                    self._settle(run)
                elif run.state == "running":
                    return
            waiting = next((run for run in runs if run.state == "queued"), None)
            problem = ""
            if waiting is not None:
                try:
                    check_folder(self.folder, LEAST_FREE_BYTES)
                    self._start(waiting)
                except OSError as error:
                    problem = f"the queue waits: {one_line(error)}"
            if problem and problem != self.problem:
                logger.warning("%s", problem)
            self.problem = problem

    def serve(self, closed: threading.Event) -> None:
        """Take step after step until `closed`; whatever goes wrong with a run, the queue goes on."""
        while not closed.is_set():
            try:
                self.step()
            except Exception:
                logger.exception("the queue met an error and goes on")
            self._wake.wait(1.0)
            self._wake.clear()

    def _start(self, run: LaunchedRun) -> None:
        # noted before it begins, so that a server that is killed now leaves no run to start twice
        run = run.note("running", process=None, attempts=run.attempts + 1)
        with (run.folder / LOG).open("wb") as output:
            process = subprocess.Popen(
                self.command(run),
                cwd=run.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[run.key] = process
        logger.info("%s: started", run.key)
        try:
            run.note(process=identify(psutil.Process(process.pid)))
        except (OSError, psutil.Error):
            process.terminate()
            raise

    def _alive(self, run: LaunchedRun) -> bool:
        child = self._children.get(run.key)
        return run.program() is not None if child is None else child.poll() is None

    def _settle(self, run: LaunchedRun) -> None:
        """Say what became of a run whose program has ended."""
        child = self._children.pop(run.key, None)
        state, error = run.outcome(None if child is None else child.returncode)
        if state == "failed" and run.stop_asked:
            state, error = "stopped", "it was stopped before there was a finished model"
        elif state != "failed":
            self._zip_obj(run)
        run = run.note(state, error=error, process=None)
        logger.info("%s: %s%s", run.key, state, f", {error}" if error else "")

    def _zip_obj(self, run: LaunchedRun) -> None:
        """The OBJ with its material and its pictures as one file."""
        obj = _newest(run.exported_files(".obj"))
        if obj is None:
            return
        parts = [obj, *(path for path in obj.parent.iterdir() if path.suffix in (".mtl", ".jpg", ".png"))]
        materials = "".join(path.read_text(encoding="utf-8") for path in parts if path.suffix == ".mtl")
        try:
            with (
                atomic_path(run.folder / _OBJ) as path,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for part in parts:
                    if part.suffix in (".obj", ".mtl") or part.name in materials:
                        archive.write(part, part.name)
        except OSError as error:
            logger.warning("%s: no %s: %s", run.key, _OBJ, one_line(error))


def _safe_name(name: str, path: Path) -> str:
    """A name that every command line takes; pictures are known by their content."""
    ending = path.suffix.lower()
    return f"{name}{ending if ending in SUFFIXES else '.png'}"


def _newest(paths: Iterable[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
