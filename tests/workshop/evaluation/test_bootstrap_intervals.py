import re

import numpy as np
import pytest

from imagedream.workshop.evaluation.bootstrap_intervals import FEWEST, Scores, mean_interval


def test_agrees_with_the_normal_approximation_of_many_values():
    values = np.random.default_rng(0).normal(20.0, 3.0, 400)
    low, high = mean_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_repeats_and_takes_equal_values():
    values = [1.0, 2.0, 4.0, 8.0, 1.0, 2.0, 4.0, 8.0]
    assert mean_interval(values) == mean_interval(values)
    assert mean_interval([0.5] * FEWEST) == (0.5, 0.5)


def test_too_few():
    with pytest.raises(ValueError, match="3 objects are too few for an interval, it needs at least 8"):
        mean_interval([1.0, 2.0, 3.0])


def test_differences_are_taken_object_by_object():
    many, other, few = (Scores(tuple(map(float, n))) for n in (range(10, 26), range(8, 24), (3, 1, 5)))
    assert (many - other).values == (2.0,) * 16
    assert str(many - other) == "2.00 (2.00 to 2.00)"
    assert re.fullmatch(r"17\.5 \(1\d\.\d to \d\d\.\d\)", str(many))  # about 4 wide
    assert re.fullmatch(
        r"0\.0175 \(0\.01\d\d to 0\.0\d{3}\)", str(Scores(tuple(v / 1000 for v in many.values)))
    )
    assert str(few) == "3"  # too few for an interval
