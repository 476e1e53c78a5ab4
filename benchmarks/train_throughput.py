"""How fast training data is made and read, for one core.

    OMP_NUM_THREADS=1 python benchmarks/train_throughput.py --n 8 [--sizes 64 256] [--out benchmarks/results/train_throughput]

An object is what `python -m imagedream render toybox:N` makes of a toy: two rings of 32 views and 2 x 4 prompt views at
twice the size, shaded, PNG-encoded and written to a shard. Reading is what a training step asks of the shard: four
views, a prompt, cameras and caption of one ring, decoded and placed. Seconds of the process are counted, which other
programs on the machine do not lengthen much, and beside them those of the clock.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "custom" / "threestudio-imagedream"))

import torch  # noqa: E402
import tyro  # noqa: E402

from imagedream.evaluation.tables import markdown_table  # noqa: E402
from imagedream.files import atomic_path  # noqa: E402
from imagedream.rendering.dataset import Item, RenderConfig, object_samples  # noqa: E402
from imagedream.rendering.samples import write_tar  # noqa: E402
from imagedream.training.data import step_generator  # noqa: E402
from imagedream.training.rendered import RenderedConfig, RenderedSamples, examine_rendered  # noqa: E402
from imagedream.training.shards import index  # noqa: E402


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    n: int = 8
    """Toys, of seeds 0, 1, …; their kinds are drawn from all."""
    sizes: tuple[int, ...] = (64, 256)
    """Sides of the views in pixels."""
    reads: int = 64
    """Samples read for each size."""
    out: Path | None = None
    """Write OUT.md and OUT.json, such as benchmarks/results/train_throughput."""


def clocks() -> tuple[float, float]:
    """Seconds of this process, and of the world."""
    return time.process_time(), time.perf_counter()


def measure(size: int, settings: Settings, folder: Path) -> dict[str, float | int]:
    """One row of the table."""
    config = RenderConfig(size=size)
    list(object_samples(Item("warm-up", "toybox:0"), RenderConfig(size=8, views=4)))
    started = clocks()
    samples = [
        (f"{item.key}_{sample.ring}", files)
        for item in (Item(f"toy-{seed}", f"toybox:{seed}") for seed in range(settings.n))
        for sample, files in object_samples(item, config)
    ]
    shard = folder / f"{size}.tar"
    write_tar(samples, shard)
    process, world = (now - then for now, then in zip(clocks(), started, strict=True))

    source = RenderedSamples(
        index([shard], [], examine_rendered, folder, workers=1), RenderedConfig(image_size=size)
    )
    source.batch(torch.tensor([0]), step_generator(0, 0))
    started = clocks()
    for read in range(settings.reads):
        source.batch(torch.tensor([read % len(source)]), step_generator(0, read))
    reading, reading_world = (now - then for now, then in zip(clocks(), started, strict=True))
    pictures = config.rings * (config.views + config.prompts)
    return {
        "views px": size,
        "objects/s a core": settings.n / process,
        "by the clock": settings.n / world,
        "ms a picture": 1000 * process / settings.n / pictures,
        "MB an object": shard.stat().st_size / settings.n / 1e6,
        "samples read/s a core": settings.reads / reading,
        "read, by the clock": settings.reads / reading_world,
    }


def main(settings: Settings) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(size, settings, Path(folder)) for size in settings.sizes]
    command = f"OMP_NUM_THREADS=1 python benchmarks/train_throughput.py --n {settings.n} --sizes {' '.join(map(str, settings.sizes))}"
    machine = (
        f"one process with one thread on a machine of {os.cpu_count()} cores, "
        f"load {os.getloadavg()[0]:.1f} at the end, {date.today()}"
    )
    table = markdown_table(rows)
    print(f"{command}\n{machine}\n\n{table}")
    if settings.out is not None:
        text = f"# Training data: throughput\n\n`{command}`: {machine}\n\n{table}\n"
        for suffix, content in (
            (".md", text),
            (".json", json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n"),
        ):
            with atomic_path(settings.out.with_suffix(suffix)) as temporary:
                temporary.write_text(content)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
