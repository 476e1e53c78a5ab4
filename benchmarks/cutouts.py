"""How well is an object cut out of a picture? Rendered objects in front of known backdrops, so the answer is known.

    python benchmarks/cutouts.py --assets DIR [--out benchmarks/results/cutouts]

Held-out toys, and objects of DIR (`objects.csv` beside `.tar.gz` files of GLBs), each from the front, more or less, before every backdrop, as
JPEG. The score is the intersection over union of the cut-out with the true silhouette; "below 0.9" is the share of pictures that score
less, "of these said" the share of those for which `remove_background` has a doubt, "good, but doubted" the share of doubts among the others.
U2Net-p needs `pip install imagedream[rembg]`, and its model where rembg keeps it.
"""

import csv
import hashlib
import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import PIL.Image  # noqa: E402
import skimage.data  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402

from imagedream.image_prompt import background_removal  # noqa: E402
from imagedream.pictures import contact_sheet  # noqa: E402
from imagedream.toybox import FIRST_KINDS, make_toy  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import Orbit  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.mesh_files.reading import load_parts, normalise_parts  # noqa: E402

PHOTOS = ("coffee", "chelsea", "astronaut", "rocket")


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    assets: Path | None = None
    """Folder with `objects.csv`; None measures the toys alone."""
    n: int = 48
    """Number of toys, and of objects."""
    size: int = 320
    """Side of the pictures in pixels."""
    methods: tuple[str, ...] = ("grabcut",)
    """grabcut, and models of rembg: u2netp."""
    out: Path | None = None
    """Write OUT.md, OUT.json and OUT.png."""


def seeded(*words: object) -> np.random.Generator:
    """Random numbers that depend on the words alone."""
    return np.random.default_rng(list(hashlib.sha256(repr(words).encode()).digest()))


def objects(settings: Settings) -> Iterator[tuple[str, list]]:
    """Names, and meshes in the unit cube: toys, then objects of as many families."""
    for number in range(settings.n):
        yield (
            f"toy {number}",
            [make_toy(number, FIRST_KINDS[number % len(FIRST_KINDS)], split="heldout").mesh],
        )
    if settings.assets is None:
        return
    rows = list(csv.DictReader((settings.assets / "objects.csv").open(encoding="utf-8")))
    families = {row["family"]: row for row in rows if row["front_known"] == "True"}
    chosen = list(families.values())
    seeded("objects").shuffle(chosen)
    chosen = {row["file"] for row in chosen[: settings.n]}
    for archive in sorted(settings.assets.glob("*.tar.gz")):
        with tarfile.open(archive) as tar, tempfile.TemporaryDirectory() as folder:
            for member in tar:
                name = next((one for one in chosen if one.endswith(member.name.removeprefix("./"))), None)
                if name is not None and member.isfile():
                    path = Path(folder) / Path(name).name
                    path.write_bytes(tar.extractfile(member).read())
                    yield name, normalise_parts(load_parts(path))


def backdrops(name: str, rgba: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Kinds of backdrop for one object, each (size, size, 3) in [0, 1]."""
    size = len(rgba)
    random = seeded("backdrop", name)
    y, x = np.mgrid[0:size, 0:size] / size
    noise = random.normal(0, 0.006, (size, size, 1))  # a camera's
    plain = np.ones((size, size, 3))
    grey = plain * random.uniform(0.3, 0.9) + noise
    yield "white", plain
    yield "grey", grey
    ends = random.uniform(0.2, 0.95, (2, 3))
    yield "gradient", ends[0] + (ends[1] - ends[0]) * y[..., None] + noise
    shadow = cv2.GaussianBlur(
        np.roll(rgba[..., 3], (size // 25, size // 18), (0, 1)), (0, 0), size / random.uniform(15, 40)
    )
    yield (
        "soft shadow",
        (plain * random.uniform(0.75, 1) + noise) * (1 - random.uniform(0.3, 0.7) * shadow[..., None]),
    )
    rings = np.sin(
        40
        * (
            x
            + 0.15 * np.sin(3 * y + random.uniform(0, 6))
            + 0.01 * cv2.GaussianBlur(random.normal(0, 40, (size, size)), (0, 0), 12)
        )
    )
    grain = cv2.GaussianBlur(random.normal(0, 1, (size, size)), (0, 0), sigmaX=0.6, sigmaY=9)
    yield "wood", np.array([0.62, 0.42, 0.26]) * (1 + 0.12 * rings + 0.35 * grain)[..., None]
    photo = getattr(skimage.data, PHOTOS[random.integers(len(PHOTOS))])() / 255
    top, left = (random.integers(0, side - min(side, 300) + 1) for side in photo.shape[:2])
    yield "photograph", cv2.resize(photo[top : top + 300, left : left + 300], (size, size))
    inside = rgba[rgba[..., 3] > 0.99][:, :3].astype(np.float32)
    _, labels, centres = cv2.kmeans(inside, 4, None, (3, 20, 1e-3), 1, cv2.KMEANS_PP_CENTERS)
    yield "colour of a part", plain * centres[np.bincount(labels[:, 0]).argsort()[-2]] + noise


def pictures(name: str, rgba: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, RGB of 8 bits, true alpha of the pictures of one object."""
    for kind, backdrop in backdrops(name, rgba):
        alpha = rgba[..., 3:]
        rgb = ((alpha * rgba[..., :3] + (1 - alpha) * backdrop).clip(0, 1) * 255).round().astype(np.uint8)
        truth = alpha[..., 0]
        yield kind, as_jpeg(rgb), truth
        if kind == "white":  # and cropped to its own box
            rows, columns = np.flatnonzero((truth > 0.5).any(1)), np.flatnonzero((truth > 0.5).any(0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            yield "white, cropped", as_jpeg(rgb[box]), truth[box]


def as_jpeg(rgb: np.ndarray) -> np.ndarray:
    """The pixels after a round through JPEG."""
    file = io.BytesIO()
    PIL.Image.fromarray(rgb).save(file, "JPEG", quality=90)
    return np.array(PIL.Image.open(file))


def cut_out(rgb: np.ndarray, method: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Alpha in [0, 1] by one method, and its doubts."""
    if method == "grabcut":
        sys.modules["rembg"] = None  # as if it were not installed
    else:
        sys.modules.pop("rembg", None)
        background_removal.REMBG_MODELS = {method: ""}
    used, rgba, doubts = background_removal.remove_background(rgb)
    if used != ("grabcut" if method == "grabcut" else "rembg"):
        raise SystemExit(f"{method} is not on this machine")
    return rgba[..., 3] / 255, doubts


def measure(settings: Settings) -> tuple[list[dict], list[list]]:
    """A row for every picture and method, and the pictures of some objects."""
    rows, shown = [], []
    for number, (name, parts) in enumerate(objects(settings)):
        azimuth, elevation = seeded("camera", name).uniform((-50, 0), (50, 30))
        orbit = Orbit((azimuth,), elevation, relative_distance=0.8)
        rgba = orbit.views(parts, settings.size).rgba[0].permute(1, 2, 0).numpy()
        for kind, rgb, truth in pictures(name, rgba):
            for method in settings.methods:
                start = time.process_time()
                alpha, doubts = cut_out(rgb, method)
                seconds = time.process_time() - start
                found, true = alpha > 0.5, truth > 0.5
                iou = (found & true).sum() / max(1, (found | true).sum())
                row = {
                    "object": name,
                    "backdrop": kind,
                    "method": method,
                    "iou": float(iou),
                    "doubts": doubts,
                }
                rows.append(row | {"seconds": seconds})
                if number % 8 == 0:
                    over_pink = rgb * alpha[..., None] + np.array([255, 0, 255]) * (1 - alpha[..., None])
                    shown.append((kind, method, rgb, over_pink.round().astype(np.uint8)))
        print(name, " ".join(f"{row['iou']:.2f}" for row in rows if row["object"] == name), flush=True)
    return rows, shown


def summary(rows: list[dict]) -> list[dict]:
    """A line for each backdrop, method and kind of object."""
    table = []
    for method in dict.fromkeys(row["method"] for row in rows):
        for kind in [*dict.fromkeys(row["backdrop"] for row in rows), "all"]:
            line = {"method": method, "backdrop": kind}
            ours = [row for row in rows if row["method"] == method and kind in ("all", row["backdrop"])]
            for title, toys in (("toys", True), ("objects", False)):
                scores = [row["iou"] for row in ours if row["object"].startswith("toy ") == toys]
                line[title] = float(np.mean(scores)) if scores else None
            poor = [row for row in ours if row["iou"] < 0.9]
            good = [row for row in ours if row["iou"] >= 0.9]
            line["below 0.9"] = len(poor) / len(ours)
            line["of these said"] = float(np.mean([bool(row["doubts"]) for row in poor])) if poor else None
            line["good, but doubted"] = (
                float(np.mean([bool(row["doubts"]) for row in good])) if good else None
            )
            line["seconds"] = float(np.mean([row["seconds"] for row in ours]))
            table.append(line)
    return table


def sheet(shown: list[list]) -> PIL.Image.Image:
    """The pictures and, below each object's, what was cut out of them."""
    kinds = list(dict.fromkeys(kind for kind, *_ in shown))
    rows = []
    for start in range(0, len(shown), len(kinds)):
        group = shown[start : start + len(kinds)]
        for index in (2, 3):
            rows.append([PIL.Image.fromarray(one[index]) for one in group])
    return contact_sheet(kinds, rows, tile_px=96)


def main(settings: Settings) -> int:
    """Measure, report."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows, shown = measure(settings)
    text = f"`python benchmarks/cutouts.py --assets DIR --n {settings.n} --size {settings.size}`\n\n{markdown_table(summary(rows))}"
    print("\n" + text)
    if settings.out is not None:
        first = sheet([one for one in shown if one[1] == settings.methods[0]])
        save_results(
            settings.out, f"# Cutting objects out\n\n{text}", {"rows": summary(rows)}, first.quantize(128)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
