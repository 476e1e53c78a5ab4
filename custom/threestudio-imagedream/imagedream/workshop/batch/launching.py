"""One picture of a batch in a worker process: `launch.py`, called there again and again.

In the embedded host the diffusion model stays in the process from one picture to the next
(`imagedream.memory_options.keep_models`); a real threestudio is a program of its own that `launch.py` starts for each picture.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from imagedream.image_prompt.prompt import MAX_BYTES
from imagedream.runs.files import atomic_path
from imagedream.runs.settings import merge, read_with_bases
from imagedream.workshop.batch.status import Status, read_status, write_status
from imagedream.workshop.rendering.captioned_files import Item

RUN = "run"
"""Folder of a picture's trial."""


@cache
def load_launcher(path: Path) -> ModuleType:
    """`launch.py` as a module, whose `main(argv)` is the command line."""
    spec = importlib.util.spec_from_file_location("imagedream_launcher", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(launch: "Launch") -> None:
    """Find out what is wrong with config and overrides before any worker starts; takes no model.

    Raises:
        ValueError: what launch.py says of them.
    """
    # the picture is not looked at, it only has to exist
    stand_in = ["tag=check", f"system.prompt_processor.image_path={launch.launcher}"]
    command = ["--config", launch.config, "--train", *launch.flags, *launch.overrides, *stand_in]
    problem = load_launcher(launch.launcher).problem(command)
    if problem:
        raise ValueError(problem)


def plain_text(caption: str) -> str:
    """A caption on one line, without control characters."""
    return "".join(character if character.isprintable() else " " for character in caption)


@dataclass(frozen=True)
class Launch:
    """What a worker does with a picture; raises ValueError with the run's last error."""

    launcher: Path
    config: str
    out: Path
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """Further flags of launch.py."""

    def folder(self, item: Item) -> Path:
        """All that is written about a picture."""
        return self.out / item.key

    def status(self, item: Item) -> Status:
        """How far it is: queued, unless its folder says otherwise of the same picture and settings."""
        new = Status("queued", item.source, item.caption or "", item.caption_from, self.identity(item))
        found = read_status(self.folder(item))
        if found is None or found.identity != new.identity:
            return new
        if found.state == "done" and not exported_files(self.folder(item)):
            return new
        return found

    def identity(self, item: Item) -> str:
        """See `Status.identity`."""
        digest = hashlib.sha256()
        picture = Path(item.source)
        if picture.stat().st_size <= MAX_BYTES:  # larger ones are refused anyway
            digest.update(hashlib.sha256(picture.read_bytes()).digest())
        digest.update(json.dumps([item.caption, self._settings]).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def _settings(self) -> str:
        """Config, with what it is based on, overrides and flags."""
        config = Path(self.config)
        config = config if config.is_file() else self.launcher.parent / "configs" / config
        content = merge(read_with_bases(config).values()) if config.is_file() else self.config
        return json.dumps([content, self.overrides, self.flags], default=str)

    def __call__(self, item: Item) -> None:
        """Run it; it continues what was left when it was killed; what belongs to other settings is removed."""
        from imagedream.memory_options import keep_models

        keep_models()
        status, folder = self.status(item), self.folder(item)
        if status.attempts == 0 or status.state == "done":
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        worker = f"{socket.gethostname()}:{os.getpid()}"
        status = status.now("running", attempts=status.attempts + 1, error=None, worker=worker)
        write_status(folder, status)
        start = time.perf_counter()
        try:
            self._run(item, folder)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            write_status(folder, status.now("failed", error=reason, seconds=_seconds_since(start)))
            raise
        write_status(folder, status.now("done", seconds=_seconds_since(start)))

    def _run(self, item: Item, folder: Path) -> None:
        picture = _copied(Path(item.source), folder)
        command = ["--config", self.config, "--train", *self.flags]
        if (folder / RUN / "ckpts").is_dir():
            command += ["--resume", "auto"]
        else:
            shutil.rmtree(folder / RUN, ignore_errors=True)
        command += ["trainer.enable_progress_bar=false", *self.overrides]
        command += [f"system.prompt_processor.image_path={picture}"]
        if item.caption:
            command += [f"system.prompt_processor.prompt={plain_text(item.caption)}"]
        # last, so that nothing moves it out of its folder
        command += [f"exp_root_dir={self.out}", f"name={item.key}"]
        command += [f"tag={RUN}", "use_timestamp=false"]
        with (folder / "log.txt").open("a", encoding="utf-8", errors="replace") as log, _output_to(log):
            sys.argv = [str(self.launcher), *command]
            code = load_launcher(self.launcher).main(command)
        if code:
            raise ValueError(last_error(folder / "log.txt") or f"launch.py ended with code {code}")
        if run_record(folder).get("interrupted"):
            raise ValueError("it was told to stop before its last step")
        exported = exported_files(folder)
        if not exported:
            raise ValueError("no mesh was exported, see log.txt")
        for mesh in exported:
            if mesh.suffix == ".glb":
                with atomic_path(self.out / f"{item.key}.glb") as path:
                    shutil.copyfile(mesh, path)


def exported_files(folder: Path) -> list[Path]:
    """What the runs in a picture's folder exported, the newest last."""
    found = (folder / RUN / "save").glob("it*-export/[!.]*")  # without those that are being written
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def _seconds_since(start: float) -> float:
    return round(time.perf_counter() - start, 2)


def _copied(picture: Path, folder: Path) -> Path:
    """The picture in its folder, under a name that every command line takes."""
    ending = re.sub(r"[^a-z0-9.]", "", picture.suffix.lower())
    copy = folder / f"picture{ending}"
    if picture.stat().st_size > MAX_BYTES:
        size = f"{picture.stat().st_size / 2**20:.0f} MiB"
        raise ValueError(f"{picture} has {size}, the limit is {MAX_BYTES / 2**20:.0f} MiB")
    with atomic_path(copy) as path:
        shutil.copyfile(picture, path)
    return copy


def run_record(folder: Path) -> dict[str, Any]:
    """What the run in a picture's folder has noted in `save/run.json` so far."""
    try:
        return json.loads((folder / RUN / "save" / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def last_error(log: Path) -> str | None:
    """The last error that launch.py reported; None also where there is no log yet."""
    if not log.is_file():
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next(
        (line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None
    )


@contextmanager
def _output_to(log: Any) -> Iterator[None]:
    """Send all output of this process and of programs that it starts to a file."""
    streams = sys.__stdout__, sys.__stderr__
    kept = [(number, os.dup(number)) for number in (1, 2)]
    for stream in streams:
        stream.flush()
    try:
        for number, _ in kept:
            os.dup2(log.fileno(), number)
        with redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        log.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
