import json

import pytest
from PIL import Image

from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results


def test_columns_are_aligned_and_missing_values_are_dashes():
    table = markdown_table([{"toy": "mug", "dB": 18.254}, {"toy": "robot", "dB": None, "s": 3}])
    assert table.splitlines() == [
        "| toy   | dB    | s |",
        "| ----- | ----- | - |",
        "| mug   | 18.25 | - |",
        "| robot | -     | 3 |",
    ]


def test_mean_scores_skips_missing_ones():
    assert mean_scores([{"a": 1.0, "b": 4.0}, {"a": 2.0}]) == {"a": 1.5, "b": 4.0}


def test_results_are_a_text_numbers_and_perhaps_a_picture(tmp_path):
    out = tmp_path / "results" / "views-0.5"  # a dot in the name is no ending
    save_results(out, "# Views", {"dB": 18.25})
    assert out.with_name("views-0.5.md").read_text() == "# Views\n"
    assert json.loads(out.with_name("views-0.5.json").read_text()) == {"dB": 18.25}
    assert len(list(out.parent.iterdir())) == 2
    save_results(out, "# Views", {}, Image.new("RGB", (2, 3)))
    with Image.open(out.with_name("views-0.5.png")) as picture:
        assert picture.size == (2, 3)


def test_numbers_that_json_cannot_say_leave_the_old_file(tmp_path):
    save_results(tmp_path / "views", "# Views", {"dB": 18.25})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_results(tmp_path / "views", "# Views", {"dB": object()})
    assert json.loads((tmp_path / "views.json").read_text()) == {"dB": 18.25}
