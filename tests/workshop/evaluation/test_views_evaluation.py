import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from imagedream.mesh.gltf_axes import to_gltf_axes
from imagedream.pictures import over_white
from imagedream.toybox import FIRST_KINDS
from imagedream.toybox.toys import is_held_out
from imagedream.workshop.evaluation.held_out_objects import (
    Orbit,
    ellipsoid,
    held_out_cases,
    held_out_meshes,
    prompt_copied,
    trivial_answers,
)
from imagedream.workshop.evaluation.paper_metrics import find_clip
from imagedream.workshop.evaluation.perceptual_distance import PerceptualDistance
from imagedream.workshop.evaluation.views_evaluation import (
    MEAN,
    MODEL,
    ViewsEvaluation,
    evaluate_views,
    score_case,
)
from imagedream.workshop.rendering.captioned_files import find_items
from tests.tiny import tiny_encoder, tiny_pipeline


@pytest.fixture(scope="module")
def case():
    return held_out_cases(1, seed=2, kinds=["car"])[0]


@pytest.fixture(scope="module")
def clip():
    return find_clip("own", tiny_encoder())


def test_cases_follow_from_their_seed_and_take_kinds_in_turn():
    cases = held_out_cases(3, seed=4, prompt_size=16)
    assert [case.object.kind for case in cases] == [FIRST_KINDS[4], FIRST_KINDS[5], FIRST_KINDS[6]]
    again = held_out_cases(1, seed=5, prompt_size=16)[0]
    assert torch.equal(again.prompt, cases[1].prompt)
    assert again.orbit == cases[1].orbit
    for one in cases:
        assert abs(one.prompt_azimuth_deg) <= 30
        assert 0 <= one.orbit.elevation_deg <= 20
        assert 0 <= one.prompt_elevation_deg <= 20
        assert one.orbit.elevation_deg != one.prompt_elevation_deg


def test_held_out_combinations_and_wider_prompts():
    plain = held_out_cases(6, seed=4, prompt_size=16)
    wide = {"combinations": "heldout", "largest_prompt_azimuth_deg": 90.0, "prompt_size": 16}
    for one, narrow in zip(held_out_cases(6, seed=4, **wide), plain, strict=True):
        words = one.object.attributes
        assert is_held_out(one.object.kind, words["body"], words["accessory"])
        assert one.prompt_azimuth_deg == pytest.approx(3 * narrow.prompt_azimuth_deg)
    with pytest.raises(ValueError, match="largest_prompt_azimuth_deg is 270"):
        held_out_cases(1, largest_prompt_azimuth_deg=270.0)


def test_prompt_is_placed_like_any_picture(case):
    rows, columns = (case.prompt[3] > 0.5).nonzero(as_tuple=True)
    longest = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1
    assert longest == pytest.approx(0.9 * 256, abs=3)


def test_ellipsoid_has_the_toys_extents_and_one_colour(case):
    lump = ellipsoid(case.object)
    np.testing.assert_allclose(lump.extents, case.object.mesh.extents, atol=1e-6)
    assert len(np.unique(lump.visual.face_colors, axis=0)) == 1
    toy, plain = (Orbit().views(mesh, 32, lit=False).rgba for mesh in (case.object.mesh, lump))
    toy, plain = ((rgba[:, :3] * rgba[:, 3:]).sum(dim=(0, 2, 3)) / rgba[:, 3].sum() for rgba in (toy, plain))
    torch.testing.assert_close(toy, plain, atol=0.05, rtol=0)


def test_truth_scores_the_most_and_trivial_answers_less(case):
    true = case.orbit.on_white(case.object.mesh, 32)
    result = score_case(case, [true], true)
    assert result.scores[MODEL] == pytest.approx(
        {"psnr_db": 100, "ssim": 1, "iou": 1, "hull": 1, "sharpness": 1}, abs=0.02
    )
    for name in trivial_answers(case, 32, case.orbit):
        assert result.scores[name]["psnr_db"] < 30
    copied = prompt_copied(case, 16)
    assert copied.shape == (4, 3, 16, 16)
    assert (copied == copied[:1]).all()
    assert result.scores["blank white"]["iou"] == 0
    assert 0.3 < result.scores["ellipsoid"]["iou"] < 1


def test_evaluation_of_a_random_model(tmp_path):
    evaluation, again = (
        evaluate_views(tiny_pipeline(), held_out_cases(2, 3, ["mug", "car"], prompt_size=16), 3, steps=1)
        for _ in range(2)
    )
    assert evaluation.to_dict() == again.to_dict()
    assert [result.case.object.kind for result in evaluation.results] == ["car", "mug"]
    evaluation.save(tmp_path / "report")
    stored = json.loads((tmp_path / "report" / "views.json").read_text())
    scores = [toy["scores"][MODEL]["psnr_db"] for toy in stored["toys"]]
    assert stored["mean"][MODEL]["psnr_db"] == pytest.approx(sum(scores) / 2)
    sides = stored["mean_view_psnr_db"]
    assert list(sides) == ["front", "left", "back", "right"]
    assert sum(sides.values()) / 4 == pytest.approx(sum(scores) / 2, rel=1e-4)
    table = (tmp_path / "report" / "views.md").read_text()
    settings = (
        "objects 2, seed 3, guidance 5.0, steps 1, pixels 16",
        "negative prompt uniform low no texture ugly",
    )
    for word in ("model", "blank white", "prompt copied", "ellipsoid", "| car  | 1 ", *settings):
        assert word in table
    with Image.open(tmp_path / "report" / "views.png") as sheet:
        assert sheet.size == (9 * 96, 16 + 2 * 96)


def test_intervals_and_clip_scores_stand_beside_the_means(case, clip):
    true = case.orbit.on_white(case.object.mesh, 32)
    results = 4 * tuple(score_case(case, [(true + 0.01 * n).clamp(0, 1)], true, clip) for n in range(2))
    evaluation = ViewsEvaluation(results, {"objects": 8})
    low, high = evaluation.interval[MODEL]["psnr_db"]
    assert low < evaluation.mean[MODEL]["psnr_db"] < high
    flat = evaluation.mean["blank white"]["psnr_db"]
    assert evaluation.interval["blank white"]["psnr_db"] == pytest.approx((flat, flat))
    table = evaluation.table()
    assert "| 95 % interval " in table
    assert "CLIP(IM)" in table
    prompt = over_white(case.prompt)
    assert results[0].scores[MODEL]["clip_image"] == pytest.approx(clip.image_similarity(true, prompt))
    assert "interval" in evaluation.to_dict()


def test_a_network_with_relative_cameras_is_asked_for_the_same_views():
    canonical, relative = tiny_pipeline(), tiny_pipeline()
    relative.unet.register_to_config(cameras="relative")
    case = held_out_cases(1, seed=3, kinds=["mug"], prompt_size=16)[0]
    asked = {"elevation_deg": case.orbit.elevation_deg, "azimuth_deg": -case.prompt_azimuth_deg}
    seeded = torch.Generator().manual_seed(3)
    asked |= {"num_inference_steps": 1, "generator": seeded, "output_type": "pt"}
    expected = canonical(case.prompt, case.object.caption, **asked)
    result = evaluate_views(relative, [case], seed=3, steps=1).results[0]
    torch.testing.assert_close(result.images, expected.images)


def test_samples_beside_the_mean_prediction():
    cases = held_out_cases(1, 3, ["mug"], prompt_size=16)
    scores = evaluate_views(tiny_pipeline(), cases, seed=3, steps=3, samples=3).results[0].scores
    assert list(scores)[:3] == [MODEL, MEAN, "best of 3"]
    assert scores["best of 3"]["psnr_db"] >= scores[MODEL]["psnr_db"]
    alone = evaluate_views(tiny_pipeline(), cases, seed=3, steps=3).results[0].scores
    assert alone[MODEL] == pytest.approx(scores[MODEL])
    assert alone[MEAN]["sharpness"] == pytest.approx(scores[MEAN]["sharpness"])


def test_meshes_are_asked_for_as_toys_are(tmp_path):
    toy = held_out_cases(1, 5, ["car"])[0]
    (tmp_path / "cars").mkdir()
    mesh = toy.object.mesh.copy()
    mesh.vertices = to_gltf_axes(mesh.vertices)
    mesh.export(tmp_path / "cars" / "red.glb")
    (case,) = held_out_meshes(find_items(str(tmp_path)), 1, seed=5)
    assert (case.label, case.object.kind, case.object.caption) == ("cars_red", "cars", "red")
    assert case.prompt_azimuth_deg == toy.prompt_azimuth_deg
    torch.testing.assert_close(case.prompt[3], toy.prompt[3], atol=0.02, rtol=0)
    np.testing.assert_allclose(ellipsoid(case.object).extents, ellipsoid(toy.object).extents, atol=1e-3)
    with pytest.raises(ValueError, match="2 objects are asked for, there are 1"):
        held_out_meshes(find_items(str(tmp_path)), 2)


def test_the_perceptual_distance_grows_with_blur(case):
    pytest.importorskip("efficientnet_lite_pytorch", reason="the perceptual distance is an extra")
    distance, true = PerceptualDistance(), case.orbit.on_white(case.object.mesh, 32)
    blurred = [true, *(gaussian_blur(true, 9, sigma) for sigma in (0.5, 1.0, 2.0))]
    distances = [float(distance(one, true).mean()) for one in blurred]
    assert distances[0] == 0
    assert distances == sorted(distances)
