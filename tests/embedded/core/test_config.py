import os
from dataclasses import dataclass, field

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from threestudio.utils.config import C_max, ExperimentConfig, load_config, parse_structured
from threestudio.utils.misc import C, find_last_path


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("${calc_exp_lr_decay_rate:0.25,2}", 0.5),
        ("${add:1,2}", 3),
        ("${sub:1,2}", -1),
        ("${mul:3,2}", 6),
        ("${div:3,2}", 1.5),
        ("${idiv:7,2}", 3),
        ("${basename:a/b/c.png}", "c.png"),
        ("${rmspace:'a b c',_}", "a_b_c"),
        ("${tuple2:2}", [2.0, 2.0]),
        ("${gt0:0.5}", True),
        ("${gt0:0}", False),
        ("${cmaxgt0:[0, 0.0, 1.0, 10]}", True),
        ("${cmaxgt0:0.0}", False),
        ("${cmaxgt0orcmaxgt0:0.0,[0.0, 2.0, 5]}", True),
        ("${cmaxgt0orcmaxgt0:0.0,0}", False),
        ("${not:true}", False),
    ],
)
def test_resolvers(expression, expected):
    assert OmegaConf.to_container(OmegaConf.create({"x": expression}), resolve=True)["x"] == expected


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (3, 100, 3),
        (0.5, 100, 0.5),
        ([1.0, 3.0, 10], 0, 1.0),  # [v0, v1, end]
        ([1.0, 3.0, 10], 5, 2.0),
        ([1.0, 3.0, 10], 99, 3.0),
        ([10, 1.0, 3.0, 20], 5, 1.0),  # [start, v0, v1, end]
        ([10, 1.0, 3.0, 20], 15, 2.0),
        ([0, 0.98, 0.02, 8000], 2000, 0.74),
        ([0, 0.0, 1.0, 10, 5.0, 20], 5, 0.5),  # two pieces
        ([0, 0.0, 1.0, 10, 5.0, 20], 10, 1.0),
        ([0, 0.0, 1.0, 10, 5.0, 20], 15, 3.0),
        ([0, 0.0, 1.0, 10, 5.0, 20], 30, 5.0),
        ([0, 0.0, 1.0, 10, 5.0, 20, 7.0], 30, 5.0),  # a dangling value is ignored
        ([0, 2.0, 4.0, 0], 0, 4.0),  # no length: the end value
    ],
)
def test_schedules(schedule, step, expected):
    assert C(OmegaConf.create({"x": schedule}).x, 0, step) == pytest.approx(expected)
    assert C(schedule, 0, step) == pytest.approx(expected)


def test_a_float_end_counts_epochs():
    assert C([0, 0.0, 1.0, 10.0], 5, 0) == 0.5


def test_schedule_maximum():
    assert C_max(4) == 4
    assert C_max([1.0, 3.0, 10]) == 3.0
    assert C_max([100, 1.0, 3.0, 10]) == 3.0  # not the step numbers
    assert C_max([0, 9.0, 1.0, 10, 5.0, 2000]) == 9.0


@dataclass
class Sample:
    rate: float = 1.0
    name: str | None = None
    range: tuple[float, float] = (0.0, 1.0)
    free: dict = field(default_factory=dict)


def test_structured_config():
    parsed = parse_structured(Sample, OmegaConf.create({"rate": 2, "free": {"a": 1}}))
    assert isinstance(parsed.rate, float)
    assert parsed.free.a == 1
    assert list(parsed.range) == [0.0, 1.0]
    # a schedule where a number is declared, as all configs of threestudio do
    schedule = [0, 1.0, 0.5, 10]
    assert list(parse_structured(Sample, OmegaConf.create({"rate": schedule})).rate) == schedule


def test_experiment_directories(tmp_path):
    yaml = f"name: chair\ntag: t\nexp_root_dir: {tmp_path}\nuse_timestamp: false\nseed: 3\n"
    config = load_config(yaml, from_string=True, cli_args=["seed=5", "system.loss.lambda_sds=1e-3"])
    assert config.trial_dir == os.path.join(tmp_path, "chair", "t")
    assert not os.path.exists(config.trial_dir)  # whoever writes into it makes it
    assert config.seed == 5
    assert config.system.loss.lambda_sds == 1e-3
    stamped = load_config(yaml, from_string=True, cli_args=["use_timestamp=true"])
    assert stamped.timestamp.startswith("@2")
    assert stamped.trial_name == "t" + stamped.timestamp
    assert ExperimentConfig(**stamped).trial_dir == stamped.trial_dir  # parsed.yaml leads to the same trial
    assert load_config(yaml, from_string=True, use_timestamp=True, n_gpus=2).trial_name == "t"


def read(text):
    return load_config(text, from_string=True)


@pytest.mark.parametrize(
    ("function", "value", "error", "message"),
    [
        (C_max, [1.0], ValueError, "with 1 elements"),
        (C_max, [0, 1.0, 2.0, 3, 4.0], ValueError, "with 5 elements"),
        (C_max, "0.5", TypeError, "a number or a list"),
        (Sample, {"rat": 1}, ValueError, r"Sample: unknown key rat \(did you mean rate\?\); allowed: free, name, ra"),
        (Sample, {"x": 1, "y": 1}, TypeError, "unknown keys x, y"),
        (Sample, None, ValueError, "must be a mapping, got None"),
        (Sample, {"rate": "fast"}, ValidationError, "rate"),
        (read, "use_timestamp: false", ValueError, "tag is specified or use_timestamp"),
        (read, "tag: x\ntrainr: {}", TypeError, "unknown key trainr"),
        (read, "- 1", ValueError, "must hold a mapping"),
    ],
)  # fmt: skip
def test_errors(function, value, error, message):
    with pytest.raises(error, match=message):
        parse_structured(function, value) if function is Sample else function(value)


def test_find_last_path(tmp_path):
    for stamp in ("@20240101-000000", "@20250101-000000"):
        (tmp_path / f"my_chair{stamp}").mkdir()
        (tmp_path / f"my_chair{stamp}" / "last.ckpt").touch()
    found = find_last_path(f"{tmp_path}/my chair@LAST/last.ckpt")
    assert found == f"{tmp_path}/my_chair@20250101-000000/last.ckpt"
    assert find_last_path("plain path.ckpt") == "plain path.ckpt"
    with pytest.raises(FileNotFoundError):
        find_last_path(f"{tmp_path}/other@LAST/last.ckpt")
