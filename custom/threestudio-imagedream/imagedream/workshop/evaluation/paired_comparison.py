"""Two measurements of the same objects, compared object by object.

Objects differ far more from one another than networks do, so the mean of the differences is known far better than the
difference between two means.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagedream.runs.settings import flatten
from imagedream.workshop.evaluation.bootstrap_intervals import Scores
from imagedream.workshop.evaluation.tables import markdown_table

LISTS = {"toys": "toy", "pictures": "picture"}
"""Where a measurement's JSON holds its objects, and what an object's name is called there."""


@dataclass(frozen=True)
class Comparison:
    """What two measurements say of the objects that they share."""

    objects: int
    """How many they share."""
    settings: dict[str, tuple[Any, Any]]
    """Those that differ, before and after; what one of them lacks is None there."""
    scores: dict[str, tuple[Scores, Scores]]
    """Before and after, by the score's path. Numbers that are equal everywhere, such as cameras and the trivial answers, are left out."""

    def rows(self) -> list[dict[str, str | int | float]]:
        """For a table: mean before and after, mean of the differences with its 95 % interval, and for how many objects it rose."""
        rows = []
        for name, (before, after) in self.scores.items():
            change = after - before
            row = {
                "score": name,
                "before": before.mean,
                "after": after.mean,
                "difference (95 %)": str(change),
            }
            rows.append({**row, "rose": change.rose, "objects": self.objects})
        return rows

    def __str__(self) -> str:
        """The settings that differ, and a Markdown table of the scores."""
        lines = [f"{name}: {before} before, {after} after" for name, (before, after) in self.settings.items()]
        notes = [f"Settings differ. {'; '.join(lines)}", ""] if lines else []
        return "\n".join([*notes, markdown_table(self.rows()) if self.scores else "all scores are equal"])

    def to_json(self) -> dict[str, Any]:
        """The same in numbers."""
        scores = {}
        for name, (before, after) in self.scores.items():
            change = after - before
            scores[name] = {"before": before.mean, "after": after.mean, "difference": change.mean}
            scores[name] |= {"interval": change.interval, "rose": change.rose}
        return {"objects": self.objects, "settings": self.settings, "scores": scores}


def compare(before: str | Path, after: str | Path) -> Comparison:
    """Compare two measurements of the same objects.

    Args:
        before: a JSON file with a list of `toys` or `pictures`, or the folder that `evaluate views` or `evaluate pictures` wrote.
        after: another one.

    Raises:
        ValueError: a file holds no scores, or they are not of the same objects.
    """
    (old, one), (new, other) = _read_measurement(before), _read_measurement(after)
    shared = [name for name in one if name in other]
    if not shared:
        raise ValueError(
            f"{before} and {after} share no object: {_some(one)} in the first, {_some(other)} in the second"
        )
    for name in shared:
        captions = one[name].get("caption"), other[name].get("caption")
        if captions[0] != captions[1]:
            raise ValueError(
                f"{name} is not the same object: {captions[0]!r} in {before}, {captions[1]!r} in {after}"
            )
    first, second = ([numbers(objects[name]) for name in shared] for objects in (one, other))
    scores = {
        score: (Scores(tuple(row[score] for row in first)), Scores(tuple(row[score] for row in second)))
        for score in first[0]
        if all(score in row for row in first + second)
    }
    names = dict.fromkeys([*old, *new])
    return Comparison(
        objects=len(shared),
        settings={name: (old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)},
        scores={name: sides for name, sides in scores.items() if sides[0] != sides[1]},
    )


def _read_measurement(path: str | Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings of a measurement, and what it says of each object, by name, without those that failed.

    Raises:
        ValueError: there is no such file, or it is not a measurement.
    """
    path = Path(path)
    if path.is_dir():
        inside = [file for name in ("views", "pictures") if (file := path / f"{name}.json").is_file()]
        if len(inside) != 1:
            raise ValueError(f"{path} holds {len(inside)} of views.json and pictures.json; name a file")
        path = inside[0]
    if not path.is_file():
        raise ValueError(f"no measurement at {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    for key, name in LISTS.items():
        if isinstance(content, dict) and isinstance(content.get(key), list):
            found = {one[name]: one for one in content[key] if name in one and "error" not in one}
            if found:
                return content.get("settings", {}), found
    raise ValueError(f"{path} holds no objects with scores; it must have a list called {' or '.join(LISTS)}")


def numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of nested mappings, by their path.

    >>> numbers({"toy": "mug-6", "field": {"psnr_db": 18.5}, "seconds": 90})
    {'field psnr_db': 18.5, 'seconds': 90.0}
    """
    values = {name.replace(".", " "): value for name, value in flatten(entry).items()}
    return {n: float(x) for n, x in values.items() if isinstance(x, int | float) and not isinstance(x, bool)}


def _some(objects: Mapping[str, Any]) -> str:
    names = list(objects)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
