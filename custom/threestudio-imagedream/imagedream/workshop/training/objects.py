"""Batches that are a pure function of the step: objects, and pictures among them.

Objects are toys (`imagedream.workshop.training.toy_data`) or what `python -m imagedream render` made
(`imagedream.workshop.training.rendered_data`); pictures are `imagedream.workshop.training.picture_data`.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.picture_data import Pictures, PicturesConfig, find_pictures
from imagedream.workshop.training.rendered_data import (
    RenderedConfig,
    RenderedSamples,
    examine_rendered,
    find_rendered,
)
from imagedream.workshop.training.shard_data import Entry, index
from imagedream.workshop.training.toy_data import SampleCache, SampleConfig


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


def epoch_indices(step: int, batch_size: int, objects: int, seed: int) -> Integer[Tensor, " batch"]:
    """The objects of one step: every epoch is a fresh permutation, and a batch may straddle two."""
    start = step * batch_size
    indices = []
    for position in range(start, start + batch_size):
        epoch, offset = divmod(position, objects)
        indices.append(_permutation(epoch, objects, seed)[offset])
    return torch.stack(indices)


_permutations: dict[tuple[int, int, int], Tensor] = {}


def _permutation(epoch: int, objects: int, seed: int) -> Tensor:
    key = (epoch, objects, seed)
    if key not in _permutations:
        if len(_permutations) > 2:
            _permutations.clear()
        _permutations[key] = torch.randperm(objects, generator=step_generator(seed, epoch, stream=1))
    return _permutations[key]


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


@dataclass(frozen=True)
class DataConfig:
    """Where training samples come from."""

    sample: SampleConfig = field(default_factory=SampleConfig)
    """How toys are rendered."""
    rendered: RenderedConfig = field(default_factory=RenderedConfig)
    """Rendered objects, instead of toys."""
    pictures: PicturesConfig = field(default_factory=PicturesConfig)
    """Single pictures among the objects."""
    cache: str = "cache"
    """Folder of the rendered toys, and of what is known of shards."""
    objects: int = 6144
    """Toys to train on."""
    validation_objects: int = 128
    """Objects kept apart to watch the loss: further toys, or the last of the rendered objects; with 0 (a handful of own
    objects) the loss is watched on those it learns from."""
    batch_size: int = 16
    """Objects a step and process."""
    workers: int | None = None
    """Processes that render toys and check shards; all cores when null."""
    loader_workers: int = 0
    """Processes that prepare batches while the network learns; 0 prepares them in between."""

    def __post_init__(self):
        for name, least in (("validation_objects", 0), ("batch_size", 1), ("loader_workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name} is {getattr(self, name)}, must be at least {least}")
        if not self.rendered.folders and not self.validation_objects:
            raise ValueError("data.validation_objects is 0, of toys it must be at least 1")

    @property
    def seen(self) -> dict[str, Any]:
        """The entry of this data in a network's `trained_on`; folders by name, since paths are nobody's business."""
        pictures = [Path(folder).name for folder in self.pictures.folders]
        if self.rendered.folders:
            seen = {"data": "rendered", "folders": [Path(folder).name for folder in self.rendered.folders]}
        else:
            kinds = list(dict.fromkeys(self.sample.kinds))
            toys = {"kinds": kinds, "split": "train", "first_seed": 0, "objects": self.objects}
            seen = {"data": "toybox", **toys}
        return {**seen, "batch_size": self.batch_size, **({"pictures": pictures} if pictures else {})}


class TrainingData(pl.LightningDataModule):
    """Prepares the samples and serves batches; a resumed run goes on at its step.

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
        if not config.rendered.folders:
            self.training: Source = SampleCache(Path(config.cache), config.objects, config.sample)
            self.validation: Source = SampleCache(
                Path(config.cache), config.validation_objects, config.sample, first_seed=10_000_000
            )

    def prepare_data(self) -> None:
        """Render the toys that are missing, check the shards that are new."""
        if self.config.rendered.folders:
            self._rendered()
        else:
            self.validation.build(self.config.workers)
            self.training.build(self.config.workers)
        self._pictures()

    def setup(self, stage: str | None = None) -> None:
        """Open what `prepare_data` left."""
        if self.config.rendered.folders:
            training, validation = hold_out(self._rendered(), self.config.validation_objects)
            self.training = RenderedSamples(training, self.config.rendered)
            self.validation = RenderedSamples(validation, self.config.rendered)
        entries = self._pictures()
        if entries:
            rendered = self.config.rendered
            size = rendered.image_size if rendered.folders else self.config.sample.image_size
            self.pictures = Pictures(entries, self.config.pictures, size)

    def _rendered(self) -> list[Entry]:
        config = self.config
        skip = config.rendered.skip_broken
        return index(*self._found, examine_rendered, config.cache, config.workers, skip)

    def _pictures(self) -> list:
        return find_pictures(self.config.pictures, self.config.cache, self.config.workers)

    def _batches(self, first_step: int, rank: int = 0, world_size: int = 1):
        config, pictures = self.config, self.config.pictures
        return StepBatches(
            self.training,
            config.batch_size,
            self.seed,
            first_step,
            self.pictures,
            pictures.share,
            pictures.batch_size or 2 * config.batch_size,
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
        """The validation objects once, with fixed draws."""
        return DataLoader(_InOrder(self.validation, self.config.batch_size), batch_size=None)


def leave_signals_to_the_trainer(worker: int) -> None:
    """A signal that asks the run to stop reaches all its processes, but the trainer needs batches until it has stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class _InOrder(Dataset):
    """Whole batches of a source from its beginning, each with its own fixed draws."""

    def __init__(self, source: Source, batch_size: int) -> None:
        self.source, self.batch_size = source, min(batch_size, len(source))

    def __len__(self) -> int:
        return len(self.source) // self.batch_size

    def __getitem__(self, number: int) -> dict:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start = number * self.batch_size
        indices = torch.arange(start, start + self.batch_size)
        return {**self.source.batch(indices, step_generator(0, start)), "step": start}


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


def random_backgrounds(
    groups: int, generator: torch.Generator, white: float = 0.4, grey: float = 0.2
) -> Float[Tensor, "group 3"]:
    """A background colour for each group: white, grey (as in MVDream) or any colour, with the given probabilities."""
    choice = torch.rand(groups, 1, generator=generator)
    colour = torch.rand(groups, 3, generator=generator)
    backgrounds = torch.where(choice < white + grey, colour[:, :1].expand(-1, 3), colour)
    return torch.where(choice < white, torch.ones_like(backgrounds), backgrounds)
