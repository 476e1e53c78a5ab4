"""Bases and presets, with files made here; those that ship are in test_presets.py."""

import math
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from imagedream.runs import settings
from imagedream.runs.settings import (
    FreeMemory,
    Preset,
    apply_presets,
    as_typed,
    as_written,
    choose,
    cuda_memory,
    read_presets,
    read_with_bases,
    with_home,
)
from imagedream.workshop.training.train_config import TrainConfig

FILES = {
    "first": {"name": "first", "a": {"b": 1, "list": [1, 2]}, "open": "", "share": "${a.b}"},
    "second": {"base": "first.yaml", "a": {"list": [3]}, "open": "???"},
    "third": {"base": "second.yaml", "name": "third"},
    "both": {"base": ["second.yaml", "beside.yaml"], "a": {"e": 5}},
    "beside": {"base": "first.yaml", "a": {"b": 2}, "name": "beside"},
    "lost": {"base": "nowhere.yaml"},
    "one": {"base": "other.yaml"},
    "other": {"base": "one.yaml"},
    "list": ["name"],
    "presets/small": {
        "about": "less",
        "settings": {"first": {"a": {"b": 0}}},
        "threestudio": {"first": {"c": 7}},
    },
    "presets/tiny": {"base": "small.yaml", "settings": {"third": {"a": {"b": -1}}}},
    "presets/other": {"about": "for another", "settings": {"lost": {}}},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "presets").mkdir()
    for name, content in FILES.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


def applied(folder, config, *names, host="embedded"):
    files, presets = read_with_bases(folder / f"{config}.yaml"), read_presets(folder / "presets")
    return apply_presets(files, names, presets, host, "0")


def test_a_config_is_a_change_of_its_base(folder):
    found, chosen = applied(folder, "third")
    assert found == {"name": "third", "a": {"b": 1, "list": [3]}, "open": "???", "share": 1}
    assert chosen == []
    assert settings.read_settings(folder / "third.yaml") == found
    assert [path.stem for path in read_with_bases(folder / "third.yaml")] == ["first", "second", "third"]


def test_of_several_bases_a_later_one_changes_the_earlier(folder):
    files = read_with_bases(folder / "both.yaml")
    assert [path.stem for path in files] == ["first", "second", "beside", "both"]
    assert settings.read_settings(folder / "both.yaml") == {
        "name": "beside", "a": {"b": 2, "list": [3], "e": 5}, "open": "???", "share": "${a.b}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("lost", "base is nowhere.yaml, but there is no .*nowhere.yaml; in that folder: .*first.yaml, list"),
        ("one", "base is one.yaml, which is itself a change of other.yaml"),
        ("list", "must hold a mapping of keys to values"),
    ],
)
def test_bases_that_cannot_be(folder, name, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_with_bases(folder / f"{name}.yaml")


def test_a_base_in_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "presets"))
    (folder / "presets" / "mine.yaml").write_text("base: ~/../first.yaml")
    assert settings.read_settings(folder / "presets" / "mine.yaml").name == "first"


def test_presets_are_for_a_config_and_what_is_based_on_it(folder):
    found, [(about, changes)] = applied(folder, "second", "small")
    assert (found.a.b, found.share, about, changes) == (0, 0, "small (as asked): less", {"a.b": 0})
    assert applied(folder, "third", "tiny")[0].a.b == -1  # it says more of this one
    found, chosen = applied(folder, "third", "tiny", "small", host="threestudio")
    assert (found.a.b, found.c) == (0, 7)
    assert chosen[0][1] == {"a.b": -1, "c": 7}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("large", "--preset is large, must be auto or one of tiny, other, small"),
        ("other", "--preset other is for lost and configs with one as base, not third"),
        ("auto", "a card is free, and no preset of third is made for that"),
    ],
)
def test_presets_that_do_not_fit(folder, monkeypatch, name, complaint):
    monkeypatch.setattr(settings, "free_memory", lambda gpu: FreeMemory("cuda", 8.0, "a card is free"))
    with pytest.raises(ValueError, match=complaint):
        applied(folder, "third", name)


def test_a_preset_says_nothing_else(folder):
    (folder / "presets" / "wrong.yaml").write_text("about: x\nsetings: {}")
    with pytest.raises(
        ValueError, match=r"wrong\.yaml: unknown key setings; a preset has about, auto, settings"
    ):
        applied(folder, "first", "small")


def test_auto_takes_the_largest_that_fits():
    presets = {
        name: Preset("", {"first": {"cpu": gib, "cuda": 10 * gib}, "other": {"cpu": 0.1}})
        for name, gib in (("small", 1.0), ("large", 2.0))
    }
    presets["unknown"] = Preset("")
    for free_gib, name in ((1.0, "small"), (1.9, "small"), (99.0, "large")):
        assert choose(presets, ["first", "third"], FreeMemory("cpu", free_gib, "so much"))[0] == name
    name, reason = choose(presets, ["first"], cuda_memory("Some GPU", int(15.5 * 2**30), 16 * 2**30))
    assert (name, reason) == ("small", "15.5 of 16.0 GiB are free on Some GPU, it needs 10.0")
    with pytest.raises(ValueError, match=r"6.0 of 6.0 GiB .* the smallest preset, small, needs 10.0 GiB"):
        choose(presets, ["first"], cuda_memory("Some GPU", 6 * 2**30, 6 * 2**30))


def test_free_memory_of_this_machine():
    memory = settings.free_memory("0")
    assert memory.gib > 0
    assert "GiB" in memory.words


TEXTS = [
    *(
        "",
        "a robot # with orange arms",
        "C-3PO: a gold robot",
        "a: [b] {c}",
        "[b",
        "{b",
        'it\'s "x"',
        '"x"',
        "'x'",
    ),
    *("yes", "null", "~", "1984", "001", "1e5", "0,5", "a = b", "# no", "- no", "* no", "@no", "%no", "\\"),
    *("${oc.env:HOME}", "$${a} \\${b}", "${", "{$}"),
    *(" robot ", "機器人 🤖 روبوت", "a\nb\x00\x1b\u2028", "~/robot", "?", "!x", "|", ">", "`x`", "$x"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_caption_arrives_as_typed(text):
    found = OmegaConf.from_dotlist([as_typed(f"system.prompt_processor.prompt={text}")])
    for _ in range(3):  # the hosts read it over and over
        found = OmegaConf.create(OmegaConf.to_container(found, resolve=True))
    assert as_written(found.system.prompt_processor.prompt) == text


HOME = str(Path.home())
NAMES = {
    "image_path": [
        "robot #2.png",
        "C: 1.png",
        "1984",
        "it's.png",
        "[a].png",
        "{b}.png",
        "a = b, c.png",
        "001",
    ],
    "tag": ["001", "2024", "yes", "no", "1:30", "a # b", "@1"],
    "system.exporter.anything": ["a # b", "a: b", "x, y", "0,5", "100k", "1:30", "- b"],
}


@pytest.mark.parametrize(("key", "text"), [(key, text) for key, texts in NAMES.items() for text in texts])
def test_a_text_arrives_as_typed(key, text):
    assert settings.read_override(as_typed(f"{key}={text}")) == (key, text)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("steps=1e4", 10000),
        ("steps=2E3", 2000),
        ("steps=010", 10),
        ("steps=-0.5e1", -5.0),
        ("steps=1e400", math.inf),
        ("steps=1e30", 10**30),
        ("weight=[0, 1.0, 0.5, 100]", [0, 1.0, 0.5, 100]),
        ("flag=true", True),
        ("anything=null", None),
        ("anything=", None),
        ("anything={a: b}", {"a": "b"}),
        ("image_path=null", None),
        ("image_path=", None),
        ("timestamp='@1'", "@1"),
        ('name="a b"', "a b"),
        ("image_paths=[a #1.png, C: b.png,7]", ["a #1.png", "C: b.png", "7"]),
        ("image_paths=[~/a.png,'b, c.png']", [f"{HOME}/a.png", "b, c.png"]),
        ("image_paths[1]=a #1.png", "a #1.png"),
        ("exp_root_dir=~/out", f"{HOME}/out"),
        ("exp_root_dir=~", HOME),
        ("resume=~/a #1.ckpt", f"{HOME}/a #1.ckpt"),
        ("anything.else=~/x", f"{HOME}/x"),
    ],
)
def test_what_is_typed_otherwise(override, value):
    found = settings.read_override(as_typed(override))[1]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("out=~/runs #2", f"{HOME}/runs #2"),
        ("out=001", "001"),
        ("initial=", ""),
        ("data.rendered.caption_suffix=, 3d asset", ", 3d asset"),
        ("data.rendered.folders=[a #1,~/b]", ["a #1", f"{HOME}/b"]),
        ("learn=[conv_in,conv_out]", ["conv_in", "conv_out"]),
        ("model={a: 1}", {"a": 1}),
    ],
)
def test_declared_types_decide_what_is_text(override, value):
    assert settings.read_override(as_typed(override, TrainConfig))[1] == value


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("a", "'a' is not an override"),
        ("=1", "not an override"),
        ("a={", "cannot be read"),
        ("a=[1", "cannot be"),
    ],
)
def test_what_is_no_override(override, complaint):
    with pytest.raises(ValueError, match=complaint):
        as_typed(override)


def test_home_in_a_config_file():
    tree = {"exp_root_dir": "~/out", "a": {"paths": ["~/b", "c~/"], "prompt": "~/x", "n": 1}}
    found = {"exp_root_dir": f"{HOME}/out", "a": {"paths": [f"{HOME}/b", "c~/"], "prompt": "~/x", "n": 1}}
    assert with_home(tree) == found
