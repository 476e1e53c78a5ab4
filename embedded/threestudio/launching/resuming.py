"""Finding the checkpoint to go on from. Unpickles nothing, and needs no torch to find a file."""

import pickle
import re
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import threestudio


def why_damaged(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, by the check sums in it; None if it is whole. Unpickles nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("/data.pkl") for name in archive.namelist()):
                return "it is no checkpoint"
            broken = archive.testzip()
            return f"its part {broken} is damaged" if broken else None
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return str(error) or type(error).__name__


def read_status(path: str | Path) -> tuple[int, int]:
    """Epoch and step of a checkpoint, which must be whole and hold nothing but tensors and plain values.

    Raises:
        ValueError: it is or does not.
    """
    import torch

    problem = why_damaged(path)
    try:
        if problem is None:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return int(checkpoint["epoch"]), int(checkpoint["global_step"])
    except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        problem = str(error).splitlines()[0]
    raise ValueError(f"{path} is not a checkpoint that can be resumed: {problem}")


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a folder; says which damaged ones it passed over."""
    found = [path for path in Path(folder).glob("*.ckpt") if not path.name.startswith(".")]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        problem = why_damaged(path)
        if problem is None:
            return path
        threestudio.warn(f"resume=auto: {path} is damaged ({problem}); taking the one before")
    return None


def find_trial(cfg: Any) -> tuple[Path, str | None]:
    """The folder of the trial that a config names, and its timestamp: the newest one's where names have timestamps."""
    folder = Path(cfg.get("exp_root_dir", "outputs"), str(cfg.get("name", "default")))
    tag, timestamp = str(cfg.get("tag", "")), cfg.get("timestamp")
    if timestamp is None and cfg.get("use_timestamp", True):
        pattern = re.compile(re.escape(tag) + r"(@\d{8}-\d{6})")
        names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
        timestamps = [match[1] for match in map(pattern.fullmatch, names) if match]
        timestamp = max(timestamps, default=None)
    return folder / f"{tag}{timestamp or ''}", timestamp


def set_aside(trial: str | Path) -> Path | None:
    """Move an earlier run out of the folder of one that starts anew, so that their pictures and meshes do not mix.

    It gets the name that a timestamp of its last checkpoint or picture would have given it.

    Returns:
        Where it is now; None if there was none.
    """
    trial = Path(trial)
    written = [path for folder in ("ckpts", "save") for path in trial.glob(f"{folder}/*")]
    if not written:
        return None
    time = max(path.lstat().st_mtime for path in written)
    aside = trial.with_name(f"{trial.name}{datetime.fromtimestamp(time):@%Y%m%d-%H%M%S}")
    if aside.exists():
        raise FileExistsError(f"{trial} holds an earlier run, and so does {aside}; move one of them away")
    trial.rename(aside)
    threestudio.info(f"an earlier run in {trial} is in {aside} now")
    return aside


def resume_automatically(cfg: Any) -> None:
    """Turn `resume=auto` of a config into the newest whole checkpoint of its trial, or into a new start; says which."""
    if cfg.get("resume") != "auto":
        return
    trial, timestamp = find_trial(cfg)
    found = newest_checkpoint(trial / "ckpts")
    if timestamp is not None:
        cfg.timestamp = timestamp
    cfg.resume = None if found is None else str(found)
    if found is None:
        threestudio.info(f"resume=auto: no checkpoint in {trial / 'ckpts'}; starting anew")
    else:
        threestudio.info(f"resume=auto: going on from {found}")
    for leftover in (trial / "ckpts").glob(
        ".*.ckpt"
    ):  # half a checkpoint, of a run that was killed meanwhile
        leftover.unlink(missing_ok=True)
