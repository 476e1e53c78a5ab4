"""Files with captions: what a data set is rendered from (mesh files, or toys), and what a batch is made of (pictures)."""

import csv
import logging
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from imagedream.runs.files import with_digest
from imagedream.workshop.mesh_files.reading import MESH_SUFFIXES
from imagedream.workshop.rendering.captions import find_captions

logger = logging.getLogger(__name__)

TOYBOX = "toybox:"
"""A source `toybox:7` is the toy of seed 7."""


@dataclass(frozen=True)
class Item:
    """An object to render, or a picture of a batch."""

    key: str
    """Its name in what is made of it: letters and digits of any script, `-` and `_`."""
    source: str
    """The file, or `toybox:SEED`."""
    caption: str | None = None
    """What it is; None asks the toybox."""
    caption_from: str = ""
    """Where the caption came from."""

    def __post_init__(self):
        if not re.fullmatch(r"[\w-]+", self.key):  # it names files, and may come from one
            raise ValueError(f"key is {self.key!r}, must be made of letters, digits, - and _")


_LONGEST_KEY = 80  # bytes; a tar member's name has room for 100
_COMPANIONS = {".txt", ".csv", ".json", ".mtl", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".ktx2", ".gz"}
"""Endings of what belongs to others: captions, materials, textures."""


def find_items(source: str, captions: str = "auto", only: Collection[str] | None = None) -> list[Item]:
    """The objects of a source, in an order that is the same everywhere.

    Args:
        source: a mesh file, a folder that holds mesh files at any depth (an Objaverse download, for example), or
            `toybox:N` for the toys of seeds 0 to N − 1.
        captions: see `imagedream.workshop.rendering.captions.find_captions`; toys bring theirs unless `none`.
        only: names to keep (file names without ending, such as Objaverse's identifiers); None keeps all.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: nothing is in it, a file of another kind, or a wrong number of toys.
    """
    if not source.strip():
        raise ValueError("source is empty, must be a mesh file, a folder of them, or toybox:N")
    if source.startswith(TOYBOX):
        number = source.removeprefix(TOYBOX)
        if not re.fullmatch(r"\d{1,7}", number) or int(number) < 1:
            raise ValueError(f"source is {source!r}, must be toybox:N with N toys, 1 to 9,999,999")
        caption = ("", "none") if captions == "none" else (None, "")
        items = [Item(f"toy-{seed:06d}", f"{TOYBOX}{seed}", *caption) for seed in range(int(number))]
        return [item for item in items if only is None or item.key in only]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such mesh file or folder (nor is it toybox:N)")
    if not path.is_dir() and (not path.is_file() or path.suffix.lower() not in MESH_SUFFIXES):
        what = f"a file that ends with {path.suffix!r}" if path.is_file() else "no regular file"
        raise ValueError(f"{path} is {what}, a mesh file ends with one of {', '.join(MESH_SUFFIXES)}")
    return file_items(path, MESH_SUFFIXES, "mesh file", captions, only)


def read_names(only: str | None) -> set[str] | None:
    """Names for `find_items`: the lines of a text file, or one split of a table, given as `TABLE.csv:SPLIT`.

    A table has the columns `name`, `family` and `split`. Objects of one family look alike, so a family belongs to one split.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table lacks a column or the split, or a family stands in two splits.
    """
    if only is None:
        return None
    path, is_table, split = only.partition(".csv:")
    file = Path(f"{path}.csv" if is_table else only)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file of names")
    if not is_table:
        return {line.strip() for line in file.read_text(encoding="utf-8").splitlines()} - {""}
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    lacking = {"name", "family", "split"} - set(rows[0] if rows else ())
    if lacking:
        raise ValueError(f"{file} has no column {', '.join(sorted(lacking))} (rows: {len(rows)})")
    splits: dict[str, str] = {}
    for row in rows:
        other = splits.setdefault(row["family"], row["split"])
        if other != row["split"]:
            raise ValueError(f"{file}: family {row['family']} stands in {other} and in {row['split']}")
    names = {row["name"] for row in rows if row["split"] == split}
    if not names:
        raise ValueError(f"{file} has no split {split!r}, it has {', '.join(sorted(set(splits.values())))}")
    return names


def file_items(
    path: Path,
    suffixes: Collection[str],
    what: str,
    captions: str = "auto",
    only: Collection[str] | None = None,
    skip: Path | None = None,
    known: Mapping[str, str] | None = None,
) -> list[Item]:
    """A file, or the files at any depth of a folder, each with a key that is a safe file name, and its caption.

    Says which it passes over: those that are hidden, or in hidden folders, and those of other endings.

    Args:
        path: the file or folder.
        suffixes: endings of the files to take, in small letters.
        what: how messages call such a file.
        captions: see `imagedream.workshop.rendering.captions.find_captions`.
        only: see `find_items`.
        skip: a folder below `path` to pass over, such as that of the results.
        known: keys that files have had before, which no others get.

    Raises:
        ValueError: no such file is there, or a table of captions has no row for one that is.
    """
    folder = path if path.is_dir() else path.parent
    files = [path]
    if path.is_dir():
        files, others = [], []
        for file in sorted(path.rglob("*")):
            parts = file.relative_to(path).parts
            hidden = next((part for part in parts if part.startswith(".")), None)
            if skip is not None and file.resolve().is_relative_to(skip.resolve()):
                continue
            if file.suffix.lower() not in suffixes:
                if hidden is None and file.is_file() and file.suffix.lower() not in _COMPANIONS:
                    others.append(f"{Path(*parts)} (its ending)")
            elif hidden is not None or not file.is_file():
                others.append(f"{Path(*parts)} ({f'{hidden} is hidden' if hidden else 'no regular file'})")
            else:
                files.append(file)
        if others:
            more = f" and {len(others) - 9} more" if len(others) > 9 else ""
            logger.warning("%s: passed over %s%s", path, ", ".join(others[:9]), more)
        if not files:
            raise ValueError(
                f"{path} holds no {what} ({', '.join(suffixes)}) among its {sum(1 for _ in path.rglob('*'))} "
                "files and folders"
            )
    if only is not None:
        found, files = len(files), [file for file in files if file.stem in only]
        if not files:
            raise ValueError(f"none of the {found} {what}s in {path} is among the {len(only)} wanted names")
    caption_of = find_captions(captions, folder)
    captioned = [caption_of(file) for file in files]
    lacking = [file.name for file, (_, source) in zip(files, captioned, strict=True) if source == "none"]
    if lacking and captions not in ("auto", "none"):
        told = ", ".join(lacking[:3]) + (", …" if len(lacking) > 3 else "")
        raise ValueError(f"{captions} has no row for {len(lacking)} of {len(files)} {what}s: {told}")
    taken: set[str] = set()
    known = {key.casefold(): file for key, file in (known or {}).items()}
    keys = [_new_key(file.relative_to(folder), taken, known) for file in files]
    return [Item(key, str(file), *caption) for key, file, caption in zip(keys, files, captioned, strict=True)]


def _new_key(path: Path, taken: set[str], known: Mapping[str, str]) -> str:
    """A name for a file that no other has: its path, with `_` for all but letters and digits."""
    plain = unicodedata.normalize("NFC", path.with_suffix("").as_posix())
    name = re.sub(r"[^\w-]+", "_", plain)
    earlier = known.get(name.casefold())
    others = earlier is not None and Path(earlier).parts[-len(path.parts) :] != path.parts
    nameless = not any(map(str.isalnum, name))
    if others or nameless or len(name.encode()) > _LONGEST_KEY or name.casefold() in taken:
        name = with_digest(name, path.as_posix(), _LONGEST_KEY)
    taken.add(name.casefold())  # some systems take capital letters for small ones
    return name
