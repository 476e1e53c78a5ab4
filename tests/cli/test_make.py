"""`make`, and what all verbs share: the version, short options, silence."""

import logging
from pathlib import Path

import pytest

import imagedream
from imagedream.cli import main

ROOT = Path(__file__).parents[2]
ROBOT = str(ROOT / "launch_examples" / "robot.png")


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"imagedream {imagedream.__version__}\n"


def test_the_home_folder_after_an_equals_sign(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["prepare", ROBOT, "--out=~/rgba.png", "--size", "64", "-q"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'rgba.png'}\n"


def test_quiet_says_the_result_alone(tmp_path, capsys):
    assert main(["prepare", ROBOT, "-q", "-o", str(tmp_path / "rgba.png"), "--size", "64"]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'rgba.png'}\n", "")
    assert logging.getLogger().manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png"], "no.png: no such picture"),
        ([ROBOT, "-o", "a.obj"], "--out is a.obj, its name must end in .glb or .ply or .stl or .usdz"),
        ([ROBOT, "-o", "folder.glb"], "--out is folder.glb, must name a file in a folder"),
        ([ROBOT, "name=a"], "name is set by make"),
        ([ROBOT, "system.exporter.fmt=obj+ply"], "system.exporter.fmt is obj+ply, but --out is model.glb"),
        ([ROBOT, "sed=1"], "unknown key sed (did you mean seed?)"),
        ([ROBOT, "--config", "none"], "config 'none' not found; configs in "),
        ([ROBOT, "--preset", "none"], "none"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.glb").mkdir()
    assert main(["make", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["folder.glb"]
