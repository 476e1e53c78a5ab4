from imagedream.evaluation.tables import markdown_table, mean_scores


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
