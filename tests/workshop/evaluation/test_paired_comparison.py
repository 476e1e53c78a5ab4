import json

import pytest

from imagedream.cli import main
from imagedream.workshop.evaluation.paired_comparison import compare


def write(path, scores, caption="a mug", key="toys", name="toy", **more):
    """A measurement as `evaluate views` writes it: one score of the model, one that no network changes."""
    entries = []
    for i, value in enumerate(scores):
        both = {"model": {"psnr_db": value}, "blank": {"psnr_db": 13.0}}
        entries.append({name: f"mug-{i}", "caption": caption, "scores": both, **more})
    path.write_text(json.dumps({"settings": {}, key: entries}))
    return path


def test_each_object_is_compared_with_itself(tmp_path):
    before = write(tmp_path / "before.json", [10.0, 20.0, 30.0])
    after = write(tmp_path / "after.json", [11.0, 19.0, 33.0, 99.0])  # the fourth is in one of them
    (row,) = compare(before, after).rows()
    assert row == {
        "score": "scores model psnr_db",
        "before": 20.0,
        "after": 21.0,
        "difference (95 %)": "1",
        "rose": 2,
        "objects": 3,
    }


def test_objects_that_differ_much_leave_a_narrow_interval_of_a_steady_difference(tmp_path):
    scores = [float(i) for i in range(16)]
    before = write(tmp_path / "before.json", scores)
    after = write(tmp_path / "after.json", [score + 0.5 for score in scores])
    comparison = compare(before, after)
    assert comparison.rows()[0]["difference (95 %)"] == "0.50 (0.50 to 0.50)"
    numbers = {"before": 7.5, "after": 8.0, "difference": 0.5, "interval": (0.5, 0.5), "rose": 16}
    expected = {"objects": 16, "settings": {}, "scores": {"scores model psnr_db": numbers}}
    assert comparison.to_json() == expected
    assert str(compare(before, before)) == "all scores are equal"


def test_a_failed_object_is_left_out_and_so_is_a_score_that_not_all_have(tmp_path):
    before = write(tmp_path / "before.json", [10.0, 20.0], seconds=1.0)
    after = write(tmp_path / "after.json", [12.0, 21.0])
    content = json.loads(after.read_text())
    content["toys"][1] = {"toy": "mug-1", "error": "exit code 1"}
    after.write_text(json.dumps(content))
    (row,) = compare(before, after).rows()
    assert (row["score"], row["objects"]) == ("scores model psnr_db", 1)


def test_settings_that_differ_are_named(tmp_path):
    paths = [write(tmp_path / f"{name}.json", [score]) for name, score in (("before", 10.0), ("after", 12.0))]
    for path, settings in zip(paths, ({"seed": 0, "steps": 25}, {"seed": 0, "captions": "no"}), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
    comparison = compare(*paths)
    assert comparison.settings == {"steps": (25, None), "captions": (None, "no")}
    first = "Settings differ. steps: 25 before, None after; captions: None before, no after"
    assert str(comparison).splitlines()[0] == first


def test_folders_of_pictures_and_the_command(tmp_path, capsys):
    for name, score in (("one", 60.0), ("other", 62.5)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "pictures.json", [score], key="pictures", name="picture")
    folders = [str(tmp_path / name) for name in ("one", "other")]
    assert main(["evaluate", "compare", *folders]) == 0
    row = "| scores model psnr_db | 60     | 62.5  | 2.5               | 1    | 1       |"
    assert row in capsys.readouterr().out
    assert main(["evaluate", "compare", "--json", *folders]) == 0
    numbers = {"before": 60.0, "after": 62.5, "difference": 2.5, "interval": None, "rose": 1}
    assert json.loads(capsys.readouterr().out)["scores"]["scores model psnr_db"] == numbers


def test_what_cannot_be_compared_says_so(tmp_path):
    good = write(tmp_path / "good.json", [10.0])
    (tmp_path / "empty.json").write_text('{"settings": {}, "toys": []}')
    (tmp_path / "broken.json").write_text("{")
    apart = write(tmp_path / "apart.json", [10.0], name="toy")
    apart.write_text(apart.read_text().replace("mug-0", "dog-1"))
    for other, complaint in (
        (tmp_path / "nowhere.json", "no measurement at"),
        (tmp_path, "holds 0 of views.json and pictures.json; name a file"),
        (tmp_path / "empty.json", "holds no objects with scores"),
        (tmp_path / "broken.json", "is not JSON"),
        (apart, "share no object: mug-0 in the first, dog-1 in the second"),
        (write(tmp_path / "red.json", [1.0], "a red mug"), "mug-0 is not the same object: 'a mug' in"),
    ):
        with pytest.raises(ValueError, match=complaint):
            compare(good, other)
