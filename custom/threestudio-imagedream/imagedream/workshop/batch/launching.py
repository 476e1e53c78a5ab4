"""One picture of a batch in a worker process: `launch.py`, called there again and again.

In the embedded host the diffusion model stays in the process from one picture to the next
(`imagedream.memory_options.keep_models`); a real threestudio is a program of its own that `launch.py` starts for each picture.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from imagedream.image_prompt.prompt import MAX_BYTES
from imagedream.runs.files import atomic_path
from imagedream.runs.settings import merge, read_with_bases
from imagedream.workshop.launched_run import LOG, LaunchedRun, load_launcher, read_run, this_process
from imagedream.workshop.rendering.captioned_files import Item


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


@dataclass(frozen=True)
class Launch:
    """What a worker does with a picture; raises ValueError with the run's last error."""

    launcher: Path
    config: str
    out: Path
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """Further flags of launch.py."""

    def find(self, item: Item) -> LaunchedRun:
        """The picture's run: queued, unless its folder says otherwise of the same picture and settings."""
        folder, identity = self.out / item.key, self.identity(item)
        new = LaunchedRun(folder, item.source, item.caption or "", self.config, identity=identity)
        found = read_run(folder)
        if found is None or found.identity != identity:
            return new
        return new if found.state == "done" and not found.exported_files() else found

    def identity(self, item: Item) -> str:
        """See `LaunchedRun.identity`."""
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
        run = self.find(item)
        if run.attempts == 0 or run.state == "done":
            shutil.rmtree(run.folder, ignore_errors=True)
        run = run.note("running", attempts=run.attempts + 1, error="", process=this_process())
        try:
            self.launch(run)
        except Exception as error:
            run.note("failed", error=" ".join(str(error).split()) or type(error).__name__)
            raise
        run.note("done")

    def launch(self, run: LaunchedRun) -> None:
        """Do what is asked.

        Raises:
            ValueError: nothing came of it; says why.
        """
        copied = replace(run, picture=_copied(Path(run.picture), run.folder).name)
        command = copied.arguments(("trainer.enable_progress_bar=false", *self.overrides), self.flags)
        with (run.folder / LOG).open("a", encoding="utf-8", errors="replace") as log, _output_to(log):
            sys.argv = [str(self.launcher), *command]
            state, error = run.outcome(load_launcher(self.launcher).main(command))
        if state != "done":
            raise ValueError(error or "it was told to stop before its last step")
        for mesh in run.exported_files(".glb"):
            with atomic_path(self.out / f"{run.key}.glb") as path:
                shutil.copyfile(mesh, path)


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
