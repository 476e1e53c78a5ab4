"""The runs of the page: what was asked lies on disk, `launch.py` makes one after the other, whoever looks reads how far they are.

Each run has a folder: `asked.json` (what is wanted and how it stands), its pictures, `log.txt`, and `run/` as `launch.py` leaves
it. A run is a program of its own, which neither a closed page nor a stopped server ends; a server that starts again finds it.
"""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

import psutil

from imagedream.image_prompt.prompt import SUFFIXES
from imagedream.runs.disk_space import LEAST_FREE_BYTES, check_folder
from imagedream.runs.files import atomic_folder, atomic_path
from imagedream.runs.user_errors import one_line
from imagedream.workshop.batch.launching import RUN, exported_files, last_error, plain_text, run_record

logger = logging.getLogger("imagedream.app")

State = Literal["queued", "running", "done", "stopped", "failed", "cancelled"]
MOST_WAITING = 8
MOST_CAPTION = 500
"""Characters."""

_ASKED, _LOG, _OBJ = "asked.json", "log.txt", "model-obj.zip"
_KEY = re.compile(r"\d{8}-\d{6}-\d{6}")
_PROGRESS = re.compile(r"(Four views|Training|Rendering): +\d+%.*? (\d+)/(\d+) \[[\d:]+<([\d:]+|\?)")
_TAIL_BYTES = 16384


@dataclass(frozen=True)
class Order:
    """What is wanted of a run."""

    config: str
    """Name of a file in `configs/`."""
    preset: str | None = None
    caption: str = ""
    seed: int = 0
    """Of the views and of the run."""
    picture: str = ""
    """File in the run's folder; so are the others."""
    mask: str | None = None
    sides: Mapping[str, str] = field(default_factory=dict)
    """Further pictures of the object by the side they show: front, left, back, right."""


@dataclass(frozen=True)
class Run:
    """How a run stands."""

    key: str
    """Name of its folder: the time it was asked for."""
    order: Order
    state: State = "queued"
    error: str = ""
    stop_asked: bool = False
    resume: bool = False
    """Go on from its last checkpoint."""
    process: Sequence[float] | None = None
    """Number of its program and when that began, since numbers are used again."""


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
        self, order: Order, picture: Path, mask: Path | None = None, sides: Mapping[str, Path] | None = None
    ) -> Run:
        """Put a run into the queue; its pictures are copied.

        Raises:
            ValueError: the queue is full, or the caption too long.
            OSError: the disk is full, or cannot be written.
        """
        if len(order.caption) > MOST_CAPTION:
            raise ValueError(
                f"the caption has {len(order.caption)} characters, {MOST_CAPTION} are allowed; shorten it"
            )
        with self._lock:
            waiting = sum(run.state == "queued" for run in self.all())
            if waiting >= MOST_WAITING:
                raise ValueError(
                    f"{waiting} runs are waiting, which is the most; cancel one or wait until one ends"
                )
            check_folder(self.folder, LEAST_FREE_BYTES)
            key = f"{datetime.now():%Y%m%d-%H%M%S-%f}"
            files = {"picture": picture, "mask": mask, **(sides or {})}
            names = {name: _safe_name(name, path) for name, path in files.items() if path is not None}
            order = replace(
                order,
                caption=plain_text(order.caption),
                picture=names["picture"],
                mask=names.get("mask"),
                sides={side: names[side] for side in sides or {}},
            )
            with atomic_folder(self.folder / key) as folder:
                for name, file in names.items():
                    shutil.copyfile(files[name], folder / file)
                _write(folder, Run(key, order))
        self._wake.set()
        return self.get(key)

    def stop(self, key: str) -> Run:
        """Take a run out of the queue; or let it stop, keep and export what is there; asked again, end it at once."""
        with self._lock:
            run = self.get(key)
            if run.state == "queued":
                return self._note(run, state="cancelled")
            if run.state == "running":
                if process := _find(run.process):
                    process.send_signal(signal.SIGTERM if run.stop_asked else signal.SIGINT)
                return self._note(run, stop_asked=True)
            return run

    def resume(self, key: str) -> Run:
        """Put a run that was stopped or failed into the queue again, to go on from its last checkpoint."""
        with self._lock:
            run = self.get(key)
            if run.state not in ("stopped", "failed", "cancelled"):
                return run
            run = self._note(run, state="queued", resume=True, stop_asked=False, error="", process=None)
        self._wake.set()
        return run

    # ------------------------------------------------------------------------------------------------ looking

    def get(self, key: str) -> Run:
        """The run of that name.

        Raises:
            ValueError: there is none; a name that is none of ours is not looked for.
        """
        if _KEY.fullmatch(key):
            try:
                content = json.loads((self.folder / key / _ASKED).read_text(encoding="utf-8"))
                return Run(key, Order(**content.pop("order")), **content)
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                pass
        raise ValueError(f"there is no run {key[:40]!r} here")

    def all(self) -> list[Run]:
        """Every run, the oldest first."""
        found = []
        for path in sorted(self.folder.glob(f"*/{_ASKED}")):
            try:
                found.append(self.get(path.parent.name))
            except ValueError:
                logger.debug("%s cannot be read", path)
        return found

    def waiting_before(self, run: Run) -> int:
        """Runs that come first."""
        return sum(other.state in ("queued", "running") and other.key < run.key for other in self.all())

    def progress(self, run: Run) -> Progress | None:
        """The last that the log says; None while it says nothing."""
        try:
            with (self.folder / run.key / _LOG).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
                tail = file.read().decode(errors="replace")
        except OSError:
            return None
        found = _PROGRESS.findall(tail.replace("\r", "\n"))
        if not found:
            return None
        phase, done, total, left = found[-1]
        return Progress(phase, int(done), int(total), left)

    def path(self, run: Run, name: str) -> Path:
        """A file of the run's own folder, as named in its order."""
        return self.folder / run.key / Path(name).name

    def snapshot(self, run: Run) -> Path | None:
        """The newest picture of the object: a validation view, colour first of the squares side by side."""
        return _newest((self.folder / run.key / RUN / "save").glob("it*-0.png"))

    def model(self, run: Run) -> Path | None:
        """The newest GLB, finished or not."""
        models = [path for path in exported_files(self.folder / run.key) if path.suffix == ".glb"]
        return models[-1] if models else None

    def files(self, run: Run) -> list[Path]:
        """What can be taken home by now."""
        folder, save = self.folder / run.key, self.folder / run.key / RUN / "save"
        exported = exported_files(folder)
        usdz = _newest(path for path in exported if path.suffix == ".usdz")
        found = [self.model(run), folder / _OBJ, usdz, _newest(save.glob("it*-test.mp4"))]
        found += [folder / RUN / name for name in ("report.html", "views.png")] + [folder / _LOG]
        return [path for path in found if path is not None and path.is_file()]

    # ----------------------------------------------------------------------------------------------- the queue

    def command(self, run: Run) -> list[str]:
        """What `launch.py` is told."""
        order, pictures = run.order, "system.prompt_processor"
        command = [sys.executable, str(self.launcher), "--config", order.config, "--train"]
        command += ["--preset", order.preset] if order.preset else []
        command += ["--resume", "auto"] if run.resume else []
        command += [*self.overrides, f"seed={order.seed}", f"system.views.seed={order.seed}"]
        command += [f"{pictures}.image_path={self.path(run, order.picture)}"]
        command += [f"{pictures}.mask_path={self.path(run, order.mask)}"] if order.mask else []
        command += [f"{pictures}.{side}_path={self.path(run, name)}" for side, name in order.sides.items()]
        command += [f"{pictures}.prompt={order.caption}"] if order.caption else []
        # last, so that nothing moves it out of its folder
        command += [f"system.exporter.fmt={self.formats}", f"exp_root_dir={self.folder}", f"name={run.key}"]
        return [*command, f"tag={RUN}", "use_timestamp=false"]

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

    def _start(self, run: Run) -> None:
        # noted before it begins, so that a server that is killed now leaves no run to start twice
        run = self._note(run, state="running", process=None)
        log = self.folder / run.key / _LOG
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(run),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[run.key] = process
        logger.info("%s: started", run.key)
        try:
            self._note(run, process=(process.pid, psutil.Process(process.pid).create_time()))
        except (OSError, psutil.Error):
            process.terminate()
            raise

    def _alive(self, run: Run) -> bool:
        child = self._children.get(run.key)
        if child is not None:
            return child.poll() is None
        return _find(run.process) is not None

    def _settle(self, run: Run) -> None:
        """Say what became of a run whose program has ended."""
        child, folder = self._children.pop(run.key, None), self.folder / run.key
        code = None if child is None else child.returncode
        record = run_record(folder)
        if code in (0, None) and self.model(run) and "export" in record.get("seconds", {}):
            self._zip_obj(folder)
            run = self._note(run, state="stopped" if record.get("interrupted") else "done", process=None)
        elif run.stop_asked:
            error = "it was stopped before there was a finished model"
            run = self._note(run, state="stopped", error=error, process=None)
        else:
            killed = code is None or code < 0
            ended = "its program was ended" if killed else f"launch.py ended with code {code}"
            error = last_error(folder / _LOG) or f"{ended}; see its log"
            run = self._note(run, state="failed", error=error, process=None)
        logger.info("%s: %s%s", run.key, run.state, f", {run.error}" if run.error else "")

    def _zip_obj(self, folder: Path) -> None:
        """The OBJ with its material and its pictures as one file."""
        obj = _newest(path for path in exported_files(folder) if path.suffix == ".obj")
        if obj is None:
            return
        parts = [obj, *(path for path in obj.parent.iterdir() if path.suffix in (".mtl", ".jpg", ".png"))]
        materials = "".join(path.read_text(encoding="utf-8") for path in parts if path.suffix == ".mtl")
        try:
            with (
                atomic_path(folder / _OBJ) as path,
                zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                for part in parts:
                    if part.suffix in (".obj", ".mtl") or part.name in materials:
                        archive.write(part, part.name)
        except OSError as error:
            logger.warning("%s: no %s: %s", folder.name, _OBJ, one_line(error))

    def _note(self, run: Run, **changes: object) -> Run:
        run = replace(run, **changes)
        _write(self.folder / run.key, run)
        return run


def _write(folder: Path, run: Run) -> None:
    content = {name: value for name, value in asdict(run).items() if name != "key"}
    with atomic_path(folder / _ASKED) as path:
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _find(process: Sequence[float] | None) -> psutil.Process | None:
    """The program, unless it has ended."""
    if process is None:
        return None
    try:
        found = psutil.Process(int(process[0]))
        same = abs(found.create_time() - process[1]) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return found if same else None


def _safe_name(name: str, path: Path) -> str:
    """A name that every command line takes; pictures are known by their content."""
    ending = path.suffix.lower()
    return f"{name}{ending if ending in SUFFIXES else '.png'}"


def _newest(paths: Iterator[Path]) -> Path | None:
    return max(paths, key=lambda path: path.stat().st_mtime_ns, default=None)
