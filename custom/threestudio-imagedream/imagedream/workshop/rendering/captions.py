"""What an object is called: from a CSV, or from what lies with its file (a mesh, a picture)."""

import csv
import gzip
import json
import logging
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from imagedream.workshop.mesh_files.gltf import gltf_json

logger = logging.getLogger(__name__)

Captions = Callable[[Path], tuple[str, str]]
"""A mesh file -> its caption (empty where nobody knows) and where that came from."""

_LONGEST_TEXT = 1 << 16  # bytes of a caption file that are read
_LARGEST_ANNOTATIONS = 1 << 30  # bytes, unpacked

_SAYS_NOTHING = re.compile(  # a hash, a UUID, a number, what cameras and screens call their pictures
    r"[0-9a-f]{16,}|[0-9a-f-]{36}|(img|dsc[fn]?|pxl|p|image|picture|photo|screenshot|untitled)?[\W_\d]*",
    re.IGNORECASE,
)


def find_captions(how: str, folder: Path) -> Captions:
    """What gives each mesh file its caption.

    Args:
        how: `none`; `auto`: the first of a text file of the same name, Objaverse annotations, the title inside a glTF
            file, the file's own name unless it is a hash, a number or what cameras call their pictures; or a CSV file:
            two columns name and caption, or a header with a column `caption` and the name in the first column. A name
            is a path relative to the folder, a file name, or that without its ending.
        folder: where the mesh files are.

    Raises:
        FileNotFoundError: there is no such CSV file.
        ValueError: it is no table of names and captions.
    """
    if how == "none":
        return lambda path: ("", "none")
    if how == "auto":
        return lambda path: _from_metadata(path, folder)
    table = read_csv(Path(how))

    def from_csv(path: Path) -> tuple[str, str]:
        relative = path.relative_to(folder) if path.is_relative_to(folder) else path
        for name in (relative.as_posix(), relative.with_suffix("").as_posix(), path.name, path.stem):
            if name in table:
                return table[name], Path(how).name
        return "", "none"

    return from_csv


def read_csv(path: Path) -> dict[str, str]:
    """Captions by name; see `find_captions`."""
    if not path.is_file():
        raise FileNotFoundError(f"captions are {path}: no such CSV file (nor is it auto or none)")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no CSV file in UTF-8: {error}") from error
    column, first = 1, 0
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if "caption" in header:
        column, first = header.index("caption"), 1
    for number, row in enumerate(rows[first:], first + 1):
        if len(row) <= column:
            raise ValueError(
                f"{path}: row {number} has {len(row)} columns, at least {column + 1} are needed: name and caption"
            )
    return {row[0].strip(): row[column].strip() for row in rows[first:]}


def _from_metadata(path: Path, folder: Path) -> tuple[str, str]:
    text = path.with_suffix(".txt")
    if text.is_file():
        with text.open("rb") as file:
            return " ".join(file.read(_LONGEST_TEXT).decode("utf-8", errors="replace").split()), text.name
    annotation = _annotation(path, folder)
    if annotation:
        return annotation, "annotation"
    title = _gltf_title(path)
    if title:
        return title, "glTF title"
    if _SAYS_NOTHING.fullmatch(path.stem):
        return "", "none"
    return " ".join(path.stem.replace("_", " ").replace("-", " ").split()), "file name"


def _annotation(path: Path, folder: Path) -> str:
    """Name and tags (MVDream) from Objaverse's `metadata/000-023.json.gz`, for `glbs/000-023/UID.glb`."""
    for root in (folder, folder.parent):
        for name in (f"metadata/{path.parent.name}.json.gz", "annotations.json.gz", "annotations.json"):
            if (root / name).is_file():
                record = _annotations(root / name).get(path.stem)
                if record:
                    return record
    return ""


@lru_cache(maxsize=2)  # the files of a tree come folder by folder
def _annotations(path: Path) -> dict[str, str]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            records = json.loads(file.read(_LARGEST_ANNOTATIONS))
        return {name: _name_and_tags(record) for name, record in records.items()}
    except Exception as error:  # whatever damage makes gzip, JSON or the lookups raise
        logger.warning("%s is no file of annotations, its captions are passed over: %s", path, error)
        return {}


def _name_and_tags(record: Any) -> str:
    tags = [tag.get("name", "") if isinstance(tag, dict) else str(tag) for tag in record.get("tags") or []]
    words = [str(record.get("name") or "").strip(), *(tag.strip() for tag in tags)]
    return ", ".join(dict.fromkeys(word for word in words if word))


def _gltf_title(path: Path) -> str:
    """The title that Sketchfab and others write into a glTF file (`asset.extras.title`)."""
    if path.suffix.lower() not in (".gltf", ".glb"):
        return ""
    try:
        title = gltf_json(path)["asset"]["extras"]["title"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return " ".join(title.split()) if isinstance(title, str) else ""
