"""Two measurements of the same objects, compared object by object.

Objects differ far more from one another than networks do, so the mean of the differences is known far better than the
difference between two means.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagedream.evaluation.intervals import Scores
from imagedream.evaluation.tables import markdown_table

LISTS = {"toys": "toy", "pictures": "picture"}
"""Where a measurement's JSON holds its objects, and what an object's name is called there."""


def compare(before: str | Path, after: str | Path) -> list[dict[str, str | int | float]]:
    """The scores of the objects that two measurements share.

    Args:
        before: a JSON file with a list of `toys` or `pictures`, or the folder that `evaluate views` or `evaluate pictures` wrote.
        after: another one.

    Returns:
        For each score: its mean before and after, the mean of the differences with its 95 % interval (bootstrap over the
        objects, from `FEWEST` objects on), and for how many of the shared objects it rose. Numbers that are equal
        everywhere, such as cameras and the trivial answers, are left out.

    Raises:
        ValueError: a file holds no scores, or they are not of the same objects.
    """
    one, other = read_objects(before), read_objects(after)
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
    rows = []
    for score in first[0]:
        if not all(score in scores for scores in first + second):
            continue
        old, new = (Scores(tuple(scores[score] for scores in side)) for side in (first, second))
        difference = new - old
        if any(difference.values):
            rows.append(
                {
                    "score": score,
                    "before": old.mean,
                    "after": new.mean,
                    "difference (95 %)": str(difference),
                    "rose": sum(value > 0 for value in difference.values),
                    "objects": len(shared),
                }
            )
    return rows


def comparison_table(before: str | Path, after: str | Path) -> str:
    """`compare` as a Markdown table."""
    return markdown_table(rows) if (rows := compare(before, after)) else "all scores are equal"


def read_objects(path: str | Path) -> dict[str, dict[str, Any]]:
    """What a measurement says about each object, by the object's name; those that failed are left out.

    Raises:
        ValueError: there is no such file, or it is not a measurement.
    """
    path = Path(path)
    if path.is_dir():
        inside = [
            path / f"{name}.json" for name in ("views", "pictures") if (path / f"{name}.json").is_file()
        ]
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
                return found
    raise ValueError(f"{path} holds no objects with scores; it must have a list called {' or '.join(LISTS)}")


def numbers(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested mappings, by their path.

    >>> numbers({"toy": "mug-6", "field": {"psnr_db": 18.5}, "seconds": 90})
    {'field psnr_db': 18.5, 'seconds': 90.0}
    """
    found: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}{key} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def _some(objects: Mapping[str, Any]) -> str:
    names = list(objects)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
