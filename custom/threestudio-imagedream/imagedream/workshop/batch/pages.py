"""The end of a batch: a contact sheet and a page that leads to every report."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import PIL.Image

from imagedream.cameras import VIEW_NAMES
from imagedream.pictures import contact_sheet, leftmost_square, on_white
from imagedream.report import write_page
from imagedream.runs.files import atomic_path
from imagedream.workshop.batch.launching import Launch
from imagedream.workshop.launched_run import LOG, RUN, LaunchedRun
from imagedream.workshop.rendering.captioned_files import Item

SHEET, INDEX = "contact_sheet.png", "index.html"

_TURNS_DEG = (0, 90, 180, 270)
_COLUMNS = ("picture", *VIEW_NAMES, *(f"model {turn}°" for turn in _TURNS_DEG))
_TILE_PX = 128


def write_pages(items: Sequence[Item], launch: Launch) -> None:
    """Write contact sheet and index of what is there by now."""
    runs = [launch.find(item) for item in items]
    done = [run for run in runs if run.state == "done"]
    rows = [_pictures(run.trial / "save") for run in done]
    if rows:
        sheet = contact_sheet(_COLUMNS, rows, _TILE_PX, [run.key for run in done])
        with atomic_path(launch.out / SHEET) as path:
            sheet.save(path)
    counts = {state: sum(run.state == state for run in runs) for state in ("done", "failed")}
    summary = f"{counts['done']} of {len(items)} pictures have their model"
    summary += f", {counts['failed']} failed" if counts["failed"] else ""
    write_page(
        "batch.html",
        launch.out / INDEX,
        title=launch.out.name,
        summary=summary,
        sheet=SHEET if rows else "",
        rows=[_row(run) for run in runs],
    )


def _row(run: LaunchedRun) -> dict[str, Any]:
    key, out = run.key, run.folder.parent
    files = {"report": f"{key}/{RUN}/report.html", "GLB": f"{key}.glb", "log": f"{key}/{LOG}"}
    picture = next(run.folder.glob("picture.*"), None)
    facts = [run.state if run.seconds is None else f"{run.state}, {run.seconds:.0f} s"]
    facts += [run.error] if run.error and run.state != "done" else []
    return {
        "state": run.state,
        "picture": "" if picture is None else quote(f"{key}/{picture.name}"),
        "key": key,
        "prompt": run.prompt,
        "facts": "; ".join(facts),
        "links": {label: quote(file) for label, file in files.items() if (out / file).is_file()},
    }


def _pictures(save: Path) -> list[PIL.Image.Image | None]:
    """A row of the sheet: prompt, the four views, the turntable's quarters; None where there is none."""
    views: list[PIL.Image.Image | None] = [None] * len(VIEW_NAMES)
    with (
        suppress(OSError, ValueError, LookupError),
        np.load(save / "views.npz", allow_pickle=False) as stored,
    ):
        views = [PIL.Image.fromarray(view) for view in stored["images"][: len(VIEW_NAMES)]]
    return [_on_white(save / "prompt.png"), *views, *_turntable(save)]


def _on_white(path: Path) -> PIL.Image.Image | None:
    with suppress(OSError), PIL.Image.open(path, formats=["PNG"]) as picture:
        return on_white(picture)
    return None


def _turntable(save: Path) -> list[PIL.Image.Image | None]:
    """Frames of the last turntable at `_TURNS_DEG`: of the squares side by side the leftmost, the colours."""
    folders = sorted(save.glob("it*-test"), key=lambda path: path.stat().st_mtime_ns)
    frames = (
        sorted(folders[-1].glob("*.png"), key=lambda path: (len(path.stem), path.stem)) if folders else []
    )
    pictures: list[PIL.Image.Image | None] = [None] * len(_TURNS_DEG)
    for index, turn in enumerate(_TURNS_DEG if frames else ()):
        frame = frames[round(turn / 360 * len(frames)) % len(frames)]
        with suppress(OSError), PIL.Image.open(frame, formats=["PNG"]) as picture:
            pictures[index] = leftmost_square(picture.convert("RGB"))
    return pictures
