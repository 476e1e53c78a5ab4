"""Numbers of settings in their ranges: one mechanism for dataclasses and for the keys of hosts."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Interval
from omegaconf import OmegaConf

from imagedream.runs.host_ranges import check_experiment
from imagedream.runs.ranges import (
    AscendingPair,
    Count,
    Fraction,
    PerStage,
    Schedule,
    check_finite,
    check_ranges,
)


@dataclass
class Settings:
    count: Count = 1
    limit: Annotated[int, Ge(2)] | None = None
    pair: Annotated[AscendingPair, Interval(gt=0, lt=180)] = (40.0, 50.0)
    sizes: Annotated[Any, PerStage, Interval(ge=1, le=64)] = 8
    weight: Annotated[Any, Schedule(Fraction)] = 0.5
    free: float = 0.0
    flag: bool = False
    text: str = ""

    def __post_init__(self):
        check_ranges(self, "some")


@pytest.mark.parametrize(
    "values",
    [
        {"count": 10**9, "limit": 2, "pair": (45, 45), "sizes": [1, 64], "free": -1e30, "flag": 1, "text": 5},
        {"weight": [1.0, 0.0, 100]},  # value, value, last step
        {"weight": [50, 0.0, 1.0, 100]},  # first step before them
        {"weight": [50, 0.0, 1.0, 100, 0.5, 300]},
        {"weight": OmegaConf.create([50, 0, 1, 100])},
    ],
)
def test_what_is_allowed(values):
    OmegaConf.structured(Settings(**values))  # omegaconf sees plain types


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "some.count is 0, must be a whole number of at least 1, up to 1,000,000,000"),
        ({"count": 2.0}, "some.count is 2.0, must be a whole number"),
        ({"count": True}, "some.count is True"),
        ({"count": "abc"}, "some.count is 'abc'"),
        ({"count": None}, "some.count is None"),
        ({"count": 10**30}, "up to 1,000,000,000"),
        ({"limit": 1}, "some.limit is 1, must be a whole number of at least 2, or null"),
        ({"pair": (50, 40)}, "must be a list of 2 numbers ascending, above 0, below 180"),
        ({"pair": (0, 40)}, "some.pair"),
        ({"pair": (40,)}, "some.pair"),
        ({"pair": (math.nan, math.nan)}, "some.pair"),
        ({"sizes": [8, 0]}, "must be a whole number, or a list of whole numbers, of at least 1, up to 64"),
        ({"sizes": [8, 1.5]}, "some.sizes"),
        ({"sizes": {}}, "some.sizes"),
        ({"weight": 2}, "must be a number of at least 0, up to 1, or a schedule"),
        ({"weight": [0, 0.5, math.nan, 10]}, "some.weight"),
        ({"weight": [0, 0.5, 2, 10]}, "some.weight"),
        ({"weight": [0.5]}, "some.weight"),
        ({"weight": [0, 0.5, 0.6, 10, 0.7]}, "some.weight"),
        ({"weight": None}, "some.weight"),
        ({"free": math.inf}, "some.free is inf, must be a number"),
        ({"free": "0,5"}, "some.free is '0,5'"),
        ({"free": 10**400}, "must be a number"),
        ({"flag": "maybe"}, "some.flag is 'maybe', must be true or false"),
        ({"flag": 2}, "some.flag is 2"),
        ({"flag": [True]}, "some.flag"),
    ],
)
def test_what_is_not(values, message):
    with pytest.raises(ValueError, match="some") as caught:
        Settings(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"a": {"b": math.nan}}, "a.b is nan"),
        ({"a": [1.0, {"b": [math.inf]}]}, "a.1.b.0 is inf"),
    ],
)
def test_no_number_is_infinite_or_none(tree, name):
    check_finite({"a": {"b": [1.0, "nan"]}})
    with pytest.raises(ValueError, match=f"^{name}, must be finite"):
        check_finite(tree)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed", [-1, 2**32, "abc"]),
        ("trainer.max_steps", [-1, "100k", None, 1e30]),
        ("trainer.accumulate_grad_batches", [0]),
        ("trainer.val_check_interval", [0, [], "1,5"]),
        ("trainer.enable_progress_bar", ["5%", 5, [True]]),
        ("checkpoint.save_last", ["1,5", [[5]]]),
        ("trainer.gradient_clip_val", [-1, "nan"]),
        ("checkpoint.save_top_k", [-2, []]),
        ("data.n_test_views", [0, -1]),
        ("system.loss.lambda_opaque", ["0,5", -1, [0, 1, -1, 5]]),
        ("system.guidances.other.guidance.min_step_percent", [2]),
        ("system.optimizer.params.geometry.encoding.lr", [-1, "abc"]),
        ("system.optimizer.args.betas", [[0.9], [0.9, 1], "abc"]),
        ("system.renderer.num_samples_per_ray", [0, -5]),
        ("system.renderer.radius", [0, math.nan, {"a": 5}, 10**400]),
        ("system.guidance.n_view", [0, "1+1", None, [5], {}]),
        ("system.geometry.pos_encoding_config.log2_hashmap_size", [64, 2.5]),
        ("system.background.random_aug_prob", [2, "inf"]),
        ("trainer.something.nobody.knows", [math.nan, [math.inf]]),
    ],
)
def test_keys_of_hosts(key, values):
    for value in values:
        tree = value
        for part in reversed(key.split(".")):
            tree = {part: tree}
        with pytest.raises(ValueError, match=key.replace(".", r"\.")):
            check_experiment(tree)
