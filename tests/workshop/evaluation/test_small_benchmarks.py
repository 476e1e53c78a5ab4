"""Benchmarks of the prompt's camera, the controllers' weights, several prompts and the scores of views: by hand, and tiny."""

import json

import pytest

from benchmarks import prompt_camera, several_prompts, view_scores


def row(seen_in, azimuth, error, prompts="±30°"):
    rest = {"elevation_error_deg": 2.0, "certainty": 0.5, "silhouette_iou": 0.9}
    where = {"in": seen_in, "azimuth_deg": azimuth, "error_deg": error}
    return {"toy": "mug-6", "prompts": prompts, **where, **rest}


def test_summary_by_hand():
    rows = [row("true mesh", -10.0, 1.0), row("true mesh", 30.0, 3.0), row("field", 30.0, 20.0)]
    front, mean, field, mesh = prompt_camera.summary(rows)
    assert [one["looked for in"] for one in (front, mean, field, mesh)] == [
        "always front", "their mean", "field", "true mesh",
    ]  # fmt: skip
    assert front["90 %"] == pytest.approx(28)  # of 10 and 30
    assert mean["90 %"] == pytest.approx(20)  # their mean is 10
    assert (field["toys"], field["median"], field["within 15°"]) == (1, 20, 0)
    assert mesh["within 15°"] == 1
    assert mesh["mean certainty"] == 0.5
    assert mesh["elevation median"] == 2


@pytest.mark.slow
def test_several_prompts_runs_and_writes(tiny_model, tmp_path, capsys):
    out = tmp_path / "table"
    assert several_prompts.main(several_prompts.Settings(n=2, weights=str(tiny_model), steps=1, out=out)) == 0
    table = (tmp_path / "table.md").read_text()
    assert "front, left, back, right (named)" in table
    toys = json.loads((tmp_path / "table.json").read_text())["toys"]
    assert [toy["toy"] for toy in toys] == ["robot-0", "dog-1"]
    for toy in toys:
        assert len(toy["scores"]) == len(several_prompts.SETS) == 10
        for scores in toy["scores"].values():
            sides = [scores[side] for side in ("front", "left", "back", "right")]
            assert sum(sides) / 4 == pytest.approx(scores["psnr_db"], rel=1e-4)


def test_gain_is_over_the_mean_of_the_pictures_alone():
    both = several_prompts.PictureSet(("front", "back"))
    values = [(10.0, 14.0, 13.0), (20.0, 22.0, 20.0)]  # alone, alone, together: gains of 1 and −1
    names = ("front", "back", both.name)
    toys = [
        {"scores": {name: {"psnr_db": db} for name, db in zip(names, three, strict=True)}} for three in values
    ]
    mean, error = several_prompts.gain(toys, both)
    assert mean == 0
    assert error == pytest.approx(1.0)  # √2 / √2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver
def test_view_scores_runs(tiny_model, capsys):
    assert view_scores.main(view_scores.Settings(n=2, seeds=2, weights=str(tiny_model))) == 0
    assert "CLIP · hull" in capsys.readouterr().out


def test_view_scores_by_hand():
    # the score finds the better seed of the first toy and misses it in the second
    toys = [
        [
            dict(score=0.9, clip=0.1, hull=0.5, psnr_db=16.0),
            dict(score=0.1, clip=0.9, hull=0.4, psnr_db=10.0),
        ],
        [
            dict(score=0.9, clip=0.9, hull=0.5, psnr_db=12.0),
            dict(score=0.1, clip=0.1, hull=0.6, psnr_db=14.0),
        ],
    ]
    rows = [[cell.strip() for cell in row.split("|")] for row in view_scores.table(toys).splitlines()[2:]]
    assert [row[2] for row in rows] == ["13", "14", "11", "15", "15"]
    assert rows[1][3] == "+1.00 ± 2.00"
    assert rows[4][4] == "1"
