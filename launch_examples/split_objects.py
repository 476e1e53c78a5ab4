"""Split a folder of meshes by family into train and held-out, with contact sheets to see what should be left out.

python launch_examples/split_objects.py MESHES --out split [--captions TABLE.csv] [--other-artist FOLDER]

It writes `objects.csv` (name, family, split), for `--only objects.csv:train`, and sheets of 8 × 12 numbered pictures. Look at
them, and write `left-out` instead of a split (and a family of its own, such as `scene`) where something is a scene, a floor
tile, or has no front. A family is the caption without numbers, colours and the like: variants of one thing look alike, so
that one of them in training would give the others away.
"""

import csv
import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "custom" / "threestudio-imagedream"))

from imagedream.mesh.raycast import MeshError
from imagedream.pictures import contact_sheet
from imagedream.runs.files import atomic_path
from imagedream.workshop.evaluation.held_out_objects import Orbit
from imagedream.workshop.mesh_files.reading import load_parts, normalise_parts
from imagedream.workshop.rendering.captioned_files import Item, find_items

VARIANT = re.compile(
    r"\b(\d+|[a-d]|lvl|level|red|green|blue|yellow|orange|purple|pink|brown|black|white|gray|grey|dark|light|small|"
    r"medium|large|big|left|right|open|closed)\b"
)
COLUMNS, ROWS = 8, 12


@dataclass
class Split:
    """What to split, and how."""

    meshes: tyro.conf.Positional[Path]
    """Folder of mesh files at any depth."""
    out: Path
    """Folder for the table and the sheets."""
    captions: str = "auto"
    """As of `imagedream render`."""
    other_artist: str | None = None
    """A folder below MESHES that is kept from training as a whole."""
    held_out: float = 0.1
    """Share of the families that is kept from training."""


def family(item: Item) -> str:
    """What variants of one thing share."""
    words = re.sub(r"[\W_]+|(?<=[a-z])(?=\d)", " ", (item.caption or item.key).lower())
    return " ".join(VARIANT.sub(" ", words).split()) or words.strip()


def row(item: Item, settings: Split) -> list[str]:
    """Name, family and split of one object."""
    name, group = Path(item.source).stem, family(item)
    if settings.other_artist in Path(item.source).relative_to(settings.meshes).parts:
        return [name, f"{settings.other_artist}: {group}", "other-artist"]
    draw = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 1000
    return [name, group, "held-out" if draw < 1000 * settings.held_out else "train"]


def picture(item: Item) -> torch.Tensor | None:
    """The object from a little to the side of its front; None for what cannot be read."""
    try:
        parts = normalise_parts(load_parts(item.source))
    except MeshError as error:
        print(error, file=sys.stderr)
        return None
    return Orbit((20.0,), 15.0).on_white(parts, 96)[0]


def main(settings: Split) -> None:
    """Write the table and the sheets."""
    if not 0 < settings.held_out < 1:
        raise SystemExit(f"--held-out is {settings.held_out}, must be between 0 and 1")
    items = find_items(str(settings.meshes), settings.captions)
    rows = [row(item, settings) for item in items]
    with (
        atomic_path(settings.out / "objects.csv") as path,
        open(path, "w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([["name", "family", "split"], *rows])
    for start in range(0, len(items), COLUMNS * ROWS):
        tiles = [picture(item) for item in items[start : start + COLUMNS * ROWS]]
        tiles += [None] * (-len(tiles) % COLUMNS)
        lines = [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]
        numbers = [f"row {start + first * COLUMNS + 2} on" for first in range(len(lines))]
        with atomic_path(settings.out / f"sheet-{start // (COLUMNS * ROWS):03d}.png") as path:
            contact_sheet([""] * COLUMNS, lines, names=numbers).save(path)
    if len({group for _, group, _ in rows}) < 2:
        raise SystemExit(
            f"{len(rows)} objects are one family, {rows[0][1]!r}: the names say nothing, --captions may"
        )
    counts = {split: sum(one[2] == split for one in rows) for split in sorted({one[2] for one in rows})}
    print(f"{settings.out / 'objects.csv'}: {', '.join(f'{n} {split}' for split, n in counts.items())}")


if __name__ == "__main__":
    main(tyro.cli(Split))
