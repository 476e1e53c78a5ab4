"""Runs that are stopped, killed or run out of disk: what is left of them, and how they go on."""

import json
import os
import resource
import shutil
import signal
import sys
from datetime import datetime
from importlib import import_module
from pathlib import Path

import pytest
import torch

from threestudio import launcher
from threestudio.launching import resuming, space

PROJECT = Path(__file__).parent / "project"

pytestmark = [
    # Lightning 2.6 in its own checkpoints and loggers, on torch 2.15
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def launch(tmp_path):
    def call(*arguments):
        return launcher.main(["--config", "toy", f"exp_root_dir={tmp_path}", *arguments], project=PROJECT)

    yield call
    sys.modules["toy-extension"].ToySystem.events.clear()


def events():
    return " ".join(sys.modules["toy-extension"].ToySystem.events)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_training_and_still_exports(launch, tmp_path, capsys, name):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert launch("trainer.max_steps=100000", f"system.signals={{3: {name}}}") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    save = tmp_path / "toy" / "run" / "save"
    assert (save / "it4-export" / "model.json").is_file()
    timings = json.loads((save / "timings.json").read_text())
    assert timings["interrupted"] is True
    assert timings["steps"] == 4
    assert ("test 4" in events()) == (name == "SIGINT")  # who sends SIGTERM does not wait
    last = tmp_path / "toy" / "run" / "ckpts" / "last.ckpt"
    assert step_of(last) == 4
    assert "Stopped at step 4 of 100000" in capsys.readouterr().err

    assert launch("trainer.max_steps=6", "--resume", "auto") == 0
    assert f"going on from {last}" in capsys.readouterr().err
    assert step_of(last) == 6
    assert not list(last.parent.glob("last-v*"))


def test_the_second_signal_ends_the_program(launch, tmp_path, capsys):
    assert launch("trainer.max_steps=100000", "system.signals={3: SIGINT SIGINT}") == 130
    assert not list(tmp_path.rglob("model.json"))
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_signals_after_training_leave_the_turntable_but_not_the_export(launch, tmp_path, capsys):
    assert launch("system.signals={test: SIGTERM}") == 0
    assert "leaving the turntable" in capsys.readouterr().err
    assert list(tmp_path.rglob("model.json"))
    assert launch("tag=again", "system.signals={export: SIGINT}") == 0
    assert "finishing the export" in capsys.readouterr().err
    assert (tmp_path / "toy" / "again" / "save" / "it2-export" / "model.json").is_file()


# --------------------------------------------------------------------------------------------------- resume=auto


def test_resume_auto_without_a_checkpoint_starts_anew(launch, tmp_path, capsys):
    assert launch("--resume=auto") == 0
    assert f"no checkpoint in {tmp_path / 'toy' / 'run' / 'ckpts'}; starting anew" in capsys.readouterr().err
    assert "step 0" in events()


@pytest.mark.parametrize("damage", ["cut short", "flipped", "empty"])
def test_resume_auto_passes_over_damaged_checkpoints(launch, tmp_path, capsys, damage):
    every = ("trainer.max_steps=4", "checkpoint.every_n_train_steps=1", "checkpoint.save_last=false")
    assert launch(*every) == 0
    folder = tmp_path / "toy" / "run" / "ckpts"
    steps = {step_of(path): path for path in folder.glob("*.ckpt")}
    assert sorted(steps) == [1, 2, 3, 4]
    for step, path in sorted(steps.items()):  # as far apart as in a real run
        os.utime(path, (step, step))
    content = steps[4].read_bytes()
    middle = len(content) // 3
    flipped = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    steps[4].write_bytes({"cut short": content[:middle], "flipped": flipped, "empty": b""}[damage])
    os.utime(steps[4], (4, 4))
    half = folder / ".last.1.ckpt"  # of a run killed while it wrote
    half.write_bytes(content[:100])

    sys.modules["toy-extension"].ToySystem.events.clear()
    assert launch("trainer.max_steps=5", "resume=auto", *every[1:]) == 0
    said = capsys.readouterr().err
    assert f"{steps[4]} is damaged" in said
    assert f"going on from {steps[3]}" in said
    assert "step 3" in events()
    assert "step 2" not in events()
    assert not half.exists()


def test_resume_auto_finds_the_newest_trial_of_a_tag(launch, tmp_path):
    trials = tmp_path / "toy"
    assert launch("timestamp='@20260101-000000'", "use_timestamp=true") == 0
    shutil.copytree(trials / "run@20260101-000000", trials / "run@20260102-000000")
    shutil.copytree(trials / "run@20260101-000000", trials / "runner@20260103-000000")
    assert launch("--resume=auto", "use_timestamp=true", "trainer.max_steps=3") == 0
    assert sorted(path.name for path in trials.iterdir()) == [
        "run@20260101-000000", "run@20260102-000000", "runner@20260103-000000"
    ]  # fmt: skip
    steps = {path.name: step_of(path / "ckpts" / "last.ckpt") for path in trials.iterdir()}
    assert steps == {"run@20260101-000000": 2, "run@20260102-000000": 3, "runner@20260103-000000": 2}


def test_a_new_start_in_a_used_folder_keeps_the_earlier_run_beside_it(launch, tmp_path, capsys):
    assert launch("trainer.max_steps=3") == 0
    trial = tmp_path / "toy" / "run"
    earlier = sorted(path.relative_to(trial) for path in trial.rglob("*"))
    for path in [*trial.glob("ckpts/*"), *trial.glob("save/*")]:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert launch("trainer.max_steps=2") == 0
    aside = trial.with_name(f"run{datetime.fromtimestamp(1_000_000_000):@%Y%m%d-%H%M%S}")
    assert f"an earlier run in {trial} is in {aside} now" in capsys.readouterr().err
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == earlier
    assert (step_of(trial / "ckpts" / "last.ckpt"), step_of(aside / "ckpts" / "last.ckpt")) == (2, 3)
    assert not [path for path in trial.rglob("*") if "it3" in path.name]
    # going on, testing and exporting stay in the folder
    last = trial / "ckpts" / "last.ckpt"
    assert launch("trainer.max_steps=3", f"resume={last}") == 0
    assert launch("--test", f"resume={last}") == 0
    assert sorted(path.name for path in trial.parent.iterdir()) == ["run", aside.name]


def test_an_earlier_run_is_not_moved_over_another_one(tmp_path):
    for name in ("run", "run@20010909-014640"):
        (tmp_path / name / "save").mkdir(parents=True)
    path = tmp_path / "run" / "save" / "it1-0.png"
    path.write_bytes(b"")
    time = datetime(2001, 9, 9, 1, 46, 40).timestamp()
    os.utime(path, (time, time))
    with pytest.raises(FileExistsError, match=r"holds an earlier run, and so does .*run@20010909-014640"):
        resuming.set_aside(tmp_path / "run")
    assert path.exists()


# --------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_by_the_clock_and_the_newest_by_steps(launch, tmp_path):
    every = ("checkpoint.every_n_minutes=1e-9", "checkpoint.keep=3", "checkpoint.save_top_k=2")
    assert launch("trainer.max_steps=6", "checkpoint.every_n_train_steps=1", *every) == 0
    found = {path.name for path in (tmp_path / "toy" / "run" / "ckpts").iterdir()}
    assert found == {
        *("epoch=0-step=5.ckpt", "epoch=0-step=6.ckpt", "last.ckpt"),
        *("recent-step=4.ckpt", "recent-step=5.ckpt", "recent-step=6.ckpt"),
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.every_n_minutes=0", "checkpoint.every_n_minutes is 0, must be a number of minutes"),
        ("checkpoint.keep=0", "checkpoint.keep is 0, must be 1 or more"),
    ],
)
def test_impossible_checkpoint_options(launch, tmp_path, capsys, override, message):
    assert launch(override) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_what_was_written_whole(launch, tmp_path, capsys):
    heavy = "system.ballast_bytes=4000000"
    assert launch(heavy) == 0
    last = tmp_path / "toy" / "run" / "ckpts" / "last.ckpt"
    before = last.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may be longer than this: a write fails in the middle, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        assert launch(heavy, "trainer.max_steps=4", "resume=auto") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: {last.parent / 'epoch=0-step=4.ckpt'} could not be written: File too large"
    )
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir() if resuming.why_damaged(path)] == []
    assert launch(heavy, "trainer.max_steps=4", "resume=auto") == 0
    assert step_of(last) == 4


# --------------------------------------------------------------------------------------------------------- space


class _System(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.grid = torch.nn.Parameter(torch.zeros(1000))
        self.register_buffer("counts", torch.zeros(500))


def test_needed_space_by_hand(tmp_path):
    cfg = launcher.read_config(launcher.parse_arguments(["--config", "toy", "trainer.max_steps=10"], PROJECT))
    cfg.checkpoint = {"every_n_train_steps": 3, "save_top_k": -1, "save_last": True}
    cfg.data = {"eval_height": 100, "eval_width": 50, "n_test_views": 7, "n_val_views": 2}
    cfg.trainer.val_check_interval = 5
    assert space.checkpoint_bytes(_System()) == 4 * (1000 + 500 + 2 * 1000)
    assert space.checkpoint_count(cfg) == 3 + 1 + 2 + 1  # at 3, 6, 9; last; by the clock; being written
    assert space.picture_bytes(cfg) == (7 + 2 * 2) * 100 * 50 * 3 * 3 / 2
    cfg.checkpoint.save_top_k = 2
    assert space.checkpoint_count(cfg) == 2 + 1 + 2 + 1
    space.check_trial(tmp_path / "trial", _System(), cfg)


def test_a_disk_too_small_is_found_before_the_run(launch, tmp_path, capsys):
    huge = ("data.n_test_views=1000000000", "data.eval_height=1024", "data.eval_width=1024")
    assert launch(*huge) == 2
    assert "of pictures" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------ estimate


def test_estimate_leaves_nothing(launch, tmp_path, capsys):
    stages = (
        "data.height=[2,3]",
        "data.width=[2,3]",
        "data.batch_size=[1,1]",
        "data.resolution_milestones=[6]",
    )
    assert launch("--estimate", "trainer.max_steps=10", *stages) == 0
    assert not list(tmp_path.iterdir())
    assert "preprocess train 2" in events()
    assert "preprocess train 3" in events()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["estimate"] * 4
    assert "10 steps 0 s" in lines[0]
    assert lines[1].startswith("estimate: memory  ")
    assert "checkpoints" in lines[2]
    assert "from 5 steps of each of 2 resolutions" in lines[3]
    assert launch("--estimate", "--export") == 2
    assert launch("--estimate", "trainer.max_steps=-1") == 2


def test_estimate_by_hand(tmp_path):
    estimate = import_module("threestudio.launching.estimate")
    cfg = launcher.read_config(
        launcher.parse_arguments(
            ["--config", "toy", "trainer.max_steps=100", "trainer.val_check_interval=25"], PROJECT
        )
    )
    cfg.data |= {"resolution_milestones": [40, 400], "n_val_views": 2, "n_test_views": 10}
    plan = estimate.Plan.of(cfg)
    assert plan == estimate.Plan([40, 60], 4, 2, 10)
    probe = estimate.Plan.of(estimate.probe_config(cfg, plan, str(tmp_path)))
    assert probe == estimate.Plan([5, 5], 1, 1, 4)
    watch = estimate.Stopwatch()
    watch.begun = {"train": 0.0}
    # the first steps of 9 s do not count; then 1 s each, at the second resolution 2 s each
    watch.steps = [9, 10, 11, 12, 13, 22, 24, 26, 28, 30]
    watch.validation = 0.5
    watch.views = [0.0, 0.25, 0.5, 0.75, 1.0]
    seconds = estimate._seconds(plan, probe, watch, {"setup": 3, "fit": 34.5, "test": 1.5, "export": 7})
    assert list(seconds.values()) == [3, 34.5 - 30 - 0.5, 40 * 1 + 60 * 2, 0.5 * 4 * 2, 1.5 + 6 * 0.25, 7]
    assert [estimate.duration(s) for s in (5.4, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 5 min"]
