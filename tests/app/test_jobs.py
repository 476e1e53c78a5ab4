"""Runs of the page: on disk, one at a time, stopped, found again. Small shell programs take the place of launch.py."""

import errno
import json
import os
import signal
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from app.jobs import MOST_WAITING, Progress, Runs
from imagedream.runs import disk_space

FINISHED = """
mkdir -p run/save/it3-export
printf x > run/save/it3-export/model.glb; printf v > run/save/it3-export/model.obj; printf 'map_Kd a.png' > run/save/it3-export/model.mtl
printf p > run/save/it3-export/a.png; printf p > run/save/it3-export/levels.png
"""
EXPORTED = """printf '{"seconds": {"export": 1}, "interrupted": %s}' > run/save/run.json"""


class ShellRuns(Runs):
    """Runs whose program is a few lines of shell, in the run's folder."""

    script = ""
    started: ClassVar = []

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.started.append(self)

    def command(self, run):
        return ["/bin/sh", "-c", self.script]


@pytest.fixture
def runs(tmp_path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored by what is started here
    yield ShellRuns(tmp_path / "runs", tmp_path / "launch.py")
    signal.signal(signal.SIGINT, before)
    while ShellRuns.started:
        for child in ShellRuns.started.pop()._children.values():
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.JPG"
    path.write_bytes(b"picture")
    return path


def ask(runs, picture, **order):
    return runs.submit(picture, "imagedream-toybox.yaml", **order)


def steps_until(runs, key, *states):
    for _ in range(400):
        runs.step()
        if runs.get(key).state in states:
            return runs.get(key)
        time.sleep(0.01)
    raise AssertionError(runs.get(key))


def test_a_run_is_asked_for_made_and_found(runs, picture):
    runs.script = FINISHED + EXPORTED % "false"
    asked = ask(runs, picture, prompt="a ${oc.env:HOME} car", seed=4)
    assert asked.state == "queued"
    assert (asked.folder / asked.picture).read_bytes() == b"picture"
    assert asked.picture == "picture.jpg"
    assert asked.prompt == "a ${oc.env:HOME} car"
    done = steps_until(runs, asked.key, "done")
    assert (done.error, done.process) == ("", None)
    assert [path.name for path in runs.files(done)] == ["model.glb", "model-obj.zip", "log.txt"]
    with zipfile.ZipFile(runs.files(done)[1]) as archive:
        assert sorted(archive.namelist()) == ["a.png", "model.mtl", "model.obj"]
    assert ShellRuns(runs.folder, runs.launcher).all() == [done]


def test_one_at_a_time_in_the_order_of_asking(runs, picture):
    runs.script = "exec sleep 60"
    first, second = ask(runs, picture), ask(runs, picture)
    runs.step()
    runs.step()
    assert [run.state for run in runs.all()] == ["running", "queued"]
    assert runs.waiting_before(runs.get(second.key)) == 1
    runs.stop(first.key)
    assert steps_until(runs, first.key, "stopped").error
    assert runs.get(second.key).state == "running"


def test_stop_keeps_what_is_there_and_a_second_ends_at_once(runs, picture):
    runs.script = (
        FINISHED
        + f"""
finish() {{ {EXPORTED % "true"}; exit 0; }}
trap finish INT; touch ready; while :; do sleep 0.02; done"""
    )
    key = ask(runs, picture).key
    runs.step()
    wait_for(runs.folder / key / "ready")
    runs.stop(key)
    assert runs.get(key).stop_asked
    stopped = steps_until(runs, key, "stopped")
    assert (stopped.error, runs.model(stopped).name) == ("", "model.glb")

    runs.script = "trap '' INT; touch ready; while :; do sleep 0.02; done"
    key = ask(runs, picture).key
    runs.step()
    wait_for(runs.folder / key / "ready")
    runs.stop(key)
    runs.step()
    assert runs.get(key).state == "running"
    runs.stop(key)
    assert "before there was a finished model" in steps_until(runs, key, "stopped").error


def test_a_run_that_waits_is_cancelled_and_one_that_was_stopped_goes_on(runs, picture):
    key = ask(runs, picture).key
    assert runs.stop(key).state == "cancelled"
    runs.step()
    assert runs.get(key).state == "cancelled"
    again = runs.resume(key)
    assert again.state == "queued"
    command = Runs.command(runs, again)
    assert command[command.index("--resume") + 1] == "auto"


def test_a_failure_is_told_in_the_words_of_launch_and_the_queue_goes_on(runs, picture):
    runs.script = "echo 'error: out of memory: tried to allocate 20 GiB' >&2; exit 1"
    failed, waiting = ask(runs, picture), ask(runs, picture)
    assert steps_until(runs, failed.key, "failed").error == "out of memory: tried to allocate 20 GiB"
    assert steps_until(runs, waiting.key, "failed")
    runs.script = "kill -9 $$"
    assert "ended" in steps_until(runs, ask(runs, picture).key, "failed").error


def test_a_rough_model_of_a_run_that_failed_is_no_finished_one(runs, picture):
    runs.script = FINISHED + "exit 3"
    assert "code 3" in steps_until(runs, ask(runs, picture).key, "failed").error


def test_a_server_that_starts_again_finds_the_run_at_work(runs, picture):
    runs.script = "while ! test -e go; do sleep 0.02; done;" + FINISHED + EXPORTED % "false"
    first, second = ask(runs, picture), ask(runs, picture)
    runs.step()
    restarted = ShellRuns(runs.folder, runs.launcher)
    restarted.script = "exec sleep 60"
    restarted.step()
    assert [run.state for run in restarted.all()] == ["running", "queued"]
    (runs.folder / first.key / "go").touch()
    runs._children[first.key].wait()
    assert steps_until(restarted, first.key, "done").state == "done"
    assert restarted.get(second.key).state == "running"


def test_a_number_that_another_program_has_now_is_not_the_run(runs, picture):
    key = ask(runs, picture).key
    path = runs.folder / key / "status.json"
    content = json.loads(path.read_text()) | {"state": "running", "process": ["here", os.getpid(), 1.0]}
    path.write_text(json.dumps(content))
    assert steps_until(runs, key, "failed").error.startswith("its program was ended")


def test_the_queue_is_bounded(runs, picture):
    for _ in range(MOST_WAITING):
        ask(runs, picture)
    with pytest.raises(ValueError, match=f"{MOST_WAITING} runs are waiting"):
        ask(runs, picture)


def test_a_full_disk_is_said_before_anything_is_written_and_the_queue_waits(runs, picture, monkeypatch):
    waiting = ask(runs, picture)
    usage = type("usage", (), {"free": 5 * 2**20})
    with monkeypatch.context() as full:
        full.setattr(disk_space.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(OSError, match="only 5 MiB free") as error:
            ask(runs, picture)
        assert error.value.errno == errno.ENOSPC
        runs.step()
        assert "the queue waits: only 5 MiB free" in runs.problem
    runs.script = "exec sleep 60"
    runs.step()
    assert (runs.get(waiting.key).state, runs.problem) == ("running", "")
    assert len(runs.all()) == 1


@pytest.mark.parametrize("key", ["..", "../secret", "/etc", "20261130-154312-123456/..", "", "x" * 5000])
def test_names_from_outside_are_not_joined_to_paths(runs, key):
    with pytest.raises(ValueError, match="there is no run"):
        runs.get(key)


def test_a_prompt_has_a_length(runs, picture):
    with pytest.raises(ValueError, match="501 characters, 500 are allowed"):
        ask(runs, picture, prompt="x" * 501)


def test_progress_is_read_from_the_log(runs, picture):
    run = ask(runs, picture)
    assert runs.progress(run) is None
    log = runs.folder / run.key / "log.txt"
    log.write_text(
        "host: embedded\nFour views:   0%|          | 0/5 [00:00<?, ?it/s]\rFour views: 100%|###| 5/5 [00:02<00:00,  1.70it/s]\n"
        "[INFO] Training:   3% 7/240 [00:16<08:53,  2.29s/it]\n[INFO] something else\n"
    )
    assert runs.progress(run) == Progress("Training", 7, 240, "08:53")


def test_what_launch_is_told(runs, picture, tmp_path):
    mask, back = tmp_path / "m.png", tmp_path / "b.webp"
    for path in (mask, back):
        path.write_bytes(b"p")
    run = runs.submit(picture, "c.yaml", "preview", "a red car", 7, mask, {"back": back})
    folder = runs.folder / run.key
    command = Runs.command(runs, run)
    assert command[1:] == [
        str(runs.launcher), "--config", "c.yaml", "--train", "--preset", "preview", "--resume", "auto", "seed=7", "system.views.seed=7",
        f"system.prompt_processor.image_path={folder}/picture.jpg",
        f"system.prompt_processor.mask_path={folder}/mask.png",
        f"system.prompt_processor.back_path={folder}/back.webp",
        "system.prompt_processor.prompt=a red car",
        "system.exporter.fmt=glb+obj", f"exp_root_dir={runs.folder}", f"name={run.key}", "tag=run", "use_timestamp=false",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == [
        "back.webp", "mask.png", "picture.jpg", "status.json",
    ]  # fmt: skip


def wait_for(path: Path):
    for _ in range(500):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")
