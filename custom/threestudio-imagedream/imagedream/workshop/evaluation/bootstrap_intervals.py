"""How far a mean can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

FEWEST = 8
"""Objects from which on an interval is given: of fewer, resampling says little about those that were not drawn."""


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean over objects (bias-corrected and accelerated, Efron 1987), always the same one.

    Raises:
        ValueError: fewer than `FEWEST` values.
    """
    if len(values) < FEWEST:
        raise ValueError(f"{len(values)} objects are too few for an interval, it needs at least {FEWEST}")
    numbers = np.asarray(values, dtype=np.float64)
    if np.ptp(numbers) < 1e-12:  # all the same: nothing to resample
        return float(numbers[0]), float(numbers[0])
    generator = np.random.default_rng(0)
    drawn = bootstrap((numbers,), np.mean, n_resamples=10_000, rng=generator)
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


@dataclass(frozen=True)
class Scores:
    """One number for each object, of one network or of the difference between two."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the objects."""
        return sum(self.values) / len(self.values)

    @property
    def rose(self) -> int:
        """Of differences: how many are above 0."""
        return sum(value > 0 for value in self.values)

    def __sub__(self, other: "Scores") -> "Scores":
        return Scores(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over such objects; None of fewer than `FEWEST`."""
        return mean_interval(self.values) if len(self.values) >= FEWEST else None

    def __str__(self) -> str:
        """Mean and its 95 % interval over such objects, to two digits of the interval's width."""
        if (interval := self.interval) is None:
            return f"{self.mean:.4g}"
        low, high = interval
        decimals = max(0, 1 - math.floor(math.log10(high - low))) if high > low else 2
        return f"{self.mean:z.{decimals}f} ({low:z.{decimals}f} to {high:z.{decimals}f})"
