"""A folder of pictures through the real `launch.py` with a tiny model: skipped, retried, killed, interrupted, shown."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import PIL.Image
import pytest
import torch

from imagedream.cli import main
from imagedream.image_prompt.prompt import SUFFIXES
from imagedream.workshop.batch.launching import Launch
from imagedream.workshop.batch.pages import write_pages
from imagedream.workshop.batch.run_batch import run_batch
from imagedream.workshop.launched_run import known_pictures, read_run
from imagedream.workshop.rendering.captioned_files import file_items
from imagedream.workshop.workers import Outcome, run_processes
from tests.tiny import brick

ROOT = Path(__file__).parents[2]
EXPORT = {"resolution": 24, "texture_size": 64, "target_faces": 300, "bake_views": 4}
DATA = {"height": 16, "width": 16, "eval_height": 16, "eval_width": 16, "n_val_views": 1, "n_test_views": 4}
SMALL = (
    *("trainer.max_steps=2", "trainer.val_check_interval=2", "system.views.steps=2"),
    *("system.prompt_processor.image_size=32", "system.renderer.num_samples_per_ray=24"),
    *(f"data.{name}={value}" for name, value in DATA.items()),
    *(f"system.exporter.{name}={value}" for name, value in EXPORT.items()),
)


@pytest.fixture(autouse=True)
def _no_model_is_kept_for_other_tests(monkeypatch):
    monkeypatch.setattr("imagedream.memory_options._kept", None)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures, one with a caption beside it, and a file that is none."""
    folder = tmp_path / "pictures"
    brick(folder / "brick.png")
    brick(folder / "more" / "IMG_1.png", (0, 0, 255))
    (folder / "brick.txt").write_text("a brick: it's ${oc.env:HOME} <red>\n")
    (folder / "text.jpg").write_text("not a picture")
    return folder


def items_in(folder, known=None):
    return file_items(folder, SUFFIXES, "picture", known=known)


def run_here(function, tasks, jobs=0, attempts=1):
    return run_processes(function, tasks, jobs, attempts=attempts)


class Pretend(Launch):
    """A run that takes no time: what `launch.py` would leave, or the failure that the picture's name says."""

    def launch(self, run):
        if "text" in run.key:
            raise ValueError("this is <no> picture")
        if run.key == "interrupted":
            raise KeyboardInterrupt
        export = run.trial / "save" / "it2-export"
        export.mkdir(parents=True)
        (export / "model.glb").write_bytes(b"glTF")
        (self.out / f"{run.key}.glb").write_bytes(b"glTF")
        test = run.trial / "save" / "it2-test"
        test.mkdir()
        for index in range(12):
            PIL.Image.new("RGB", (16, 8), (20 * index, 0, 0)).save(test / f"{index}.png")
        PIL.Image.new("RGBA", (8, 8), (0, 255, 0, 255)).save(run.trial / "save" / "prompt.png")


@pytest.fixture
def pretend(tmp_path):
    return Pretend(ROOT / "launch.py", "imagedream-toybox.yaml", tmp_path / "out", ("seed=1",))


def record(launch, item):
    return read_run(launch.out / item.key)


def states(launch, items):
    return {item.key: record(launch, item).state for item in items}


def test_what_is_done_is_skipped_and_what_failed_is_tried_again(pictures, pretend):
    items = items_in(pictures)
    assert [(item.key, item.caption) for item in items] == [
        ("brick", "a brick: it's ${oc.env:HOME} <red>"),
        ("more_IMG_1", ""),  # a camera's number says nothing
        ("text", "text"),
    ]
    summary = run_batch(items, pretend, partial(run_here, attempts=2))
    assert (summary.done, summary.skipped, summary.failed) == (2, 0, {"text": "this is <no> picture"})
    assert states(pretend, items) == {"brick": "done", "more_IMG_1": "done", "text": "failed"}
    failed = record(pretend, items[2])
    assert (failed.attempts, failed.error) == (2, "this is <no> picture")
    assert failed.queued_at <= failed.started_at <= failed.finished_at
    first = record(pretend, items[0])

    summary = run_batch(items, pretend, run_here)
    assert (summary.done, summary.skipped) == (2, 2)
    assert record(pretend, items[0]) == first
    assert record(pretend, items[2]).attempts == 3

    # another caption, other overrides, another picture: a new result is due
    (pictures / "more" / "IMG_1.txt").write_text("a blue brick")
    assert run_batch(items_in(pictures), pretend, run_here).skipped == 1
    other = Pretend(pretend.launcher, pretend.config, pretend.out, ("seed=2",))
    assert run_batch(items, other, run_here).skipped == 0
    PIL.Image.new("RGB", (9, 9)).save(pictures / "brick.png")
    assert run_batch(items, other, run_here).skipped == 1
    # a mesh that somebody deleted too
    shutil.rmtree(other.find(items[1]).trial)
    assert run_batch(items, other, run_here).skipped == 1


def test_a_config_s_base_is_part_of_what_a_result_counts_for(pictures, pretend, tmp_path):
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nb: 1\n")
    item, identities = items_in(pictures)[0], set()
    for number in (1, 2):
        (tmp_path / "base.yaml").write_text(f"a: {number}\n")
        identities.add(replace(pretend, config=str(tmp_path / "mine.yaml")).identity(item))
    assert len(identities) == 2


def test_pages_show_everything_and_run_nothing(pictures, pretend):
    (pictures / "brick.png").rename(pictures / "<img src=x onerror=alert(1)>.png")
    (pictures / "brick.txt").rename(pictures / "<img src=x onerror=alert(1)>.txt")
    run_batch(items_in(pictures), pretend, run_here)
    page = (pretend.out / "index.html").read_text()
    assert "<img src=x" not in page
    assert "<red>" not in page
    assert "&lt;red&gt;" in page
    assert "this is &lt;no&gt; picture" in page
    assert "2 of 3 pictures have their model, 1 failed" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    for link in ("img_src_x_onerror_alert_1_.glb", "more_IMG_1.glb", "contact_sheet.png"):
        assert f'href="_{link}"' in page or f'href="{link}"' in page
    sheet = PIL.Image.open(pretend.out / "contact_sheet.png").convert("RGB")
    assert sheet.size == (9 * 128, 16 + 2 * 128)
    assert sheet.getpixel((64, 80)) == (0, 255, 0)
    quarters = [sheet.getpixel(((5 + column) * 128 + 64, 80)) for column in range(4)]
    assert quarters == [(0, 0, 0), (60, 0, 0), (120, 0, 0), (180, 0, 0)]  # frames 0, 3, 6, 9 of 12


def test_an_interruption_puts_the_picture_back(pictures, pretend):
    (pictures / "brick.png").rename(pictures / "interrupted.png")
    items = items_in(pictures)
    with pytest.raises(KeyboardInterrupt):
        run_batch(items, pretend, run_here)
    assert states(pretend, items) == {"interrupted": "queued", "more_IMG_1": "queued", "text": "queued"}
    assert "0 of 3 pictures" in (pretend.out / "index.html").read_text()


def test_a_worker_that_died_is_written_down(pictures, pretend):
    def run(function, tasks):
        for task in tasks:
            function.find(task).note("running", attempts=1)
            yield Outcome(task, error="its process died (SIGKILL)")

    items = items_in(pictures)
    run_batch(items, pretend, run)
    assert record(pretend, items[0]).state == "failed"
    assert record(pretend, items[0]).error == "its process died (SIGKILL)"


def test_a_picture_that_joins_takes_no_other_s_result(pictures, pretend):
    run_batch(items_in(pictures), pretend, run_here)
    shutil.copy(pictures / "brick.png", pictures / "brick.jpg")
    wanted = {Path(item.source).name: item.key for item in items_in(pictures, known_pictures(pretend.out))}
    assert wanted["brick.png"] == "brick"
    assert run_batch(items_in(pictures, known_pictures(pretend.out)), pretend, run_here).skipped == 2
    assert (pretend.out / f"{wanted['brick.jpg']}.glb").is_file()


def test_a_status_from_elsewhere_is_no_danger(tmp_path, pictures, pretend):
    items = items_in(pictures)
    folder = pretend.out / items[0].key
    folder.mkdir(parents=True)
    for content in ("", "[]", "{", '{"state": "done"}', "[" * 100000, json.dumps({"state": "x"})):
        (folder / "status.json").write_text(content)
        assert pretend.find(items[0]).state == "queued"
    pretend.find(items[0]).note("failed", error="<script>alert(1)</script>")
    write_pages(items, pretend)
    assert "<script" not in (pretend.out / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such picture or folder"),
        (["{pictures}", "seed"], "'seed' is not an override of the form key=value"),
        (["{pictures}", "sed=1"], "unknown key sed"),
        (["{pictures}", "--config", "mine.yaml"], "config 'mine.yaml' not found"),
        (["{pictures}", "--jobs", "0"], "--jobs is 0, must be a whole number of at least 1"),
        (["{pictures}", "--attempts", "0"], "--attempts is 0, must be a whole number of at least 1"),
        (["{pictures}", "--captions", "missing.csv"], "missing.csv: no such CSV file"),
    ],
)
def test_a_mistake_is_one_line_before_any_worker_starts(
    arguments, message, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(pictures=pictures) for argument in arguments]
    assert main(["batch", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "batch").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*treespec.*")
def test_a_process_keeps_its_model_and_the_next_result_is_the_same(tiny_model):
    from imagedream import memory_options as memory

    weights = str(tiny_model)

    def load():
        return memory.load_pipeline(weights, memory.MemoryOptions(), torch.float32, "cpu")

    def views(pipeline):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(3)
        return pipeline(prompt="a brick", num_inference_steps=2, generator=generator, output_type="pt").images

    assert load() is not load()
    fresh = views(load())
    memory.keep_models()
    kept = load()
    assert load() is kept
    assert torch.equal(views(kept), fresh)
    assert torch.equal(views(kept), fresh)
    other = memory.load_pipeline(weights, memory.MemoryOptions(vae_slicing=True), torch.float32, "cpu")
    assert other is not kept


def command_for(pictures, out, weights, *more):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "custom" / "threestudio-imagedream")
    command = [sys.executable, "-m", "imagedream", "batch", str(pictures), "--out", str(out), *more]
    return [*command, f"system.guidance.weights={weights}", *SMALL], environment


@contextmanager
def running(command, environment):
    """A process, once it works at the first picture, and its worker; nothing is left behind when the test fails."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            folder = Path(command[command.index("--out") + 1]) / "brick"
            wait_for(lambda: status_of(folder)["state"] == "running", process)
            yield process, status_of(folder)["process"][1]
        finally:
            process.kill()


def wait_for(condition, process, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def status_of(folder):
    try:
        return json.loads((folder / "status.json").read_text())
    except OSError:
        return {"state": None}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_way_with_a_killed_worker_and_an_interruption(pictures, tiny_model, tmp_path):
    out = tmp_path / "out"
    command, environment = command_for(pictures, out, tiny_model)

    # Ctrl-C while the first picture runs: it is put back, nothing of the batch goes on
    with running(command, environment) as (process, worker):
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
    assert "imagedream: interrupted" in said
    assert "Traceback" not in said
    assert status_of(out / "brick")["state"] == "queued"
    assert (out / "index.html").is_file()
    assert not Path(f"/proc/{worker}").exists()

    # the same command again; its worker is killed at the first picture, which is tried again
    with running(command, environment) as (process, worker):
        os.kill(worker, signal.SIGKILL)
        _, said = process.communicate(timeout=800)
    assert process.returncode == 1, said  # the text file
    assert "Traceback" not in said
    found = {key: status_of(out / key) for key in ("brick", "more_IMG_1", "text")}
    assert {key: status["state"] for key, status in found.items()} == {
        "brick": "done",
        "more_IMG_1": "done",
        "text": "failed",
    }
    assert "is not a picture of a known format" in found["text"]["error"]
    # one worker, one load of the model for the two pictures after the killed one's
    assert found["brick"]["process"] == found["more_IMG_1"]["process"]
    for key in ("brick", "more_IMG_1"):
        assert (out / f"{key}.glb").read_bytes()[:4] == b"glTF"
        assert (out / key / "run" / "report.html").is_file()
    record = json.loads((out / "brick" / "run" / "save" / "run.json").read_text())
    assert "load model" in record["seconds"]
    assert record["prompt"] == "a brick: it's ${oc.env:HOME} <red>"

    # nothing is done twice
    before = {key: (out / f"{key}.glb").stat().st_mtime_ns for key in ("brick", "more_IMG_1")}
    (pictures / "text.jpg").unlink()
    assert subprocess.run(command, env=environment, timeout=100).returncode == 0
    assert before == {key: (out / f"{key}.glb").stat().st_mtime_ns for key in before}
