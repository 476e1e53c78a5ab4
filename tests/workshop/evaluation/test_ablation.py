"""The ablation's arithmetic, and the whole of it with the shortest possible trainings."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ablation
from imagedream.workshop.evaluation.views_evaluation import MODEL

CONFIGS = Path(__file__).parents[3] / "configs" / "train"


def test_unknown_networks_and_a_report_without_the_reference_are_errors(tmp_path):
    for networks, complaint in (
        (("pixels",), "pixels: unknown, there are pixel-canonical, pixel-relative"),
        (("global-relative",), "lacks pixel-canonical"),
    ):
        with pytest.raises(SystemExit, match=complaint):
            ablation.main(ablation.Settings(networks=networks, work=tmp_path / "work", out=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_bands_go_by_the_size_of_the_azimuth():
    toys = [
        {"prompt_azimuth_deg": azimuth, "scores": {MODEL: {"psnr_db": psnr}}}
        for azimuth, psnr in ((-10.0, 20.0), (29.0, 10.0), (-30.0, 7.0), (75.0, 5.0))
    ]
    means = [ablation.band({"toys": toys}, *limits).mean for limits in ablation.AZIMUTH_BANDS_DEG]
    assert means == [15.0, 7.0, 5.0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_training_to_the_table(tmp_path):
    settings = ablation.Settings(
        ("train", "views", "report"),
        networks=(networks := ("pixel-canonical", "global-relative", "pixel-only-canonical")),
        training_steps=1,
        n=9,
        sampler_steps=1,
        work=tmp_path / "work",
        out=tmp_path / "out",
    )
    ablation.main(settings)
    first = (tmp_path / "out.md").read_text()
    views = tmp_path / "work" / "pixel-canonical" / "views" / "views.json"
    written = views.stat().st_mtime_ns
    ablation.main(settings)  # what is done is not done again
    assert views.stat().st_mtime_ns == written
    assert (tmp_path / "out.md").read_text() == first
    ablation.main(replace(settings, training_steps=2))  # goes on, and asks anew
    assert views.stat().st_mtime_ns > written
    tables = json.loads((tmp_path / "out.json").read_text())["tables"]
    assert tuple(row["network"] for row in tables["Four views: means"][:3]) == networks
    assert (tmp_path / "out.md").read_text().startswith("# Ablation on the toybox")
    assert (tmp_path / "out.png").stat().st_size > 10_000
