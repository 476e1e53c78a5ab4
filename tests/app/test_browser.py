"""The page as a person uses it, in Chromium: from a picture to a model, stopped, reloaded, on a narrow screen, by keyboard.

Screenshots go to $IMAGEDREAM_SCREENSHOTS if that is set (docs/pictures/app.png is the upper part of `views`).
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import trimesh

from app.jobs import Runs
from app.preview import Preview, find_recipes
from tests.app.test_page import ROBOT, ROOT, free_port
from tests.workshop.test_batch import DATA, EXPORT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not find_spec("gradio"), reason="the page needs gradio: pip install 'imagedream[app]'"
    ),
    pytest.mark.skipif(not find_spec("playwright"), reason="needs playwright: pip install playwright"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
SHORT = (  # a run of seconds
    *(
        "trainer.val_check_interval=2",
        "system.renderer.num_samples_per_ray=24",
        "system.prompt_camera.enabled=false",
    ),
    *(f"data.{name}={value}" for name, value in DATA.items()),
    *(f"system.exporter.{name}={value}" for name, value in EXPORT.items()),
)
PATIENCE_MS = 600_000


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


class Site:
    """The page of a folder of runs, served as `imagedream app` does."""

    def __init__(self, folder: Path, preview: Preview, steps: int) -> None:
        from app.actions import Actions

        self.runs = Runs(folder, ROOT / "launch.py", (*SHORT, f"trainer.max_steps={steps}"))
        self.actions = Actions(self.runs, preview, find_recipes("toybox"))
        self.port = free_port()

    def __enter__(self) -> "Site":
        from app.page import launch

        self.closed = threading.Event()
        self.worker = threading.Thread(target=self.runs.serve, args=(self.closed,))
        self.blocks, self.url = launch(self.actions, "127.0.0.1", self.port, share=False, password=None)
        self.worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.worker.join()
        self.blocks.close(verbose=False)


@pytest.fixture(scope="module")
def preview():
    return Preview("toybox", torch.device("cpu"))


@pytest.fixture
def tab(browser):
    """Opens a page; at its end nothing may have been asked of any other machine, and no script have failed."""
    opened = []

    def open_page(url, width=1360, height=900):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE_MS)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on(
            "request", lambda request: page.problems.append(request.url) if _is_foreign(request.url) else None
        )
        page.goto(url)
        page.get_by_role("heading", name="1. Picture").wait_for()
        opened.append(page)
        return page

    yield open_page
    problems = [problem for page in opened for problem in page.problems]
    for page in opened:
        page.close()
    assert not problems


def _is_foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:"))


def keep(page, name):
    """A screenshot to be looked at."""
    folder = os.environ.get("IMAGEDREAM_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def drop(page, path):
    page.locator("#picture input[type=file]").set_input_files(path)


def expect(locator):
    from playwright import sync_api

    return sync_api.expect(locator)


def status(page, text):
    page.locator("#status").get_by_text(text).wait_for()


def test_from_a_picture_to_a_model_and_home(tab, preview, tmp_path):
    with Site(tmp_path / "runs", preview, steps=4) as site:
        page = tab(site.url)
        drop(page, ROBOT)
        page.get_by_text("Cut out: the picture's own transparency").wait_for()
        page.get_by_label("Prompt: what it is").fill("a gray robot")
        page.get_by_role("button", name="Show the views").click()
        page.locator("#strips img").nth(2).wait_for()
        keep(page, "views")
        page.locator("#strips button").nth(1).click()  # the second best
        picked = page.locator("#strips").get_by_text("score").nth(1).inner_text()
        seed = int(picked.split(",")[0].removeprefix("seed "))
        expect(page.locator("#seed input")).to_have_value(str(seed))
        page.get_by_role("button", name="Make the model").click()
        page.wait_for_url("**run=*")

        other = tab(site.url)  # a second tab, and the same one reloaded, find the run
        page.reload()
        for each in (other, page):
            status(each, "Done.")
        run = site.runs.all()[0]
        assert (run.seed, run.prompt) == (seed, "a gray robot")
        assert page.url.endswith(run.key)

        with page.expect_download() as download:
            page.locator("#files a[download]").first.click()
        download.value.save_as(tmp_path / "taken.glb")
        taken = trimesh.load(tmp_path / "taken.glb")
        assert sum(len(mesh.faces) for mesh in taken.geometry.values()) > 4
        assert (tmp_path / "taken.glb").read_bytes() == site.runs.model(run).read_bytes()
        names = page.locator("#files").inner_text()
        for name in ("model.glb", "model-obj.zip", "report.html", ".mp4"):
            assert name.rsplit(".", 1)[1] in names, (name, names)
        page.locator("#model canvas").wait_for()
        page.wait_for_timeout(3000)
        keep(page, "model")


def test_a_run_is_that_of_the_command_with_the_views_that_were_picked(preview, tmp_path):
    with Site(tmp_path / "runs", preview, steps=4) as site:
        strips, _ = site.actions.views(ROBOT, None, "a robot", "imagedream-toybox", 5, 1)
        key = site.actions.make(ROBOT, None, "a robot", "imagedream-toybox", 5)
        while (run := site.runs.get(key)).state in ("queued", "running"):
            time.sleep(0.5)
        with PIL.Image.open(site.runs.folder / key / "run" / "views.png") as made:
            assert np.abs(np.asarray(made, float) - np.asarray(strips[0][0], float)).max() <= 2
    out = tmp_path / "model.glb"
    command = [sys.executable, "-m", "imagedream", "make", ROBOT, "-o", str(out), "--prompt", "a robot"]
    command += [*SHORT, "trainer.max_steps=4", "seed=5", "system.views.seed=5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "custom" / "threestudio-imagedream")}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert out.read_bytes() == site.runs.model(run).read_bytes()


def test_a_run_is_stopped_and_keeps_what_is_there(tab, preview, tmp_path):
    with Site(tmp_path / "runs", preview, steps=100_000) as site:
        page = tab(site.url)
        page.get_by_role("button", name="mug").click()  # an example
        page.get_by_text("Cut out:").wait_for()
        page.get_by_role("button", name="Make the model").click()
        page.locator("#status progress").wait_for()
        status(page, "Training:")
        keep(page, "running")
        page.get_by_role("button", name="Make the model").click()  # another, which has to wait
        status(page, "Waiting: 1 run comes first.")
        page.get_by_role("button", name="Take it out of the queue").click()
        status(page, "Cancelled before it began.")
        page.goto(f"{site.url}?run={site.runs.all()[0].key}")
        page.get_by_role("button", name="Stop and keep what is there").click()
        status(page, "Stopped: what was there was exported.")
        page.locator("#files a[download]").first.wait_for()
        page.get_by_role("button", name="Use its picture and settings again").click()
        expect(page.get_by_label("Prompt: what it is")).to_have_value(
            "a gray mug with a teal handle, a white label and a pink stripe"
        )
        keep(page, "stopped")


def test_a_wrong_file_a_narrow_screen_and_the_keyboard_alone(tab, preview, tmp_path):
    wrong = tmp_path / "notes.png"
    wrong.write_text("no picture")
    with Site(tmp_path / "runs", preview, steps=4) as site:
        page = tab(site.url, width=390, height=844)
        drop(page, wrong)
        page.get_by_text("is not a picture of a known format").wait_for()
        keep(page, "wrong")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        keep(page, "narrow")
        drop(page, ROBOT)
        page.get_by_text("Cut out:").wait_for()
        for name in ("Show the views", "Make the model"):
            tab_to(page, name)
            page.keyboard.press("Enter")
            if name == "Show the views":
                page.locator("#strips img").nth(2).wait_for()
        page.wait_for_url("**run=*")
        unlabelled = page.evaluate(
            "[...document.querySelectorAll('input:not([type=file]), textarea, select')].filter(e => e.offsetParent && !e.labels?.length"
            " && !e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML)"
        )
        assert not unlabelled
        for run in site.runs.all():
            site.runs.stop(run.key)
            site.runs.stop(run.key)


def tab_to(page, name):
    """Press Tab until the button of that name has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == name:
            return
    raise AssertionError(f"no way to {name!r} by the keyboard")
