"""A run of `launch.py` for one picture, in a folder of its own: what is asked for, its command, how it stands, what became of it.

The folder holds `status.json` (a `LaunchedRun`), the pictures, `log.txt` and, in `run/`, what `launch.py` leaves. The library starts
`launch.py` as a shell would, by its path: it imports neither threestudio nor the extension.
"""

import importlib.util
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import psutil

from imagedream.runs.files import atomic_path

State = Literal["queued", "running", "done", "stopped", "failed", "cancelled"]
RUN, STATUS, LOG = "run", "status.json", "log.txt"


@cache
def load_launcher(path: Path) -> ModuleType:
    """`launch.py` as a module, whose `main(argv)` is the command line."""
    spec = importlib.util.spec_from_file_location("imagedream_launcher", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class LaunchedRun:
    """What `status.json` says, and the folder it lies in."""

    folder: Path
    picture: str
    """A file in the folder, or wherever it came from."""
    prompt: str = ""
    """What the object is."""
    config: str = ""
    """YAML file, or the name of one in `configs/`."""
    preset: str | None = None
    seed: int | None = None
    """Of the views and of the run; None for the config's."""
    mask: str | None = None
    sides: Mapping[str, str] = field(default_factory=dict)
    """Further pictures of the object by the side they show: front, left, back, right."""
    identity: str = ""
    """A hash of picture, prompt, config and overrides: a result of a batch counts only for the same."""
    state: State = "queued"
    error: str = ""
    """Why it stands like that."""
    attempts: int = 0
    """How often it was begun."""
    stop_asked: bool = False
    process: Sequence[Any] | None = None
    """Machine, number and beginning of its program, since numbers are used again."""
    queued_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    """Times of day, ISO 8601 in UTC."""

    @property
    def key(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def trial(self) -> Path:
        """What `launch.py` leaves."""
        return self.folder / RUN

    @property
    def seconds(self) -> float | None:
        """That the last attempt took."""
        if self.started_at is None or self.finished_at is None:
            return None
        begun, ended = map(datetime.fromisoformat, (self.started_at, self.finished_at))
        return (ended - begun).total_seconds()

    def note(self, state: State | None = None, **changes: Any) -> "LaunchedRun":
        """The run as it stands from now on, written whole or not at all."""
        if state is not None:
            time = {"queued": "queued_at", "running": "started_at"}.get(state, "finished_at")
            changes |= {"finished_at": None} if state == "running" else {}
            changes |= {"state": state, time: datetime.now(UTC).isoformat(timespec="milliseconds")}
        run = replace(self, **changes)
        content = {name: value for name, value in asdict(run).items() if name != "folder"}
        with atomic_path(self.folder / STATUS) as path:
            path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return run

    def arguments(
        self,
        overrides: Sequence[str] = (),
        flags: Sequence[str] = (),
        formats: str | None = None,
        resume: bool = True,
    ) -> list[str]:
        """What `launch.py` is told.

        Args:
            overrides: `key=value`, before the run's own.
            flags: further ones.
            formats: of the exported mesh, joined by +; None for the config's.
            resume: go on from the last checkpoint, if there is one.
        """
        told = ["--config", self.config, "--train", *flags]
        told += ["--preset", self.preset] if self.preset else []
        told += ["--resume", "auto"] if resume else []
        told += overrides
        told += [] if self.seed is None else [f"seed={self.seed}", f"system.views.seed={self.seed}"]
        for name, file in {"image": self.picture, "mask": self.mask, **self.sides}.items():
            told += [f"system.prompt_processor.{name}_path={self.folder / file}"] if file else []
        told += [f"system.prompt_processor.prompt={_plain_text(self.prompt)}"] if self.prompt else []
        told += [f"system.exporter.fmt={formats}"] if formats else []
        # last, so that nothing moves it out of its folder
        told += [f"exp_root_dir={self.folder.parent}", f"name={self.key}", f"tag={RUN}"]
        return [*told, "use_timestamp=false"]

    def program(self) -> psutil.Process | None:
        """Its program, unless that has ended."""
        if self.process is None:
            return None
        _, number, begun = self.process
        try:
            found = psutil.Process(number)
            same = abs(found.create_time() - begun) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return None
        return found if same else None

    def exported_files(self, suffix: str = "") -> list[Path]:
        """Meshes and what belongs to them, or those with a suffix, finished or not, the newest last."""
        found = (self.trial / "save").glob(
            f"it*-export/[!.]*{suffix}"
        )  # without those that are being written
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def outcome(self, code: int | None) -> tuple[State, str]:
        """What became of it when its program has ended: done, stopped with a mesh of what was there, or failed; and why.

        Args:
            code: of `launch.py`; negative for a signal, None where nobody knows.
        """
        try:
            record = json.loads((self.trial / "save" / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            record = {}
        if not code and "export" in record.get("seconds", {}) and self.exported_files():
            return ("stopped", "") if record.get("interrupted") else ("done", "")
        ended = "its program was ended" if code is None or code < 0 else f"launch.py ended with code {code}"
        return "failed", self._last_error() or f"{ended} and left no mesh; see {LOG}"

    def _last_error(self) -> str | None:
        """The last error that `launch.py` reported."""
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else None


def this_process() -> tuple[str, int, float]:
    """This process as a run's `LaunchedRun.process`."""
    return identify(psutil.Process(os.getpid()))


def identify(process: psutil.Process) -> tuple[str, int, float]:
    """A process as a run's `LaunchedRun.process`."""
    return socket.gethostname(), process.pid, process.create_time()


def read_run(folder: Path) -> LaunchedRun | None:
    """The run in a folder; None where there is none, or none that can be read."""
    try:
        record = json.loads((folder / STATUS).read_text(encoding="utf-8"))
        run = LaunchedRun(folder, **record)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return run if run.state in get_args(State) else None


def known_pictures(folder: Path) -> dict[str, str]:
    """The pictures of earlier runs in a folder of results, by key."""
    found = (read_run(path.parent) for path in folder.glob(f"*/{STATUS}"))
    return {run.key: run.picture for run in found if run is not None}


def _plain_text(prompt: str) -> str:
    """A prompt on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in prompt)
