"""One sample on disk: a ring of views of one object, further prompt views, their cameras, a caption.

As a folder it holds

    cameras.json                    what `Sample` says
    caption.txt                     UTF-8
    view_000.png, view_001.png, …   RGBA with straight alpha, azimuth growing from the front in even steps
    prompt_000.png, …               further pictures of the front half, each with its own camera and light

and in a shard, a plain tar file in WebDataset's manner, the same files one after another as `KEY.cameras.json`,
`KEY.caption.txt`, `KEY.view_000.png`, …; KEY has no dot. Any tar, JSON and PNG reader will do.

`cameras.json` has `caption`, `size` and under `views` and `prompts`, for each picture, `file`, `name`, `azimuth_deg`,
`elevation_deg`, `fov_y_deg`, `camera_to_world` (4 rows of 4, `imagedream.cameras`) and `light`.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from imagedream import cameras
from imagedream.runs.arguments import check_arguments, parse_object

CAMERAS, CAPTION = "cameras.json", "caption.txt"

Files = dict[str, bytes]
"""The files of a sample by name."""

MAX_SIDE_PX = 4096
"""Largest picture of a sample that is decoded."""

_PNG_COMPRESSION = 3  # a fifth larger than zlib's 6 and a third faster


class SampleError(ValueError):
    """A sample that cannot be used; the message names the file, and says what is wrong with it."""


@dataclass(frozen=True)
class Picture:
    """One picture of a sample and how it was taken."""

    file: str
    """Its name."""
    azimuth_deg: float
    """`imagedream.cameras`: 0 sees the front, 90 the object's left."""
    elevation_deg: float
    """Height angle."""
    fov_y_deg: float
    """Vertical field of view."""
    camera_to_world: list[list[float]]
    """4 rows of 4."""
    light: dict[str, Any] | None = None
    """`imagedream.mesh.raycast.Light` as a dict; None where plain colours are shown."""


@dataclass(frozen=True)
class Sample:
    """What `cameras.json` says."""

    caption: str
    """What the object is; empty where nobody knows."""
    size: int
    """Side of the views in pixels."""
    views: list[Picture]
    """The ring: a multiple of 4, evenly around the object at one elevation."""
    prompts: list[Picture] = field(default_factory=list)
    """Pictures of the front half with their own cameras and lights."""
    object: str = ""
    """Name of the object; the rings of one object share it."""
    ring: int = 0
    """Which of the object's rings."""
    source: str = ""
    """Where the object came from."""
    caption_from: str = ""
    """Where the caption came from."""
    up: str = ""
    """Which axis of the source is up."""
    front: str = ""
    """Which direction of the source the front faces."""
    front_from: str = ""
    """Who said so: file type, option or toybox."""
    renderer: str = ""
    """What drew the pictures."""
    cut_views: int = 0
    """Views in which the frame's edge cuts the object."""
    warnings: list[str] = field(default_factory=list)
    """What is not shown as the source means it: a texture that is not there, no colours at all."""

    @property
    def elevation_deg(self) -> float:
        """Of the ring."""
        return self.views[0].elevation_deg

    def to_json(self) -> bytes:
        """The content of `cameras.json`."""
        record = asdict(self)
        lists = {}
        for name in ("views", "prompts"):
            pictures = record.pop(name)
            for picture in pictures:
                picture["name"] = cameras.view_name(picture["azimuth_deg"])
            lists[name] = ",\n".join(json.dumps(picture, ensure_ascii=False) for picture in pictures)
        head = json.dumps(record, ensure_ascii=False)[:-1]  # a picture a line: short, yet readable
        tail = "".join(f',\n"{name}": [\n{lines}\n]' for name, lines in lists.items())
        return f"{head}{tail}}}\n".encode()

    @staticmethod
    def from_json(content: bytes, where: str) -> "Sample":
        """The reverse, with every check that needs no picture.

        Args:
            content: of `cameras.json`.
            where: what messages begin with.

        Raises:
            SampleError: not JSON, a missing or wrong entry, numbers that are not finite, views that are no ring.
        """
        where = f"{where}: {CAMERAS}"
        try:
            record = parse_object(content, where)
            for name in ("views", "prompts"):
                if isinstance(record.get(name), list):
                    record[name] = [
                        _picture(one, f"{where}: {name}[{index}]") for index, one in enumerate(record[name])
                    ]
            sample = Sample(**_checked(Sample, record, where))
            _check_ring(sample.views, where)
            _check_cameras([*sample.views, *sample.prompts], where)
        except ValueError as error:
            raise SampleError(str(error)) from error
        return sample


def _checked(kind: type, record: Any, where: str) -> dict[str, Any]:
    """What an object from a file says of a dataclass's fields, of their types; others may be there and are ignored."""
    if not isinstance(record, dict):
        raise ValueError(f"{where} is a {type(record).__name__}, must be an object of names and values")
    known = {one.name: record[one.name] for one in fields(kind) if one.name in record}
    check_arguments(kind, known, where)
    return known


def _picture(record: Any, where: str) -> Picture:
    if isinstance(record, dict):
        where = f"{where} ({record.get('file')})"
    picture = Picture(**_checked(Picture, record, where))
    if [len(row) for row in picture.camera_to_world] != [4] * 4:
        raise ValueError(f"{where}: camera_to_world must be 4 rows of 4 numbers")
    return picture


def _check_ring(views: list[Picture], where: str) -> None:
    count = len(views)
    if count < 4 or count % 4:
        raise SampleError(f"{where} lists {count} views, must be a multiple of 4 and at least 4")
    elevations = [view.elevation_deg for view in views]
    if max(elevations) - min(elevations) > 0.01:
        raise SampleError(
            f"{where}: the views have elevations from {min(elevations)} to {max(elevations)} degrees, "
            "a ring has one"
        )
    for index, view in enumerate(views):
        expected = views[0].azimuth_deg + index * 360 / count
        if abs((view.azimuth_deg - expected + 180) % 360 - 180) > 0.01:
            raise SampleError(
                f"{where}: views[{index}] ({view.file}) has azimuth {view.azimuth_deg}, in {count} even steps from "
                f"{views[0].azimuth_deg} it would be {expected % 360:g}"
            )


def _check_cameras(pictures: list[Picture], where: str) -> None:
    """Matrices must say what the angles say, so that a set in other axes is not taken for one in these."""
    matrices = torch.tensor([picture.camera_to_world for picture in pictures], dtype=torch.float64)
    angles = torch.tensor([(picture.elevation_deg, picture.azimuth_deg) for picture in pictures])
    elevations, azimuths = angles.float().T
    expected = cameras.look_at_origin(elevations, azimuths, torch.ones(len(pictures)))
    wrong = (expected - matrices)[:, :3, :3].abs().amax(dim=(1, 2)) > 0.01
    if wrong.any():
        picture = pictures[int(wrong.int().argmax())]
        raise SampleError(
            f"{where}: {picture.file}: camera_to_world does not look at the origin from azimuth "
            f"{picture.azimuth_deg} and elevation {picture.elevation_deg} in this project's axes "
            "(see imagedream/cameras.py)"
        )


def check_files(sample: Sample, names: Iterable[str], where: str) -> None:
    """Raise SampleError unless every picture that the sample lists is among `names`."""
    names = set(names)
    listed = [picture.file for picture in (*sample.views, *sample.prompts)]
    missing = [file for file in listed if file not in names]
    if missing:
        raise SampleError(
            f"{where}: {len(missing)} of {len(listed)} pictures are missing: {', '.join(missing[:4])}"
            + (", …" if len(missing) > 4 else "")
        )
    if len(set(listed)) < len(listed):
        raise SampleError(
            f"{where}: {CAMERAS} lists {len(listed)} pictures but only {len(set(listed))} files"
        )


def read_caption(files: Mapping[str, bytes], name: str, where: str) -> str:
    """The text of a caption file, stripped.

    Raises:
        SampleError: no such file, or bytes that are no text.
    """
    if name not in files:
        raise SampleError(f"{where}: {name} is missing")
    try:
        caption = files[name].decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(
            f"{where}: {name} ({len(files[name])} bytes) is not UTF-8 text: byte {error.start} is "
            f"0x{files[name][error.start]:02x}"
        ) from error
    if "\0" in caption:
        raise SampleError(f"{where}: {name} ({len(files[name])} bytes) is not text: it holds null bytes")
    return caption.strip()


def encode_png(pixels: UInt8[np.ndarray, "height width 4"]) -> bytes:
    """RGBA pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "PNG", compress_level=_PNG_COMPRESSION)
    return buffer.getvalue()


def decode_png(content: bytes, size: int | None, where: str) -> UInt8[np.ndarray, "height width 4"]:
    """The pixels of a PNG file of a sample.

    Args:
        content: the file.
        size: side that it must have in pixels; None takes any square.
        where: what messages begin with: the picture's name.

    Raises:
        SampleError: damaged, not RGBA or not of that size.
    """
    damaged = f"{where} ({len(content)} bytes) cannot be decoded as PNG"
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
    except Exception as error:  # whatever damage makes the decoder raise
        raise SampleError(f"{damaged}: {error}") from error
    # before anything is decoded: a small file can claim billions of pixels
    if image.mode != "RGBA":
        raise SampleError(f"{where} has colour mode {image.mode}, must be RGBA")
    expected = (size or min(image.width, MAX_SIDE_PX),) * 2
    if image.size != expected:
        raise SampleError(
            f"{where} is {image.width} x {image.height} pixels, must be {expected[0]} x {expected[1]}"
        )
    try:
        return np.array(image)
    except Exception as error:
        raise SampleError(f"{damaged}: {error}") from error


def write_folder(files: Files, folder: Path) -> None:
    """Write a sample's files into an existing folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_tar(samples: Iterable[tuple[str, Files]], path: Path) -> int:
    """Write samples into a tar file, the same bytes for the same samples; returns how many.

    Args:
        samples: key (without a dot) and files.
        path: file to write.
    """
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in samples:
            count += 1
            for name, content in files.items():
                member = tarfile.TarInfo(f"{key}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return count
