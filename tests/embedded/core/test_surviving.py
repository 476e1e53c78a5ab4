"""Runs that are stopped, killed or run out of disk: what is left of them, and how they are resumed."""

import os
import resource
import shutil
import signal
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

import launch
from imagedream.runs import atomic_checkpoints, trial_folder
from imagedream.runs.disk_space import checkpoint_bytes
from imagedream.runs.locks import locked
from threestudio.launching.arguments import parse_arguments, read_config

PROJECT = Path(__file__).parent / "project"

pytestmark = [
    # Lightning 2.6 in its own checkpoints and loggers, on torch 2.15
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def start(tmp_path):
    def call(*arguments):
        return launch.main(["--config", "toy", f"exp_root_dir={tmp_path}", *arguments], PROJECT)

    yield call
    sys.modules["toy-extension"].ToySystem.events.clear()


def events():
    return " ".join(sys.modules["toy-extension"].ToySystem.events)


def step_of(path):
    return torch.load(path, weights_only=True)["global_step"]


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_training_and_still_exports(start, tmp_path, capsys, name):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert start("trainer.max_steps=100000", f"system.signals={{3: {name}}}") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    trial = tmp_path / "toy" / "run"
    assert (trial / "save" / "it4-export" / "model.json").is_file()
    assert ("test 4" in events()) == (name == "SIGINT")  # who sends SIGTERM does not wait
    assert step_of(trial / "ckpts" / "last.ckpt") == 4
    assert f"stopped by {name} at step 4 of 100000" in capsys.readouterr().err

    assert start("trainer.max_steps=6", "--resume", "auto") == 0
    assert f"resuming {trial / 'ckpts'}/" in capsys.readouterr().err
    assert step_of(trial / "ckpts" / "last.ckpt") == 6
    assert not list(trial.glob("ckpts/last-v*"))


def test_the_second_signal_ends_the_program(start, tmp_path, capsys):
    assert start("trainer.max_steps=100000", "system.signals={3: SIGINT SIGINT}") == 130
    assert not list(tmp_path.rglob("model.json"))
    assert capsys.readouterr().err.endswith("interrupted\n")


def test_signals_after_training_leave_the_turntable_but_not_the_export(start, tmp_path, capsys):
    assert start("data.n_test_views=2", "system.signals={test: SIGTERM, export: SIGINT}") == 130
    assert "leaving the turntable" in capsys.readouterr().err
    assert start("data.n_test_views=2", "system.signals={test: SIGTERM}", "tag=again") == 0
    assert (
        sys.modules["toy-extension"].ToySystem.events.count("test 2") == 2
    )  # one of two views, in both runs
    assert start("tag=more", "system.signals={export: SIGINT}") == 0
    assert "finishing the export" in capsys.readouterr().err
    for tag in ("again", "more"):
        assert (tmp_path / "toy" / tag / "save" / "it2-export" / "model.json").is_file()


# --------------------------------------------------------------------------------------------------- resume=auto


def test_resume_auto_passes_over_damaged_checkpoints(start, tmp_path, capsys):
    every = ("trainer.max_steps=4", "checkpoint.every_n_train_steps=1", "checkpoint.save_last=false")
    folder = tmp_path / "toy" / "run" / "ckpts"
    assert start(*every, "--resume=auto") == 0
    assert f"no checkpoint in {folder}; starting anew" in capsys.readouterr().err
    steps = {step_of(path): path for path in folder.glob("*.ckpt")}
    assert sorted(steps) == [1, 2, 3, 4]
    for step, path in steps.items():  # a clock that was wrong
        os.utime(path, (2**33 - step, 2**33 - step))
    content = steps[4].read_bytes()
    middle = len(content) // 3
    steps[4].write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    half = folder / ".unfinished-0123abcd.ckpt"  # of a run killed while it wrote
    half.write_bytes(content[:100])

    sys.modules["toy-extension"].ToySystem.events.clear()
    assert start("trainer.max_steps=5", "resume=auto", *every[1:]) == 0
    said = capsys.readouterr().err
    assert f"{steps[4]} is damaged" in said
    assert f"resuming {steps[3]}" in said
    assert "step 3" in events()
    assert "step 2" not in events()
    assert not half.exists()
    assert start("--test", f"resume={steps[4]}") == 0  # written anew


def test_resume_auto_finds_the_newest_trial_of_a_tag(start, tmp_path):
    folder = tmp_path / "toy"
    assert start("timestamp='@20260101-000000'", "use_timestamp=true") == 0
    shutil.copytree(folder / "run@20260101-000000", folder / "run@20260102-000000")
    shutil.copytree(folder / "run@20260101-000000", folder / "runner@20260103-000000")
    assert start("--resume=auto", "use_timestamp=true", "trainer.max_steps=3") == 0
    steps = {path.name: step_of(path / "ckpts" / "last.ckpt") for path in folder.iterdir()}
    assert steps == {"run@20260101-000000": 2, "run@20260102-000000": 3, "runner@20260103-000000": 2}


def test_a_new_start_in_a_used_folder_keeps_the_earlier_run_beside_it(start, tmp_path, capsys):
    assert start("trainer.max_steps=3") == 0
    trial = tmp_path / "toy" / "run"
    earlier = sorted(path.relative_to(trial) for path in trial.rglob("*"))
    for path in [*trial.glob("ckpts/*"), *trial.glob("save/*")]:
        os.utime(path, (1_000_000_000, 1_000_000_000))
    assert start("system.partt=1") == 2  # a mistake moves nothing
    assert start("trainer.max_steps=2") == 0
    aside = trial.with_name(f"run{datetime.fromtimestamp(1_000_000_000):@%Y%m%d-%H%M%S}")
    assert f"an earlier run in {trial} is in {aside} now" in capsys.readouterr().err
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == earlier
    assert (step_of(trial / "ckpts" / "last.ckpt"), step_of(aside / "ckpts" / "last.ckpt")) == (2, 3)
    assert not [path for path in trial.rglob("*") if "it3" in path.name]
    # resuming and testing stay in the folder
    last = trial / "ckpts" / "last.ckpt"
    assert start("trainer.max_steps=3", f"resume={last}") == 0
    assert start("--test", f"resume={last}") == 0
    assert sorted(path.name for path in trial.parent.iterdir()) == ["run", aside.name]


def test_two_runs_are_not_in_one_folder(start, tmp_path, capsys):
    assert start() == 0
    trial = tmp_path / "toy" / "run"
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    last = f"resume={trial / 'ckpts' / 'last.ckpt'}"
    with locked(trial, "run", beside=True):  # as by a run that is going on
        for arguments in ([], ["--resume=auto"], ["--export", last], ["--test", last]):
            assert start(*arguments) == 2
            assert capsys.readouterr().err.endswith(
                f"error: {trial}: another run is at work there; wait for it or name another folder\n"
            )
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    trial.with_name(".other@20260101-000000.lock").touch()  # of a run that was killed
    assert start("tag=more") == 0
    assert sorted(path.name for path in trial.parent.iterdir()) == ["more", "run"]


def test_an_earlier_run_is_not_moved_over_another_one(tmp_path):
    for name in ("run", "run@20010909-014640"):
        (tmp_path / name / "save").mkdir(parents=True)
    path = tmp_path / "run" / "save" / "it1-0.png"
    path.write_bytes(b"")
    time = datetime(2001, 9, 9, 1, 46, 40).timestamp()
    os.utime(path, (time, time))
    with pytest.raises(FileExistsError, match=r"holds an earlier run, and so does .*run@20010909-014640"):
        trial_folder.set_aside(tmp_path / "run")
    assert path.exists()


# --------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_by_the_clock_and_the_newest_by_steps(start, tmp_path):
    every = ("system.checkpoints={minutes: 1e-9, keep: 3}", "checkpoint.save_top_k=2")
    assert start("trainer.max_steps=6", "checkpoint.every_n_train_steps=1", *every) == 0
    found = {path.name for path in (tmp_path / "toy" / "run" / "ckpts").iterdir()}
    by_clock = {f"recent-step={step:08d}.ckpt" for step in (4, 5, 6)}
    assert found == {"epoch=0-step=5.ckpt", "epoch=0-step=6.ckpt", "last.ckpt", *by_clock}


def test_a_full_disk_leaves_what_was_written_whole(start, tmp_path, capsys):
    heavy = "system.ballast_bytes=4000000"
    assert start(heavy) == 0
    last = tmp_path / "toy" / "run" / "ckpts" / "last.ckpt"
    before = last.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # no file may be longer than this: a write fails in the middle, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, limits[1]))
    try:
        assert start(heavy, "trainer.max_steps=4", "resume=auto") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: {last.parent / 'epoch=0-step=4.ckpt'} could not be written: File too large"
    )
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir() if atomic_checkpoints.why_damaged(path)] == []
    assert start(heavy, "trainer.max_steps=4", "resume=auto") == 0
    assert step_of(last) == 4


def test_needed_space_by_hand():
    module = torch.nn.Linear(10, 99)
    module.register_buffer("counts", torch.zeros(500))
    assert checkpoint_bytes(module) == 4 * (1089 + 500 + 2 * 1089)
    cfg = read_config(parse_arguments(["--config", "toy", "trainer.max_steps=10"], PROJECT))
    cfg.checkpoint = {"every_n_train_steps": 3, "save_top_k": -1, "save_last": True}
    cfg.data = {"eval_height": 100, "eval_width": 50, "n_test_views": 7, "n_val_views": 2}
    cfg.trainer.val_check_interval = 5
    assert (
        trial_folder.checkpoint_count(cfg) == 3 + 1 + 2 + 1
    )  # at 3, 6, 9; last; by the clock; being written
    assert trial_folder.picture_bytes(cfg) == (7 + 2 * 2) * 100 * 50 * 3 * 3 / 2
    cfg.checkpoint.save_top_k = 2
    assert trial_folder.checkpoint_count(cfg) == 2 + 1 + 2 + 1
