"""Names of trials that a folder can have, and configs of trials that were moved."""

from pathlib import Path

import pytest
import yaml

from imagedream.runs.settings import read_override
from imagedream.runs.trial_names import own_overrides, short_tag


@pytest.mark.parametrize("text", ["a" * 250, "机器人" * 40, "روبوت" * 50, "🤖" * 60, "é" * 130])
def test_a_tag_fits_into_a_folder_s_name_and_stays_another(text):
    tags = [read_override(short_tag({"tag": f"{text}{end}.png"})[0])[1] for end in "xy"]
    assert tags[0] != tags[1]
    assert all(len(tag.encode()) <= 200 and tag[:10] == text[:10] for tag in tags)


def test_a_tag_that_fits_stays():
    assert short_tag({"tag": "机器人 #1.png/a"}) == short_tag({}) == []
    assert read_override(short_tag({"tag": f"a/{'b' * 201}"})[0])[1].startswith("a/bbb")


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A trial that was moved, of three pictures of which one is still there."""
    monkeypatch.chdir(tmp_path)
    trial = tmp_path / "moved" / "the trial"
    for folder in ("configs", "ckpts", "save"):
        (trial / folder).mkdir(parents=True)
    (trial / "ckpts" / "last.ckpt").touch()
    Path("here.png").touch()
    processor = {
        "image_path": "gone #1.png",
        "image_paths": ["here.png"],
        "back_path": "gone.png",
        "mask_path": "m",
    }
    system = {"prompt_processor": processor, "guidance": {"cond_image_path": "gone #1.png"}}
    content = {"exp_root_dir": "outputs", "name": "a/b", "tag": "c", "timestamp": "@1", "system": system}
    content["resume"] = "outputs/a/b/c@1/ckpts/last.ckpt"
    (trial / "configs" / "parsed.yaml").write_text(yaml.safe_dump(content))
    return trial


def test_the_config_of_a_moved_trial_is_about_its_own_folder(trial, tmp_path, caplog):
    def found(*given):
        return dict(map(read_override, own_overrides(Path("moved/the trial/configs/parsed.yaml"), given)))

    pictures = {
        "system.prompt_processor.image_path": f"{trial}/save/prompt.png",
        "system.prompt_processor.back_path": f"{trial}/save/prompt-3.png",
        "system.prompt_processor.mask_path": None,
        "system.guidance.cond_image_path": f"{trial}/save/prompt.png",
    }
    resume = {"resume": f"{trial}/ckpts/last.ckpt"}
    place = {"exp_root_dir": str(tmp_path), "name": "moved", "tag": "the trial", "timestamp": ""}
    assert found() == {**place, **pictures, **resume}
    assert f"gone #1.png is not there any more; taking {trial}/save/prompt.png" in caplog.text
    assert found("tag", "resume") == pictures
    assert own_overrides(trial / "configs" / "raw.yaml", []) == []
    assert own_overrides(Path("parsed.yaml"), []) == []
