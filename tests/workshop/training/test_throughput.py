"""The throughput benchmark at a size that tests can afford."""

import json

import pytest

from benchmarks import train_throughput


def test_a_row_for_each_size(tmp_path, capsys):
    out = tmp_path / "throughput"
    train_throughput.main(train_throughput.Settings(n=1, sizes=(8, 16), reads=2, models=(), out=out))
    record = json.loads(out.with_suffix(".json").read_text())
    assert [row["views px"] for row in record["rows"]] == [8, 16]
    assert all(row["objects/s a core"] > 0 for row in record["rows"])
    assert "--n 1 --sizes 8 16" in capsys.readouterr().out
    assert record["command"] in out.with_suffix(".md").read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch.utils._pytree")
def test_steps_of_the_trainer(tmp_path):
    out = tmp_path / "throughput"
    settings = train_throughput.Settings(
        n=1,
        sizes=(64,),
        reads=1,
        precisions=("32-true",),
        loader_workers=(1,),
        batch_size=1,
        steps=4,
        out=out,
    )
    train_throughput.main(settings)
    (row,) = json.loads(out.with_suffix(".json").read_text())["steps"]
    assert row["seconds a step"] > 0
    assert 0 <= row["waiting"] <= 1
    assert 0 < row["of the matrix rate"] < 1.5
    # forward and backward of 13 M parameters over 5 frames of 8 x 8, and the frozen encoders
    assert 0.01 < row["TFLOP a step"] < 0.2
