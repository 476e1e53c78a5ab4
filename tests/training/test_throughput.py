"""The throughput benchmark at a size that tests can afford."""

import json

from benchmarks import train_throughput


def test_a_row_for_each_size(tmp_path, capsys):
    out = tmp_path / "throughput"
    train_throughput.main(train_throughput.Settings(n=1, sizes=(8, 16), reads=2, out=out))
    record = json.loads(out.with_suffix(".json").read_text())
    assert [row["views px"] for row in record["rows"]] == [8, 16]
    assert all(row["objects/s a core"] > 0 for row in record["rows"])
    assert "--n 1 --sizes 8 16" in capsys.readouterr().out
    assert record["command"] in out.with_suffix(".md").read_text()
