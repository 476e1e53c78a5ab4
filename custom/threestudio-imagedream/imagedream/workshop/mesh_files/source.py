"""A mesh file and what it brings along: the files of its own folder that it names, pictures within limits, warnings."""

import base64
import codecs
import io
import logging
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import PIL.Image

from imagedream.mesh.raycast import MeshError
from imagedream.pictures import FORMATS, MAX_PIXELS

logger = logging.getLogger(__name__)

MAX_BYTES = 2**30
"""Largest mesh file that is read, the files that it names included."""

MAX_ELEMENTS = 30_000_000
"""Most vertices and indices that all parts of an object may have together; about 5 GB in memory when they are rendered."""

MAX_PARTS = 10_000
"""Most parts of an object: a part costs milliseconds however small it is."""

Warn = Callable[[str], None]
"""What is done with a sentence about something that is not shown as the file means it."""


class MeshSource:
    """An existing mesh file of reasonable size.

    Args:
        path: the mesh file.
        warn: told what is left out or guessed, once each.

    Raises:
        FileNotFoundError: there is no such regular file.
        MeshError: the file is too large.
    """

    def __init__(self, path: str | Path, warn: Warn = logger.warning):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"mesh file {path} does not exist or is no regular file")
        self._warn, self._said = warn, set[str]()
        self._bytes = self._pixels = self._elements = self._parts = 0
        self._count(self.path)

    def warn(self, message: str) -> None:
        """Say that something is left out or guessed; the same sentence is said once."""
        message = message.encode("utf-8", "replace").decode()  # names may have bytes of no known encoding
        if message not in self._said:
            self._said.add(message)
            self._warn(f"{self.path.name}: {message}")

    def claim(self, elements: int, parts: int = 0) -> None:
        """Raise MeshError if vertices and indices, or parts, are too many with those of all calls before; called before they are made."""
        self._elements += elements
        self._parts += parts
        if self._elements > MAX_ELEMENTS:
            raise MeshError(
                f"it claims {self._elements:,} vertices and indices, the limit is {MAX_ELEMENTS:,}"
            )
        if self._parts > MAX_PARTS:
            raise MeshError(
                f"it has more than {MAX_PARTS:,} parts (a part is a material of a mesh, each time it is shown), the limit; join them"
            )

    def claim_pixels(self, pixels: int) -> None:
        """Likewise for the pixels of textures."""
        self._pixels += pixels
        if self._pixels > MAX_PIXELS:
            raise MeshError(f"its textures have more than {MAX_PIXELS:,} pixels in all, the limit")

    def read(self, name: str) -> bytes:
        """A file that the mesh file names, or the content of a data URI.

        Percent escapes, backslashes, quotes, other capitals, other encodings and the folders of the machine that wrote the
        name are seen through.

        Raises:
            FileNotFoundError: no regular file of the mesh file's folder is meant.
            MeshError: the files are too large.
        """
        if name[:5].lower() == "data:":
            head, _, data = name.partition(",")
            packed = unquote_to_bytes(data)
            return base64.b64decode(packed + b"==") if head.endswith(";base64") else packed
        folder = self.path.parent.resolve()
        for plain in dict.fromkeys(_spellings(name.strip())):
            plain = plain.replace("\\", "/")
            for candidate in (plain, plain.rsplit("/", 1)[-1]):
                path = _find(folder, candidate)
                if path is not None:
                    self._count(path)
                    return path.read_bytes()
        where = "lies outside the mesh file's folder" if ".." in re.split(r"[\\/]", name) else "is not there"
        raise FileNotFoundError(f"{_short(name)} {where}")

    def picture(self, name: str, content: bytes | None = None) -> PIL.Image.Image | None:
        """A decoded texture, RGB or RGBA with 8 bits a channel; None, and a warning, where there is none to decode.

        Args:
            name: of the file, or what a warning calls the picture.
            content: of the file, where it is at hand.

        Raises:
            MeshError: more pixels than `MAX_PIXELS` in this and the textures before, found out before any is decoded.
        """
        try:
            content = self.read(name) if content is None else content
            with warnings.catch_warnings(action="ignore"):  # Pillow's own limit; ours is checked below
                image = PIL.Image.open(io.BytesIO(content), formats=FORMATS)
            self.claim_pixels(image.width * image.height)
            with warnings.catch_warnings(action="ignore"), image:  # remarks on odd metadata
                if image.mode.startswith("I;16"):
                    image = image.point(lambda value: value / 256).convert("L")
                clear = "A" in image.mode or "transparency" in image.info
                return image.convert("RGBA" if clear else "RGB")
        except PIL.Image.DecompressionBombError:
            self.claim_pixels(MAX_PIXELS + 1)
        except MeshError:
            raise
        except FileNotFoundError as error:
            self.warn(f"texture {error}, shown without")
        except PIL.UnidentifiedImageError:
            kind = "KTX2" if content.startswith(b"\xabKTX 20\xbb") else f"none of {', '.join(FORMATS)}"
            self.warn(f"texture {_short(name)} cannot be read ({kind}), shown without")
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, …
            self.warn(
                f"texture {_short(name)} cannot be read ({type(error).__name__} {error}), shown without"
            )
        return None

    def _count(self, path: Path) -> None:
        self._bytes += path.stat().st_size
        if self._bytes > MAX_BYTES:
            raise MeshError(f"{path} has {path.stat().st_size:,} bytes, the limit is {MAX_BYTES:,}")


def decoded(content: bytes) -> str:
    """Text in UTF-8 or UTF-16; bytes of another encoding are kept as surrogates."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _spellings(name: str) -> Iterator[str]:
    """A name as it is, and what its writer may have meant by it."""
    yield from (name, unquote(name), re.sub(r"\s+#.*|\"", "", name))
    for encoding in (
        "cp1252",
        "gb18030",
        "cp932",
        "cp949",
        "cp1251",
    ):  # of the machines that exporters run on
        try:
            yield name.encode("utf-8", "surrogateescape").decode(encoding)
        except UnicodeError:
            continue


def _find(folder: Path, name: str) -> Path | None:
    """A regular file below a folder, its name in any capitals and accents in any form; None if there is none, or it lies elsewhere."""
    try:
        path = (folder / name.lstrip("/")).resolve()
        if not path.is_file() and path.is_relative_to(folder):
            steps, path = path.relative_to(folder).parts, folder
            for step in steps:
                same = (other for other in path.iterdir() if _folded(other.name) == _folded(step))
                path = next(same, path / step)
            path = path.resolve()
        return path if path.is_file() and path.is_relative_to(folder) else None
    except (OSError, ValueError):  # too long, null bytes, no folder
        return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:77]}..."
