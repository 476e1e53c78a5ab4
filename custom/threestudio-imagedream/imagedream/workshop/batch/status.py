"""How far a picture of a batch is: a small JSON file in its folder."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from imagedream.runs.files import atomic_path

State = Literal["queued", "running", "done", "failed"]

_NAME = "status.json"


@dataclass(frozen=True)
class Status:
    """What `status.json` says."""

    state: State
    picture: str
    """Where the picture came from."""
    caption: str
    caption_from: str
    identity: str
    """A hash of picture, caption, config and overrides: a result counts only for the same."""
    attempts: int = 0
    """Runs that were begun for it."""
    error: str | None = None
    """Why the last run failed."""
    worker: str | None = None
    """Machine and process of the last run."""
    queued_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    """Times of day, ISO 8601 in UTC."""
    seconds: float | None = None
    """Of the last run."""

    def now(self, state: State, **changes: Any) -> "Status":
        """This status in another state from now on."""
        time = {"queued": "queued_at", "running": "started_at"}.get(state, "finished_at")
        return replace(self, state=state, **{time: _now(), **changes})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_status(folder: Path, status: Status) -> None:
    """Write the status into the picture's folder, whole or not at all."""
    with atomic_path(folder / _NAME) as path:
        path.write_text(json.dumps(asdict(status), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_status(folder: Path) -> Status | None:
    """The status in a picture's folder; None where there is none, or none that can be read."""
    try:
        record = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        status = Status(**record)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return status if status.state in get_args(State) else None


def known_pictures(out: Path) -> dict[str, str]:
    """The pictures of earlier batches in a folder of results, by key."""
    found = {path.parent.name: read_status(path.parent) for path in out.glob(f"*/{_NAME}")}
    return {key: status.picture for key, status in found.items() if status is not None}
