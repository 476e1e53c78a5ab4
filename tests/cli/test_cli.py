"""The command line: results, one-line errors, no half-written files, nothing heavy before it is needed."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch

from imagedream.cli import main
from imagedream.pictures import label_strip, to_pil
from imagedream.workshop.evaluation.held_out_objects import held_out_cases
from tests.tiny import brick


@pytest.fixture
def picture(tmp_path):
    return brick(tmp_path / "toy.png")


def test_prepare_writes_the_prompt_and_names_it(picture, tmp_path, capsys):
    out = tmp_path / "new" / "rgba.png"
    assert main(["prepare", str(picture), "--out", str(out), "--size", "64"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert "own transparency" in said.err
    prompt = PIL.Image.open(out)
    assert (prompt.mode, prompt.size) == ("RGBA", (64, 64))
    assert prompt.getbbox()[2] - prompt.getbbox()[0] == 58  # 0.9 * 64


def test_evaluate_views_prints_json_and_writes_the_table(tiny_model, tmp_path, capsys):
    arguments = ["--weights", str(tiny_model), "--n", "1", "--steps", "1", "--device", "cpu", "--json"]
    assert main(["evaluate", "views", *arguments, "--out", str(tmp_path / "scores")]) == 0
    assert "psnr_db" in json.loads(capsys.readouterr().out)["mean"]["model"]
    assert "silhouette IoU" in (tmp_path / "scores" / "views.md").read_text()


def test_evaluate_pictures_prints_the_papers_row(tiny_model, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    toy = held_out_cases(1, kinds=["mug"])[0]
    to_pil(toy.prompt).save(tmp_path / "pictures" / "mug.png")
    arguments = ["--weights", str(tiny_model), "--steps", "1", "--device", "cpu"]
    assert main(["evaluate", "pictures", str(tmp_path / "pictures"), *arguments]) == 0
    assert "| CLIP(TX) " in capsys.readouterr().out
    assert main(["evaluate", "pictures", str(tmp_path / "nothing"), *arguments]) == 2
    assert "is no folder of pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "missing.png"], "missing.png: no such file"),
        (["prepare", "{picture}", "--out", "a.txt"], "must end in .png"),
        (
            ["prepare", "{picture}", "--size", "2"],
            "size is 2, must be a whole number of at least 8, up to 4,096",
        ),
        (["prepare", "{picture}", "--out", "{picture}/a.png"], "toy.png is a file, not a folder"),
        (["views", "{picture}", "--weights", "nowhere"], "no weights at nowhere"),
        (["train", "--config", "missing.yaml"], "--config is missing.yaml, there is no such file"),
        (["train", "--config", "missing.yaml", "steps"], "'steps' is not of the form key=value"),
        (["evaluate", "views", "--weights", "nowhere"], "no weights at nowhere"),
        (["evaluate", "views", "--n", "0"], "--n is 0"),
        (
            ["evaluate", "views", "--guidance-scale", "-1"],
            "--guidance-scale is -1.0, must be a number of at least 0",
        ),
        (["evaluate", "views", "--kinds", "griffin"], "unknown kinds griffin; the toybox knows robot"),
        (["evaluate", "views", "--clip", "ViT"], "no weights at ViT"),
        (
            ["evaluate", "views", "--split", "train", "--seed", "12280"],
            "seeds 12280 to 12295 of the train split are asked for, but these weights were trained on 0 to 12287; choose "
            "--seed 24576 or above",
        ),
        (
            ["evaluate", "views", "--split", "unseen-kinds", "--kinds", "mug", "plane"],
            "mug was trained on; new to these weights: ",
        ),
        (["views", "{picture}", "--weights", "{picture}"], "toy.png is no weights file"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([argument.format(picture=picture) for argument in arguments]) == 2
    said = capsys.readouterr()
    errors = [line for line in said.err.splitlines() if line.startswith("imagedream: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == [picture]


def test_verbose_adds_the_traceback(capsys):
    assert main(["prepare", "missing.png", "--verbose"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_help_needs_nothing_heavy():
    code = (
        "import sys\nfrom imagedream.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'cv2', 'trimesh'} & set(sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert "prepare" in run.stdout


def test_label_strip_shows_every_view_under_its_name():
    images = torch.zeros(4, 3, 8, 8)
    images[2, 0] = 1  # the back is red
    strip = label_strip(images, [0.0, 90.0, 180.0, 270.0], min_side=40)
    assert strip.width == 4 * 40 + 3 * 4
    label = strip.height - 40
    assert strip.getpixel((2 * 44 + 20, label + 20)) == (255, 0, 0)
    assert strip.getpixel((20, label + 20)) == (0, 0, 0)
    top = np.asarray(strip)[:label]
    assert all((top[:, x : x + 40] < 128).any() for x in (0, 44, 88, 132))  # something is written over each
    with pytest.raises(ValueError, match="4 images and 3 azimuths"):
        label_strip(images, [0.0, 90.0, 180.0])
