"""Folders of results become a page that gives no method away, and people's votes on it come back as what they prefer."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import PIL.Image
import pytest
import trimesh

from imagedream.cli import main
from imagedream.workshop.evaluation import user_study
from imagedream.workshop.evaluation.user_study import FRAMES, arrange, find_results
from tests.tiny import brick

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STRENGTHS = {"ours": 6.0, "theirs": 3.0, "a <b>line": 1.0}


def picture(path, colour=(200, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (24, 16), colour).save(path)
    return path


def film(path):
    """Colours beside something else, as runs leave it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = np.zeros((16, 32, 3), np.uint8)
    frame[:, :16, 0] = 250
    if path.suffix == ".gif":
        PIL.Image.fromarray(frame).save(path)
    else:
        imageio.mimwrite(path, [frame] * 8)


@pytest.fixture
def folders(tmp_path, small):
    """Three methods, eight prompts each."""
    for index, method in enumerate(STRENGTHS):
        for prompt in range(8):
            picture(tmp_path / method / f"toy-{prompt}.png", (80 * index, 20 * prompt, 99))
    return [tmp_path / method for method in STRENGTHS]


@pytest.fixture
def small(monkeypatch):
    """What voters see is small, hence fast."""
    monkeypatch.setattr(user_study, "SIDE_PX", 24)


def compare(*arguments):
    return main(["compare", *map(str, arguments)])


def test_results_are_found_where_runs_leave_them(tmp_path):
    picture(tmp_path / "contact_sheet.png")
    picture(tmp_path / ".uploads" / "views.png")
    picture(tmp_path / "hat" / "run" / "views.png")
    picture(tmp_path / "hat" / "run" / "save" / "prompt.png")
    picture(tmp_path / "hat" / "run" / "save" / "it4-0.png")
    (tmp_path / "cap.glb").write_bytes(b"glTF")
    (tmp_path / "hat" / "log.txt").write_text("")
    film(tmp_path / "mug@20260101-120000" / "save" / "it4-test.gif")
    inside = tmp_path / "hat" / "run"
    assert find_results(tmp_path) == {
        "cap": {"glb": tmp_path / "cap.glb"},
        "hat": {"views": inside / "views.png", "picture": inside / "save" / "prompt.png"},
        "mug": {"film": tmp_path / "mug@20260101-120000" / "save" / "it4-test.gif"},
    }


def test_questions_are_balanced():
    questions = arrange([f"p{index}" for index in range(8)], "abc", seed=0)
    assert len(set(questions)) == 24
    assert {frozenset(one) for one in questions} == {
        frozenset((f"p{index}", *pair)) for index in range(8) for pair in ("ab", "ac", "bc")
    }
    assert set(Counter((left, right) for _, left, right in questions).values()) == {4}
    turns = [questions[start : start + 3] for start in range(0, 24, 3)]
    assert all(len({frozenset(one[1:]) for one in turn}) == 3 for turn in turns)
    assert arrange(["p", "q"], "ab", 1) == arrange(["p", "q"], "ab", 1)
    assert any(one != other for one, other in pairwise(arrange(["p", "q"], "ab", seed) for seed in range(9)))


def test_a_page_that_tells_no_method(folders, tmp_path, caplog):
    for folder in folders[:2]:
        picture(folder / "extra.png")
    brick(tmp_path / "pictures" / "toy-0.png")
    out = tmp_path / "study"
    assert compare(*folders, "--out", out, "--pictures", tmp_path / "pictures", "--seed", 3, "-q") == 0
    assert "left out: extra (not in a <b>line)" in caplog.text
    assert "voters will not see the picture of toy-1, toy-2" in caplog.text
    page = (out / "page" / "index.html").read_text()
    assert not any(word in page for word in (*STRENGTHS, "toy-", "extra", str(tmp_path), "http:", "https:"))
    key = json.loads((out / "key.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == ["key.json", "page"]
    assert key["study"] in page
    media = {path.stem for path in (out / "page" / "media").iterdir()}
    assert len(media) == 8 * 3 + 1 + 1  # results, a picture, the ruined one
    assert media > key["results"].keys()
    assert all(name in page for name in media)
    assert compare(*folders, "--out", out) == 2  # nothing is written over


def test_films_and_meshes_are_shown_as_turns(tmp_path, small):
    box = trimesh.creation.box((1, 2, 0.2))
    box.visual.face_colors = (0, 0, 200)
    for method in ("a", "b"):
        film(tmp_path / method / "hat.gif")
        box.export(tmp_path / method / "box.glb")
        film(tmp_path / method / "box.gif")  # a mesh comes first
    film(tmp_path / "a" / "hat.mp4")  # the newest counts
    assert compare(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "study", "-q") == 0
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    for name, result in key["results"].items():
        with PIL.Image.open(tmp_path / "study" / "page" / "media" / f"{name}.webp") as turn:
            shown = np.asarray(turn.convert("RGB"), int)
            assert turn.size == (24, 24)
            if result["prompt"] == "box":
                assert turn.n_frames == FRAMES  # those of the films are all alike
                assert abs(shown[12, 12] - shown[0, 0]).max() > 20  # something before a white ground
                assert shown[0, 0].min() > 250
            else:
                assert abs(shown - [250, 0, 0]).max() < 12  # without what was beside it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "a comparison needs at least 2 folders of results, 1 given"),
        (["one", "one"], "a folder is given twice: one, one"),
        (["one", "nowhere"], "nowhere: no such folder"),
        (["one", "empty"], "empty holds no results: neither runs nor PROMPT.glb, PROMPT.mp4 or PROMPT.png"),
        (["one", "other"], "one, other have results of no prompt in common"),
        (["one", "broken"], "hat.png cannot be shown: cannot identify image file"),
        (["film", "film2"], "hat.mp4 cannot be shown"),
        (["one", "two", "--questions", "0"], "--questions is 0, must be a whole number of at least 1"),
        (["one", "two", "--pictures", "nowhere"], "nowhere: No such file or directory"),
        (["results", "--out", "nowhere"], "nowhere/key.json: No such file or directory"),
        (["results", "one"], "results: no such folder"),  # of a method, since the other is one
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("one/hat", "two/hat", "other/cap"):
        picture(tmp_path / f"{name}.png")
    for name in ("empty/notes.txt", "broken/hat.png", "film/hat.mp4", "film2/hat.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    assert compare(*arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_what_voters_prefer_is_found_again(folders, tmp_path, capsys):
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    out, generator = tmp_path / "study", np.random.default_rng(0)
    assert compare(*folders, "--out", out, "--questions", 18, "--pictures", folders[0], "-q") == 0
    key, files = json.loads((out / "key.json").read_text()), []
    strengths = {name: STRENGTHS[result["method"]] for name, result in key["results"].items()}
    strengths[key["ruined"]["name"]] = 0.0
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for voter in range(9):
            page, problems = browser.new_page(viewport={"width": 900, "height": 800}), []
            page.on("pageerror", lambda error, problems=problems: problems.append(str(error)))
            page.goto((out / "page" / "index.html").as_uri())
            page.get_by_role("button", name="Begin").click()
            for number in range(20):
                sync.expect(page.locator("#count")).to_have_text(f"Question {number + 1} of 20")
                sync.expect(page.locator("#choose-left")).to_be_enabled()
                left, right = (
                    Path(page.locator(f"#{side}").get_attribute("src")).stem for side in ("left", "right")
                )
                is_left = generator.random() < strengths[left] / (strengths[left] + strengths[right])
                if voter == 8:  # does not look
                    is_left = strengths[left] < strengths[right]
                if voter == 0 and number == 3:
                    page.reload()  # goes on where it was
                    sync.expect(page.locator("#choose-left")).to_be_enabled()
                if number % 2:
                    page.keyboard.press("ArrowLeft" if is_left else "ArrowRight")
                else:
                    page.get_by_role("button", name="The left one" if is_left else "The right one").click()
            with page.expect_download() as download:
                page.get_by_role("button", name="Save my votes").click()
            files.append(tmp_path / download.value.suggested_filename)
            download.value.save_as(files[-1])
            page.close()
            assert not problems
        browser.close()
    assert compare("results", *files, "--out", out) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    assert found["methods"] == list(STRENGTHS)
    for share, (low, high), strength in zip(
        found["shares"], found["intervals"], STRENGTHS.values(), strict=True
    ):
        assert low < strength / 10 < high
        assert low < share < high < low + 0.5
    assert "8 voters, 144 votes, 8 prompts." in said
    assert f"Left out, since they preferred a ruined result: {files[8].stem.removeprefix('votes-')}." in said
