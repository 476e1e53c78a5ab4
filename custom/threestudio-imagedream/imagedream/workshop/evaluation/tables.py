"""Numbers as Markdown tables that also read well in a terminal, and the files of a measurement."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from imagedream.runs.files import atomic_path


def markdown_table(rows: Sequence[Mapping[str, str | int | float | None]]) -> str:
    """A table with a column for each key of the rows, in the order they first appear; None and missing are a dash.

    >>> markdown_table([{"toy": "mug", "dB": 18.25}, {"toy": "mean", "dB": None}]).splitlines()
    ['| toy  | dB    |', '| ---- | ----- |', '| mug  | 18.25 |', '| mean | -     |']
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells
    )


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def mean_scores(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each score over the entries that have it."""
    keys = dict.fromkeys(key for entry in scores for key in entry)
    present = {key: [entry[key] for entry in scores if key in entry] for key in keys}
    return {key: sum(values) / len(values) for key, values in present.items()}


def save_results(out: str | Path, text: str, numbers: Any, picture: Image.Image | None = None) -> None:
    """Write what a measurement found: `OUT.md` for reading, `OUT.json` for computing, and `OUT.png` with a picture."""
    with atomic_path(f"{out}.md") as path:
        path.write_text(f"{text}\n", encoding="utf-8")
    with atomic_path(f"{out}.json") as path:
        path.write_text(f"{json.dumps(numbers, indent=1)}\n", encoding="utf-8")
    if picture is not None:
        with atomic_path(f"{out}.png") as path:
            picture.save(path)
