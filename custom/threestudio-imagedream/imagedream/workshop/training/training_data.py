"""Batches that are a pure function of the step: objects, and pictures among them.

Objects are toys (`imagedream.workshop.training.toy_data`) or what `python -m imagedream render` made
(`imagedream.workshop.training.rendered_data`); pictures are `imagedream.workshop.training.picture_data`.
"""

import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from jaxtyping import Integer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.picture_data import Pictures, check_pictures, find_pictures
from imagedream.workshop.training.random_draws import epoch_indices
from imagedream.workshop.training.rendered_data import (
    RenderedSamples,
    check_sizes,
    examine_rendered,
    find_rendered,
)
from imagedream.workshop.training.shard_data import Entry, index
from imagedream.workshop.training.toy_data import SampleCache
from imagedream.workshop.training.train_config import DataConfig


@runtime_checkable
class Source(Protocol):
    """Samples by number."""

    def __len__(self) -> int:
        """How many."""

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """Samples of the given numbers.

        Returns:
            `targets` (batch, view, 4, size, size) and `prompts` (batch, 4, size, size), RGBA in [0, 1]; `captions`;
            `objects`, what messages call them; and, where cameras are known, `azimuths_deg` (batch, view), `elevations_deg`
            (batch,) and `prompt_azimuths_deg` (batch,).
        """


class Mixture:
    """Rendered objects among toys: an epoch has every toy once, and the rendered objects as often as their share asks for.

    Args:
        rendered: the objects that come first.
        toys: the rest.
        share: of the rendered ones, above 0 and below 1.
    """

    def __init__(self, rendered: Source, toys: Source, share: float) -> None:
        self.rendered, self.toys = rendered, toys
        self.shown = round(len(toys) * share / (1 - share))

    def __len__(self) -> int:
        return self.shown + len(self.toys)

    def batch(
        self, indices: Integer[Tensor, " batch"], generator: torch.Generator
    ) -> dict[str, Tensor | list[str]]:
        """Rendered samples, then toys."""
        rendered, toys = indices[indices < self.shown], indices[indices >= self.shown] - self.shown
        wanted = ((self.rendered, rendered % len(self.rendered)), (self.toys, toys))
        first, *others = [source.batch(which, generator) for source, which in wanted if len(which)]
        for other in others:
            first = {
                name: torch.cat([value, other[name]]) if isinstance(value, Tensor) else value + other[name]
                for name, value in first.items()
            }
        return first


class StepBatches(IterableDataset):
    """Batches from `first_step` on; batch k depends on k, the seed and the process alone, however many workers load it.

    A share of the steps, evenly spread, are of pictures; objects and pictures each have epochs of their own.

    Args:
        objects: what most steps show.
        batch_size: objects a step and process.
        seed: of order and draws.
        first_step: where to begin.
        pictures: what the other steps show.
        picture_share: of the steps.
        picture_batch_size: pictures a step and process.
        rank: number of this process among all that train together.
        world_size: how many these are.
    """

    def __init__(
        self,
        objects: Source,
        batch_size: int,
        seed: int,
        first_step: int,
        pictures: Source | None = None,
        picture_share: float = 0.0,
        picture_batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.objects, self.pictures = objects, pictures
        self.batch_size, self.picture_batch_size = batch_size, picture_batch_size
        self.seed, self.first_step, self.rank, self.world_size = seed, first_step, rank, world_size
        self._share = Fraction(picture_share if pictures is not None else 0).limit_denominator(1000)

    def batch(self, step: int) -> dict:
        """The batch of a step; its `step` is another number for every step and process."""
        before, after = ((step + more) * self._share.numerator // self._share.denominator for more in (0, 1))
        if after > before:
            source, size, turn, seed = self.pictures, self.picture_batch_size, before, self.seed + 3
        else:
            source, size, turn, seed = self.objects, self.batch_size, step - before, self.seed
        indices = epoch_indices(turn * self.world_size + self.rank, size, len(source), seed)
        number = step * self.world_size + self.rank
        return {**source.batch(indices, step_generator(self.seed + 1, number)), "step": number}

    def __iter__(self) -> Iterator[dict]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        step = self.first_step + first
        while True:  # the loader takes from its workers in turn, which puts the steps in order again
            yield self.batch(step)
            step += stride


class TrainingData(pl.LightningDataModule):
    """Prepares the samples and serves batches; a resumed run begins at its step.

    Args:
        config: what and where.
        seed: of the order and of all draws.

    Raises:
        FileNotFoundError: a folder of data does not exist.
        ValueError: nothing is in it.
    """

    def __init__(self, config: DataConfig, seed: int) -> None:
        super().__init__()
        self.config, self.seed = config, seed
        self.pictures: Source | None = None
        self._found = find_rendered(config.rendered.folders)
        check_pictures(config.pictures)
        self.training: Source
        self.validation: Source

    def prepare_data(self) -> None:
        """Render the toys that are missing and check the shards that are new, in one process of a machine."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Open what there is."""
        config, rendered = self.config, self.config.rendered
        if not rendered.folders:
            self.training, self.validation = self._toys()
        else:
            entries = index(
                *self._found, examine_rendered, config.cache, config.workers, rendered.skip_broken
            )
            check_sizes(entries, rendered.image_size)
            splits = hold_out(entries, config.validation_objects)
            self.training, self.validation = (RenderedSamples(split, rendered) for split in splits)
            if config.mixes:
                both = zip((self.training, self.validation), self._toys(), strict=True)
                self.training, self.validation = (Mixture(*pair, rendered.share) for pair in both)
        pictures = find_pictures(config.pictures, config.cache, config.workers)
        if pictures:
            self.pictures = Pictures(pictures, config.pictures, config.image_size[1])

    def _toys(self) -> list[SampleCache]:
        """Toys to learn from, and further ones to watch the loss on."""
        config = self.config
        counts = ((config.objects, 0), (config.validation_objects, 10_000_000))
        toys = [SampleCache(Path(config.cache), count, config.sample, seed) for count, seed in counts]
        for cache in reversed(toys):
            cache.build(config.workers)
        return toys

    def _batches(self, first_step: int, rank: int = 0, world_size: int = 1):
        config = self.config
        return StepBatches(
            self.training,
            config.batch_size,
            self.seed,
            first_step,
            self.pictures,
            config.pictures.share,
            config.pictures_a_step,
            rank,
            world_size,
        )

    def first_batches(self, count: int) -> list[dict]:
        """The batches a fresh run begins with."""
        return [self._batches(0).batch(step) for step in range(count)]

    def train_dataloader(self) -> DataLoader:
        """Endless batches from the trainer's step on."""
        trainer = self.trainer
        first = trainer.global_step * trainer.accumulate_grad_batches
        batches = self._batches(first, trainer.global_rank, trainer.world_size)
        workers = self.config.loader_workers
        return DataLoader(
            batches, batch_size=None, num_workers=workers, worker_init_fn=leave_signals_to_the_trainer
        )

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        """Leave it where it is: what is drawn for it is drawn on the CPU, and only composited pictures go to the device."""
        return batch

    def val_dataloader(self) -> DataLoader:
        """Whole batches of the validation objects from the first one on, each with its own fixed draws."""
        source = self.validation
        size = min(self.config.batch_size, len(source))

        def batch(number: int) -> dict:
            start = number * size
            indices = torch.arange(start, start + size)
            return {**source.batch(indices, step_generator(0, start)), "step": start}

        return DataLoader(range(len(source) // size), batch_size=None, collate_fn=batch)


def leave_signals_to_the_trainer(worker: int) -> None:
    """A signal that asks the run to stop reaches all its processes, but the trainer needs batches until it has stopped."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):  # Windows has no SIGUSR1
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def hold_out(entries: list[Entry], objects: int) -> tuple[list[Entry], list[Entry]]:
    """Training samples, and the samples of the last `objects` objects; an object's samples stay together.

    With 0 objects both are all samples.

    Raises:
        ValueError: no object is left to train on.
    """
    if objects == 0:
        return entries, entries
    names = list(dict.fromkeys(entry.object for entry in entries))
    if len(names) <= objects:
        raise ValueError(
            f"data.rendered.folders hold {len(names)} objects, of which data.validation_objects {objects} are kept apart: "
            "none is left to train on"
        )
    apart = set(names[-objects:])
    return [e for e in entries if e.object not in apart], [e for e in entries if e.object in apart]
