"""Table 1 of trial folders whose views are known."""

import json

import pytest

from benchmarks import paper_table
from imagedream.pictures import over_white, to_pil
from imagedream.workshop.evaluation.held_out_objects import held_out_cases
from imagedream.workshop.evaluation.paper_metrics import find_clip
from tests.tiny import tiny_encoder
from tests.workshop.evaluation.test_toybox_to_3d import write_trial


def test_scores_of_a_run_are_those_of_its_pictures(tmp_path):
    case = held_out_cases(1, seed=2, kinds=["car"], prompt_size=64)[0]
    write_trial(tmp_path, case, case.object.mesh)
    to_pil(case.prompt).save(tmp_path / "save" / "prompt.png")
    parsed = json.loads((tmp_path / "configs" / "parsed.yaml").read_text())
    parsed["system"] = {"prompt_processor": {"prompt": case.object.caption}}
    (tmp_path / "configs" / "parsed.yaml").write_text(json.dumps(parsed))
    clip = find_clip("own", tiny_encoder())
    settings = paper_table.Settings((str(tmp_path),), diffused_px=48, rendered_px=48)
    scores = paper_table.score_run(tmp_path, settings, clip, None)
    _, views = paper_table.read_four_views(tmp_path, 48)
    expected = clip.image_similarity(views, over_white(case.prompt))
    assert scores["diffused"]["clip_image"] == pytest.approx(expected, abs=0.5)  # the prompt has 8 bits here
    assert scores["rendered"]["clip_text"] != scores["diffused"]["clip_text"]
    text = paper_table.table({"a": scores, "b": scores})
    assert f"{scores['rendered']['clip_text']:.2f} ± 0.00" in text
