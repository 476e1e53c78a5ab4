"""Folders of runs in threestudio: `exp_root_dir/name/tag@timestamp`, with `ckpts/` and `save/` in it."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from imagedream.runs.atomic_checkpoints import newest_checkpoint, why_damaged
from imagedream.runs.disk_space import LEAST_FREE_BYTES, MIB, check_folder, checkpoint_bytes
from imagedream.runs.locks import locked, remove_dead
from imagedream.runs.versions import write_versions

logger = logging.getLogger(__name__)


def find_trial(cfg: Mapping[str, Any]) -> tuple[Path, str | None]:
    """The folder of the trial that a config names, and its timestamp: the newest one's where names have timestamps."""
    folder = Path(cfg.get("exp_root_dir", "outputs"), str(cfg.get("name", "default")))
    tag, timestamp = str(cfg.get("tag", "")), cfg.get("timestamp")
    if timestamp is None and cfg.get("use_timestamp", True):
        pattern = re.compile(re.escape(tag) + r"(@\d{8}-\d{6})")
        names = [path.name for path in folder.glob("*")] if folder.is_dir() else []
        timestamp = max((match[1] for match in map(pattern.fullmatch, names) if match), default=None)
    return folder / f"{tag}{timestamp or ''}", timestamp


def resolve_resume(cfg: Any, training: bool | None = True) -> None:
    """Turn `resume=auto` of a config into the newest whole checkpoint of its trial, or into a new start; says which.

    Args:
        cfg: of the experiment.
        training: as for `why_damaged`.

    Raises:
        ValueError: the checkpoint that a config names is damaged.
    """
    if cfg.get("resume") is None:
        return
    if cfg.resume != "auto":
        problem = why_damaged(cfg.resume, training)
        if problem is not None:
            raise ValueError(f"{cfg.resume} is not a checkpoint that can be resumed: {problem}")
        return
    trial, timestamp = find_trial(cfg)
    found = newest_checkpoint(trial / "ckpts", training)
    if timestamp is not None:
        cfg.timestamp = timestamp
    cfg.resume = None if found is None else str(found)
    if found is None:
        logger.info("resume=auto: no checkpoint in %s; starting anew", trial / "ckpts")
    else:
        logger.info("resume=auto: resuming %s", found)


@contextmanager
def at_work(trial: Path, cfg: Mapping[str, Any], mode: str) -> Iterator[None]:
    """A trial's folder for this run alone; training anew moves an earlier run out of it, and notes what it is made with.

    Raises:
        ValueError: another run is at work there.
    """
    for lock in trial.parent.glob(".*.lock"):  # of runs that were killed
        remove_dead(lock)
    with locked(trial, "run", beside=True):
        if mode == "train":
            if cfg.get("resume") is None:
                set_aside(trial)
            write_versions(trial / "code")
        yield


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
    logger.info("an earlier run in %s is in %s now", trial, aside)
    return aside


def check_space(trial: Path, cfg: Mapping[str, Any], system: Any) -> None:
    """Raise an OSError unless a trial's folders can be written and the disk has room for all of a training run.

    Args:
        trial: the trial's folder.
        cfg: the experiment's config.
        system: the `torch.nn.Module` that will be trained.
    """
    checkpoints, pictures = checkpoint_bytes(system) * checkpoint_count(cfg), picture_bytes(cfg)
    parts = {"checkpoints": checkpoints, "pictures": pictures, "other files": LEAST_FREE_BYTES}
    what = ", ".join(f"{size / MIB:.0f} of {name}" for name, size in parts.items())
    check_folder(trial, sum(parts.values()), what)
    for name in ("ckpts", "save", "configs", "code", "csv_logs"):
        check_folder(trial / name)


def checkpoint_count(cfg: Mapping[str, Any]) -> int:
    """Checkpoints of a run on disk at a time at most: by steps, the last, by the clock, and the one being written."""
    options, by_clock = cfg.get("checkpoint") or {}, cfg["system"].get("checkpoints") or {}
    steps, every = cfg["trainer"].get("max_steps", -1), options.get("every_n_train_steps") or 0
    kept = options.get("save_top_k", 1)
    written = steps // every if every > 0 and steps > 0 else 1
    by_steps = written if kept == -1 else min(kept, written)
    return by_steps + bool(options.get("save_last")) + by_clock.get("keep", 2) + 1


def picture_bytes(cfg: Mapping[str, Any]) -> int:
    """Validation views and turntable: three squares side by side, which PNG makes half as large or smaller."""
    data, trainer = cfg.get("data") or {}, cfg["trainer"]
    steps, every = max(trainer.get("max_steps", 0), 0), trainer.get("val_check_interval") or 0
    validations = steps // every if isinstance(every, int) and every > 0 else 1
    views = data.get("n_test_views", 0) + validations * data.get("n_val_views", 0)
    return views * data.get("eval_height", 0) * data.get("eval_width", 0) * 3 * 3 // 2
