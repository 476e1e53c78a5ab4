"""Where weights are: shipped with the code, on this disk, or in a repository of the Hugging Face hub."""

import hashlib
import logging
import os
import queue
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from imagedream.checkpoints.errors import CheckpointError, refusing
from imagedream.checkpoints.tensors import PICKLED, SAFETENSORS, SUFFIXES

logger = logging.getLogger(__name__)

TOYBOX = Path(__file__).resolve().parents[1] / "weights" / "toybox"
"""The small model that ships with the code; its name in configs is `toybox`."""


@dataclass(frozen=True)
class Published:
    """A file that somebody else published."""

    repository: str
    what: str
    size: str
    sha256: str = ""
    """What is known of the file's hash: its first digits."""
    controllers: str | None = None
    """What the tensors cannot tell: the local and the pixel model have the same ones."""


PUBLISHED: Mapping[str, Published] = {
    "sd-v2.1-base-4view-ipmv.pt": Published(
        "Peng-Wang/ImageDream", "pixel model", "8.05 GB", "43d00758", "pixel"
    ),
    "sd-v2.1-base-4view-ipmv-local.pt": Published(
        "Peng-Wang/ImageDream", "local model", "8.05 GB", "54f2338a", "local"
    ),
    "sd-v2.1-base-4view.pt": Published("MVDream/MVDream", "MVDream, reads captions only", "5.22 GB"),
}
"""By file name."""

_HUB = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>refs/\w+/\w+|[\w.-]+))?(/(?P<file>[\w./-]+))?"
)


def check_source(source: str | Path) -> None:
    """Raise CheckpointError, without downloading or opening anything big, if nothing can be at `source`."""
    path = local_path(source)
    if path is None:
        return
    if not path.exists():
        raise CheckpointError(f"no weights at {path}: {_where_to_get(path)}")
    if path.is_file() and path.suffix not in (*SAFETENSORS, *PICKLED):
        raise CheckpointError(f"{path} is no weights file: its name must end in one of {SUFFIXES}")


def _where_to_get(path: Path) -> str:
    known = PUBLISHED.get(path.name)
    if known:
        hub = f"{known.repository}/{path.name}"
        return (
            f"{path.name} ({known.what}, {known.size}) is published on the Hugging Face hub in {known.repository}; download "
            f"it and point to your copy with system.guidance.weights=/path/to/{path.name}, or let it be downloaded with "
            f"system.guidance.weights={hub}"
        )
    published = "; ".join(
        f"{entry.repository}/{name} ({entry.what}, {entry.size})" for name, entry in PUBLISHED.items()
    )
    return (
        "allowed are 'toybox' (the small model that ships), a folder or file of weights on this disk, and hub ids such as "
        + published
    )


_PARTS = ("unet", "vae", "encoder", "text_encoder", "image_encoder", "ip_adapter")
"""Folders of a model on the hub that may hold weights."""


def local_path(source: str | Path) -> Path | None:
    """The path that a source names; None if it is an id on the hub.

    An id is `owner/name` or `owner/name/file.pt` when there is no such path here; `owner/name@revision` pins it.
    """
    if str(source) == "toybox":
        return TOYBOX
    with refusing(str(source)):
        path = Path(source).expanduser()
    if isinstance(source, str) and not path.exists() and _HUB.fullmatch(source) and not _looks_local(source):
        return None
    return path


def _looks_local(source: str) -> bool:
    """Whether a path that is not there was surely meant as one.

    It is in a folder that exists, or its name speaks against an id: `outputs/model.pt`, `outputs/train/part/model`.
    """
    match, suffixes = _HUB.fullmatch(source), (*SAFETENSORS, *PICKLED)
    return (
        Path(source).parent.is_dir()
        or Path(match["repository"]).suffix in suffixes
        or (match["file"] is not None and Path(match["file"]).suffix not in suffixes)
    )


def fetch(source: str | Path) -> Path:
    """The path of a source, downloaded into the hub's cache if need be (resumed, checked, shown with progress).

    `HF_HUB_OFFLINE`, `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_ETAG_TIMEOUT` count as for every user of the hub; no token is
    needed. Where the hub does not answer, what was downloaded before is taken.

    Raises:
        CheckpointError: if it is neither here nor to be had.
    """
    check_source(source)
    path = local_path(source)
    if path is not None:
        return path
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    match = _HUB.fullmatch(str(source))
    repository, revision, file = match["repository"], match["revision"], match["file"]
    silence = _silence(repository, revision)
    options = {"revision": revision, "local_files_only": silence is not None}
    try:
        if file is None:
            path, fresh = _fetch_folder(repository, options), False
        else:
            fresh = not isinstance(try_to_load_from_cache(repository, file, revision=revision), str)
            path = Path(hf_hub_download(repository, file, **options))
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled, OSError) as error:
        reason = silence or (str(error) or type(error).__name__).strip().splitlines()[0]
        raise CheckpointError(
            f"{source} is no path here, and as an id on the Hugging Face hub it could not be had: {reason}"
        ) from error
    if silence is not None:
        logger.info("%s is taken from the hub's cache: %s", source, silence)
    if "snapshots" in path.parts:
        logger.info("%s: commit %s", source, path.parts[path.parts.index("snapshots") + 1])
    if fresh and revision is None:
        _check_hash(path, PUBLISHED.get(path.name), repository)
    return path


def _silence(repository: str, revision: str | None) -> str | None:
    """Why the hub cannot be asked for a repository; None if it answers, whatever it says.

    The hub's client tries again for half a minute where there is no network. This asks once, in a thread, since looking
    up a name cannot be given a limit.
    """
    from huggingface_hub import HfApi, errors

    limit_s = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", "2"))
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            HfApi().model_info(repository, revision=revision, timeout=limit_s)
            answers.put(None)
        except (errors.HfHubHTTPError, errors.HFValidationError):
            answers.put(None)
        except Exception as error:
            answers.put(
                f"the hub cannot be reached ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
            )

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except queue.Empty:
        return f"no answer from the hub in {limit_s:g} s (HF_HUB_ETAG_TIMEOUT sets another limit)"


def _fetch_folder(repository: str, options: Mapping[str, Any]) -> Path:
    """Settings and weights of a model folder: of each part one form, safetensors and plain names first.

    Raises:
        CheckpointError: nothing in the repository's folders is a weights file.
    """
    from huggingface_hub import snapshot_download

    missing = set(_PARTS)
    for ending, ignored in product(("safetensors", "bin"), (["*.fp16.*", "*.non_ema.*"], None)):
        wanted = ["*.json", *(f"{part}/*.{ending}" for part in missing)]
        path = Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=ignored, **options))
        missing -= {part for part in missing if any((path / part).glob(f"*.{ending}"))}
    if missing == set(_PARTS):
        raise CheckpointError(
            f"{repository} is no model folder; name one of its files: {repository}/FILE (those that end in {SUFFIXES})"
        )
    return path


def _check_hash(path: Path, known: Published | None, repository: str) -> None:
    """Compare a new download with what is known of it."""
    if known is None or not known.sha256 or known.repository != repository:
        return
    logger.info("checking %s", path.name)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(known.sha256):
        path.resolve().unlink()
        raise CheckpointError(
            f"the download of {path.name} is damaged: its sha256 begins with {found[:8]} instead of {known.sha256}; "
            "it was removed, try again"
        )


def published_controllers(path: Path) -> str | None:
    """The controllers of a published file that was downloaded from the hub, whose cache names files by their hash."""
    stored = path.resolve().name
    known = [entry for entry in PUBLISHED.values() if entry.sha256 and stored.startswith(entry.sha256)]
    return known[0].controllers if known else None


def describe_source(source: Any) -> str:
    """A source in words, for logs."""
    return "the small model that ships" if str(source) == "toybox" else str(source)
