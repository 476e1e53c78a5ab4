"""How fast training data is made and read, for one core, and how fast the trainer learns from it.

    OMP_NUM_THREADS=1 python benchmarks/train_throughput.py --n 8 [--sizes 64 256] [--models toybox published]
        [--out benchmarks/results/train_throughput]

An object is what `python -m imagedream render toybox:N` makes of a toy: two rings of 32 views and 2 x 4 prompt views at
twice the size, shaded, PNG-encoded and written to a shard. Reading is what a training step asks of the shard: four
views, a prompt, cameras and caption of one ring, decoded and placed. Seconds of the process are counted, which other
programs on the machine do not lengthen much, and beside them those of the clock.

A training step is the trainer's own (`imagedream.workshop.training.trainer.make_trainer`), of a network with random weights, on the
shard that was just made: `waiting` is the fraction of the clock that it waited for batches, with and without processes
that prepare them. "of the matrix rate" is the step's floating point operations, forward and backward, over its seconds,
over what a large matrix product reaches in the same precision at the same moment. On a CPU its seconds are the trainer
process's own, divided by its threads.
"""

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT)]

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402

from benchmarks.full_size import matrix_rate  # noqa: E402
from benchmarks.random_weights import random_pipeline  # noqa: E402
from imagedream.checkpoints import load  # noqa: E402
from imagedream.runs.seeds import step_generator  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, save_results  # noqa: E402
from imagedream.workshop.rendering.captioned_files import Item  # noqa: E402
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples  # noqa: E402
from imagedream.workshop.rendering.samples import write_tar  # noqa: E402
from imagedream.workshop.training.architectures import architecture_of, published_architecture  # noqa: E402
from imagedream.workshop.training.diffusion import DiffusionTraining  # noqa: E402
from imagedream.workshop.training.memory import operations  # noqa: E402
from imagedream.workshop.training.rendered_data import RenderedSamples, examine_rendered  # noqa: E402
from imagedream.workshop.training.run_logging import Statistics  # noqa: E402
from imagedream.workshop.training.shard_data import index  # noqa: E402
from imagedream.workshop.training.train_config import DataConfig, RenderedConfig, TrainConfig  # noqa: E402
from imagedream.workshop.training.trainer import attention_kernels, make_trainer, without_known_warnings  # noqa: E402
from imagedream.workshop.training.training_data import TrainingData  # noqa: E402

Model = Literal["toybox", "published"]
Precision = Literal["32-true", "bf16-mixed"]
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    n: int = 8
    """Toys, of seeds 0, 1, …; their kinds are drawn from all."""
    sizes: tuple[int, ...] = (64, 256)
    """Sides of the views in pixels."""
    reads: int = 64
    """Samples read for each size."""
    models: tuple[Model, ...] = ("toybox",)
    """Networks that learn; `published` wants a GPU."""
    precisions: tuple[Precision, ...] = ("32-true", "bf16-mixed")
    """Of the trainer."""
    loader_workers: tuple[int, ...] = (0, 1)
    """Processes that prepare batches."""
    batch_size: int = 4
    """Objects a step."""
    steps: int = 12
    """Of which the first quarter does not count."""
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


def measure_steps(
    model: Model, settings: Settings, shards: Path
) -> list[dict[str, float | int | str | None]]:
    """A row for each precision and number of loader processes."""
    architecture = architecture_of(load("toybox")) if model == "toybox" else published_architecture()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = random_pipeline(architecture)
    rows = []
    for precision in settings.precisions:
        for workers in settings.loader_workers:
            data = DataConfig(
                rendered=RenderedConfig([str(shards)], image_size=pipeline.image_size),
                cache=str(shards.parent / "cache"),
                validation_objects=0,
                batch_size=settings.batch_size,
                workers=1,
                loader_workers=workers,
            )
            out = shards.parent / f"{model}-{precision}-{workers}"
            config = TrainConfig(
                part="diffusion",
                out=str(out),
                data=data,
                steps=settings.steps,
                precision=precision,
                validation_views=0,
                validate_every=10**9,
                log_every=settings.steps // 4,
            )
            module = DiffusionTraining(
                architecture.unet,
                architecture.scheduler,
                (pipeline.vae, pipeline.encoder),
                config.optimizer,
                1,
                0,
            )
            config.activation_checkpointing = model == "published"
            trainer = make_trainer(config, module)
            watch = Watch(settings.steps // 4)
            trainer.callbacks = [one for one in trainer.callbacks if isinstance(one, Statistics)] + [watch]
            out.mkdir()
            with attention_kernels(trainer), without_known_warnings():
                trainer.fit(module, TrainingData(data, 0))
                batch = trainer.datamodule.first_batches(1)[0]
                with trainer.precision_plugin.forward_context():
                    count = operations(
                        lambda m=module, b=batch: m.loss(b, step_generator(0, 0))["loss"].backward()
                    )
            lines = [json.loads(line) for line in (out / "stats.jsonl").read_text().splitlines()]
            counted = [line for line in lines if line["step"] > watch.first]
            seconds = (
                watch.seconds if device.type == "cuda" else watch.process_seconds / torch.get_num_threads()
            )
            rows.append(
                {
                    "network": model,
                    "views px": pipeline.image_size,
                    "precision": precision,
                    "loader processes": workers,
                    "objects a step": settings.batch_size,
                    "seconds a step": seconds,
                    "by the clock": watch.seconds,
                    "waiting": sum(line["waiting"] for line in counted) / len(counted),
                    "TFLOP a step": count / 1e12,
                    "of the matrix rate": count / seconds / matrix_rate(device, DTYPES[precision]),
                }
            )
    return rows


class Watch(pl.Callback):
    """Seconds a step, of the clock and of this process, after the first few.

    Args:
        first: steps that do not count.
    """

    def __init__(self, first: int) -> None:
        self.first, self.seconds, self.process_seconds, self._began = first, 0.0, 0.0, (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        """Begin and end to count."""
        if trainer.global_step == self.first:
            self._began = clocks()
        elif trainer.global_step == trainer.max_steps:
            process, world = (now - then for now, then in zip(clocks(), self._began, strict=True))
            steps = trainer.max_steps - self.first
            self.seconds, self.process_seconds = world / steps, process / steps


def main(settings: Settings) -> None:
    """Measure, print, write."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(size, settings, Path(folder)) for size in settings.sizes]
        largest = Path(folder) / f"{max(settings.sizes)}.tar"
        if torch.cuda.is_available():
            torch.set_num_threads(os.cpu_count() or 1)
        steps = [row for model in settings.models for row in measure_steps(model, settings, largest)]
    chosen = f"--n {settings.n} --sizes {' '.join(map(str, settings.sizes))} --batch-size {settings.batch_size} --steps {settings.steps}"
    command = f"OMP_NUM_THREADS=1 python benchmarks/train_throughput.py {chosen}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    machine = (
        f"one process with one thread on a machine of {os.cpu_count()} cores, {device}, "
        f"load {os.getloadavg()[0]:.1f} at the end, {date.today()}"
    )
    table = markdown_table(rows) + ("\n\n" + markdown_table(steps) if steps else "")
    print(f"{command}\n{machine}\n\n{table}")
    if settings.out is not None:
        text = f"# Training: throughput\n\n`{command}`: {machine}\n\n{table}"
        record = {"command": command, "machine": machine, "rows": rows, "steps": steps}
        save_results(settings.out, text, record)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
