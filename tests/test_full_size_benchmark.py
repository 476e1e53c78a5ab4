"""benchmarks/full_size.py on the small model's architecture."""

import json

import pytest

from benchmarks import full_size as benchmark
from imagedream.workshop.training.architectures import published_architecture


@pytest.mark.slow
def test_tables_and_records(tmp_path, capsys):
    settings = benchmark.Settings(
        precisions=("float32",),
        options=(
            "vae slicing and checkpointing",
            "encoder offload",
        ),
        model="toybox",
        device="cpu",
        groups=(1,),
        free_encoder=True,
        out=tmp_path / "result",
    )
    assert benchmark.main(settings) == 0
    text = (tmp_path / "result.md").read_text()
    assert (
        text.removeprefix("# The full-size model with random weights\n\n").strip() in capsys.readouterr().out
    )
    assert "(x1." in text
    assert "encoder offload: the encoder is on the CPU or freed as it is" in text

    records = {
        entry["option"]: entry for entry in json.loads((tmp_path / "result.json").read_text())["records"]
    }
    none, lean = records["none"]["phases"], records["vae slicing and checkpointing"]["phases"]
    assert set(none) == {"encode", "step", "decode", "distil 1"}
    assert set(lean) == {"decode", "distil 1"}
    assert all(lean[phase]["peak_bytes"] < none[phase]["peak_bytes"] for phase in lean)
    assert records["none"]["weight_bytes"] == pytest.approx(
        75.9e6, rel=0.2
    )  # the shipped files hold half of it


@pytest.mark.slow
def test_operations_of_the_full_size():
    # 2 x 1.07, as counted beside the network itself; a group's encoding is 4 pictures there and back
    counted = benchmark.phase_operations(published_architecture(), (1, 2))
    assert counted["step"] / 1e12 == pytest.approx(2.14, abs=0.01)
    assert counted["distil 2"] == 2 * counted["distil 1"]
    assert counted["distil 1"] / 1e12 == pytest.approx(2.14 + 2.19, abs=0.02)
