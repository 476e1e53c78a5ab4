"""The page without a browser: what its parts answer, and the endpoints that programs use."""

import socket
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from app.jobs import Runs
from app.preview import KEEP, REMOVE, Preview, cut_out, find_recipes, mended_mask, system_settings
from imagedream.workshop.commands.app import App, check_port
from tests.tiny import brick, tiny_pipeline

# gradio takes seconds to import: only where a test of the page runs
pytestmark = pytest.mark.skipif(
    not find_spec("gradio"), reason="the page needs gradio: pip install 'imagedream[app]'"
)
ROOT = Path(__file__).parents[2]
ROBOT = str(ROOT / "launch_examples" / "robot.png")


@pytest.fixture(scope="module")
def preview():
    preview = Preview("toybox", "cpu")
    preview.__dict__["pipeline"] = tiny_pipeline()
    preview.pipeline.register_to_config(num_inference_steps=2)
    return preview


@pytest.fixture
def told():
    """The error that the page shows."""
    from gradio import Error

    return Error


@pytest.fixture(scope="module")
def recipes():
    return find_recipes("toybox")


@pytest.fixture
def actions(tmp_path, preview, recipes):
    from app.actions import Actions

    return Actions(Runs(tmp_path / "runs", ROOT / "launch.py"), preview, recipes)


def test_recipes_are_configs_with_their_presets(recipes):
    assert recipes["imagedream-toybox"] == ("imagedream-toybox.yaml", None, "the config as it is")
    assert recipes["imagedream-toybox preview"][:2] == ("imagedream-toybox.yaml", "preview")
    assert not any(name.startswith("imagedream ") for name in recipes)
    assert "imagedream 24g" in find_recipes("some-folder")
    assert system_settings("imagedream-toybox.yaml", "preview").views.elevation_deg == 10.0


def test_the_cut_out_is_shown_and_its_doubts_are_told(actions, tmp_path):
    seen, notes, editor = actions.prepare(ROBOT, None)
    assert seen.size == (256, 256)
    assert notes.startswith("Cut out: the picture's own transparency.")
    assert editor["background"].size == (512, 512)
    small = brick(tmp_path / "brick.png")
    assert "- the object is only 30 pixels long" in actions.prepare(str(small), None)[1]
    assert actions.prepare(None, None) == (None, "", None)


def test_brush_strokes_mend_the_mask(tmp_path):
    """A disc in a wide picture: a green bar adds what it covers, a red one takes it away, the rest stays."""
    rgba = np.zeros((100, 200, 4), np.uint8)
    y, x = np.mgrid[:100, :200]
    disc = (x - 100) ** 2 + (y - 50) ** 2 < 40**2
    rgba[disc] = (200, 40, 40, 255)
    rgba[..., 1] += (x % 7).astype(np.uint8)  # no plain colour
    picture = tmp_path / "disc.png"
    PIL.Image.fromarray(rgba).save(picture)
    layer = np.zeros((100, 200, 4), np.uint8)
    layer[:, :20] = (*KEEP, 255)
    layer[:, 180:] = (*KEEP, 0)
    layer[:, 95:105] = (*REMOVE, 255)
    mask = np.asarray(mended_mask(picture, None, [PIL.Image.fromarray(layer)]))
    expected = disc | (x < 20)
    expected[:, 95:105] = False
    assert mask.shape == (100, 200)
    assert ((mask > 127) != expected).mean() < 0.005
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    prompt, dimmed = cut_out(picture, tmp_path / "mask.png")
    assert prompt.background_removal == "mask"
    assert dimmed.getpixel((190, 50)) == (254, 254, 254)  # 191 + 255 / 4: white page, cut away


def test_views_are_those_of_their_seed(actions):
    strips, best = actions.views(ROBOT, None, "a robot", "imagedream-toybox", 3, 2)
    seeds = [int(caption.split(",")[0].removeprefix("seed ")) for _, caption in strips]
    assert (sorted(seeds), best) == ([3, 4], seeds[0])
    alone, _ = actions.views(ROBOT, None, "a robot", "imagedream-toybox", seeds[1], 1)
    np.testing.assert_array_equal(np.asarray(alone[0][0]), np.asarray(strips[1][0]))


def test_further_pictures_change_the_views(actions):
    one = actions.views(ROBOT, None, "", "imagedream-toybox", 0, 1)[0][0][0]
    back = actions.views(
        ROBOT, None, "", "imagedream-toybox", 0, 1, None, None, str(ROOT / "launch_examples/car.png")
    )
    assert np.abs(np.asarray(one, float) - np.asarray(back[0][0][0], float)).max() > 0


def test_making_asks_for_a_run_that_can_be_asked_for_again(actions):
    key = actions.make(ROBOT, None, "a robot", "imagedream-toybox preview", 5)
    assert actions.status(key)["words"] == "Waiting: it is next."
    assert (
        actions.status(actions.make(ROBOT, None, "", "imagedream-toybox", 0))["words"]
        == "Waiting: 1 run comes first."
    )
    picture, mask, prompt, recipe, seed, *sides = actions.again(key)
    assert (mask, prompt, recipe, seed, sides) == (
        None,
        "a robot",
        "imagedream-toybox preview",
        5,
        [None] * 4,
    )
    assert Path(picture).read_bytes() == Path(ROBOT).read_bytes()
    pictures, names = actions.earlier()
    assert names[-1] == key
    assert "a robot (queued)" in pictures[-1][1]
    assert actions.stop(key) == "Cancelled before it began."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"picture": None}, "There is no picture yet"),
        ({"recipe": "../secret.yaml"}, "must be one of imagedream-toybox"),
        ({"seed": -1}, "The seed is -1, must be a whole number from 0"),
        ({"seed": 0.5}, "The seed is 0.5"),
        ({"prompt": "x" * 501}, "501 characters"),
    ],
)
def test_mistakes_are_one_sentence(actions, told, change, said):
    given = {"picture": ROBOT, "mask": None, "prompt": "", "recipe": "imagedream-toybox", "seed": 0} | change
    with pytest.raises(told) as error:
        actions.make(**given)
    assert said in error.value.message
    assert "\n" not in error.value.message
    assert actions.runs.all() == []


def test_a_picture_that_is_none_is_told_without_the_place_where_it_lies(actions, told):
    upload = actions.runs.folder / ".uploads" / "0123" / "notes.png"
    upload.parent.mkdir(parents=True)
    upload.write_text("no picture")
    with pytest.raises(told) as error:
        actions.prepare(str(upload), None)
    assert error.value.message.startswith("Notes.png is not a picture of a known format")


def test_memory_that_runs_out_is_told_and_the_next_is_served(actions, told, monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as short:
        short.setattr(Preview, "views", full)
        with pytest.raises(told) as error:
            actions.views(ROBOT, None, "", "imagedream-toybox", 0, 1)
    assert error.value.message == "Out of memory: tried to allocate 20.00 gib"
    assert actions.views(ROBOT, None, "", "imagedream-toybox", 0, 1)[0]


def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"--port {port}: .*in use; name another"):
            check_port("127.0.0.1", port)
        with pytest.raises(ValueError, match=f"--port {port}"):
            App(port=port).run()


def test_programs_use_the_endpoints(actions, tmp_path):
    """The example of the documentation, with a run that waits."""
    import httpx
    from gradio_client import Client, handle_file

    from app.page import launch

    blocks, url = launch(actions, "127.0.0.1", free_port(), share=False, password="secret")
    try:
        client = Client(url, auth=("imagedream", "secret"), verbose=False, analytics_enabled=False)
        _, notes, _ = client.predict(handle_file(ROBOT), api_name="/prepare")
        assert "transparency" in notes
        run = client.predict(handle_file(ROBOT), "a robot", "imagedream-toybox preview", 2, api_name="/make")
        assert client.predict(run, api_name="/status")["state"] == "queued"
        assert client.predict(run, api_name="/stop").startswith("Cancelled")
        with pytest.raises(Exception, match="There is no run"):
            client.predict("../x", api_name="/status")
        # nothing but what belongs to runs is given away
        secret = tmp_path / "secret.txt"
        secret.write_text("secret")
        for path in (secret, ROOT / "pyproject.toml"):
            answer = httpx.get(f"{url}gradio_api/file={path}", cookies=client.cookies)
            assert answer.status_code in (403, 404)
    finally:
        blocks.close(verbose=False)


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]
