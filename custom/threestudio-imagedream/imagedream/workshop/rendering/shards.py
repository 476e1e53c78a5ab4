"""A source of objects -> a folder of shards, by many processes; what is done is never done again.

The folder holds

    dataset.json                        how everything was rendered
    objects.jsonl                       one line an object: key, source, caption
    shard-000000.tar, …                 samples (`imagedream.workshop.rendering.samples`), all rings of an object in one shard
    shard-000000.json, …                how many, and what could not be rendered and why; written last
    failed.jsonl                        what could not be rendered in the whole set

An object's draws depend on the seed and its key alone, so that neither the number of processes nor an interruption
changes a byte. To render a shard's failed objects again, delete its two files and give the command again.
"""

import json
import logging
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imagedream.runs.files import atomic_path
from imagedream.runs.ranges import Count, check_value
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples
from imagedream.workshop.rendering.samples import CAMERAS, write_tar
from imagedream.workshop.workers import FatalError, Runner

logger = logging.getLogger(__name__)

OBJECTS_PER_SHARD = 64
"""About 100 MB at 256 pixels and two rings."""

_SETTINGS, _OBJECTS, _FAILED, _PARTS = "dataset.json", "objects.jsonl", "failed.jsonl", ".parts"
_WARNINGS, _WARNED = "warnings.jsonl", ("object", "source", "warnings")


@dataclass(frozen=True)
class Report:
    """What there is after a run."""

    objects: int
    """In the source."""
    samples: int
    """In the shards."""
    failed: list[dict[str, str]]
    """`object`, `source` and `error` of what could not be rendered."""


def render_shards(
    items: Sequence[Item],
    out: str | Path,
    config: RenderConfig,
    run: Runner,
    objects_per_shard: int = OBJECTS_PER_SHARD,
) -> Report:
    """Render objects into shards; one that was begun with the same settings is continued.

    Args:
        items: what to render; in a folder that was begun, the list it was begun with counts.
        out: the folder.
        config: how.
        run: where.
        objects_per_shard: how many objects' samples make a file.

    Returns:
        What there is now; broken objects are skipped and listed.

    Raises:
        ValueError: other settings than those the folder was begun with, or nothing could be rendered.
        FileExistsError: the folder holds something else.
        OSError: the folder cannot be written to.
    """
    check_value("objects_per_shard", objects_per_shard, Count)
    out = Path(out)
    items = _begin(items, out, {**asdict(config), "objects_per_shard": objects_per_shard})
    shards = [
        _Shard(out / f"shard-{start // objects_per_shard:06d}", items[start : start + objects_per_shard])
        for start in range(0, len(items), objects_per_shard)
    ]
    shard_of = {item.key: shard for shard in shards for item in shard.items}
    todo = [item for item in items if item.key in shard_of[item.key].open]
    if len(todo) < len(items):
        logger.info("%s: %d of %d objects are done already", out, len(items) - len(todo), len(items))
    cut = views = 0
    with tqdm(total=len(items), initial=len(items) - len(todo), desc="rendering", unit="object") as bar:
        for outcome in run(partial(_render_part, folder=out / _PARTS, config=config), todo):
            if outcome.fatal:
                raise OSError(outcome.error)
            if outcome.error is None:
                cut, views = cut + outcome.value[0], views + outcome.value[1]
                for warning in outcome.value[2]:
                    logger.warning("%s", warning)
            else:
                logger.warning("skipped %s: %s", outcome.task.source, outcome.error)
            shard_of[outcome.task.key].settle(outcome.task, outcome.error)
            bar.update()
    shutil.rmtree(out / _PARTS, ignore_errors=True)
    if cut:
        logger.info(
            "the frame's edge cuts the object in %d of %d views (relative_distance %g to %g; from 0.7 on it cuts few)",
            *(cut, views),
            *config.relative_distance,
        )
    return _report(out, shards)


class _Shard:
    """A shard and its objects: each has a part file, or a note of its failure, or is still open."""

    def __init__(self, path: Path, items: Sequence[Item]):
        self.path, self.items, self.note = path, items, path.with_suffix(".json")
        self._parts = {item.key: _part(path.parent / _PARTS, item) for item in items}
        self._failures = {key: part.with_suffix(".failed") for key, part in self._parts.items()}
        self.open: set[str] = set()
        """Keys of the objects that are still to be rendered."""
        if not self.note.is_file():  # it is written last
            done = [key for key in self._parts if self._parts[key].is_file() or self._failures[key].is_file()]
            self.open = set(self._parts) - set(done)
            if not self.open:
                self._join()

    def settle(self, item: Item, error: str | None) -> None:
        """An object is done, or cannot be done; with the last one the shard is complete."""
        if error is not None:
            with atomic_path(self._failures[item.key]) as temporary:
                temporary.write_text(error, encoding="utf-8")
        self.open.discard(item.key)
        if not self.open:
            self._join()

    def _join(self) -> None:
        samples, warned = 0, []
        parts = [part for part in self._parts.values() if part.is_file()]
        if parts:
            with (
                atomic_path(self.path.with_suffix(".tar")) as temporary,
                tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as joined,
            ):
                for part in parts:
                    with tarfile.open(part) as files:
                        for member in files:
                            joined.addfile(member, files.extractfile(member))
                            if member.name.endswith(f".{CAMERAS}"):
                                samples += 1
                                record = json.load(files.extractfile(member))
                                if record.get("warnings") and not record["ring"]:
                                    warned.append({name: record[name] for name in _WARNED})
        failed = [
            {"object": item.key, "source": item.source, "error": failure.read_text(encoding="utf-8")}
            for item, failure in zip(self.items, self._failures.values(), strict=True)
            if failure.is_file()
        ]
        with atomic_path(self.note) as temporary:
            counts = {"objects": len(self.items), "samples": samples}
            _write_lines(temporary, [{**counts, "failed": failed, "warned": warned}])
        for path in (*self._parts.values(), *self._failures.values()):
            path.unlink(missing_ok=True)


def _part(folder: Path, item: Item) -> Path:
    return folder / f"{item.key}.tar"


def _render_part(item: Item, folder: Path, config: RenderConfig) -> tuple[int, int, list[str]]:
    """Render an object into its part of a shard.

    Returns:
        How many of its views the frame cuts, how many there are, and the object's warnings.
    """
    samples = list(object_samples(item, config))
    try:
        with atomic_path(_part(folder, item)) as temporary:
            write_tar(((f"{item.key}_{sample.ring}", files) for sample, files in samples), temporary)
    except OSError as error:
        raise FatalError(f"{folder.parent} cannot be written to: {error}") from error
    cut, views = (
        sum(counts) for counts in zip(*((s.cut_views, len(s.views)) for s, _ in samples), strict=True)
    )
    return cut, views, samples[0][0].warnings


def _begin(items: Sequence[Item], out: Path, settings: dict[str, Any]) -> list[Item]:
    """Begin the folder, or check that it was begun with the same settings; its objects."""
    settings = json.loads(json.dumps(settings))
    if (out / _SETTINGS).is_file():
        begun = json.loads((out / _SETTINGS).read_text(encoding="utf-8"))
        differing = [
            f"{name} was {begun.get(name)} and is {settings.get(name)}"
            for name in settings  # what earlier versions had besides is no matter
            if begun.get(name) != settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"{out} was begun with other settings: {', '.join(differing)}; name another folder"
            )
        known = [Item(**record) for record in _read_lines(out / _OBJECTS)]
        if [item.key for item in known] != [item.key for item in items]:
            logger.warning(
                "the source now has %d objects, %s was begun with %d and continues with those; "
                "render new ones into another folder",
                *(len(items), out, len(known)),
            )
        return known
    if not items:
        raise ValueError("there are no objects to render")
    if out.is_file() or (out.is_dir() and {path.name for path in out.iterdir()} - {_OBJECTS}):
        raise FileExistsError(f"{out} holds something other than shards; name a new or an empty folder")
    with atomic_path(out / _OBJECTS) as temporary:
        _write_lines(temporary, [asdict(item) for item in items])
    with atomic_path(out / _SETTINGS) as temporary:
        temporary.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return list(items)


def _report(out: Path, shards: Sequence[_Shard]) -> Report:
    notes = [record for shard in shards for record in _read_lines(shard.note)]
    failed = [record for note in notes for record in note["failed"]]
    report = Report(sum(note["objects"] for note in notes), sum(note["samples"] for note in notes), failed)
    warned = [record for note in notes for record in note.get("warned", ())]
    for name, records in ((_FAILED, failed), (_WARNINGS, warned)):
        with atomic_path(out / name) as temporary:
            _write_lines(temporary, records)
    if not report.samples:
        raise ValueError(
            f"none of the {report.objects} objects could be rendered; the first: {failed[0]['error']}"
        )
    logger.info("%s: %d samples of %d objects", out, report.samples, report.objects - len(failed))
    if failed:
        logger.warning(
            "%d of %d objects could not be rendered, see %s", len(failed), report.objects, out / _FAILED
        )
    if warned:
        logger.warning(
            "%d of %d objects may not look as they should, see %s",
            len(warned),
            report.objects,
            out / _WARNINGS,
        )
    return report


def _write_lines(path: Path, records: Iterable[Any]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
