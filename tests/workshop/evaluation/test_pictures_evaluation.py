import json

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import inception_v3

from imagedream.pictures import to_pil
from imagedream.workshop.evaluation.held_out_objects import held_out_cases
from imagedream.workshop.evaluation.paper_metrics import (
    InceptionClassifier,
    find_clip,
    quality_only_inception_score,
)
from imagedream.workshop.evaluation.pictures_evaluation import evaluate_pictures
from imagedream.workshop.rendering.captioned_files import file_items
from tests.tiny import tiny_pipeline


def test_score_is_the_inception_score_with_a_uniform_marginal():
    p = torch.tensor([[0.5, 0.25, 0.25]])
    entropy = 1.5 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(quality_only_inception_score(p.log()), 3 * torch.exp(-entropy)[None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for case in held_out_cases(2, kinds=["mug", "car"]):
        to_pil(case.prompt).save(folder / f"{case.object.kind}.png")
    (folder / "mug.txt").write_text("a red mug\n")
    (folder / "notes.json").write_text("{}")
    return folder


def test_mean_and_deviation_of_the_papers_scores(folder, tmp_path):
    pipeline = tiny_pipeline()
    prompts = file_items(folder, [".png"], "picture")
    evaluation = evaluate_pictures(pipeline, prompts, find_clip("own", pipeline.encoder), steps=1)
    assert [list(result.scores) for result in evaluation.results] == [["clip_text", "clip_image", "hull"]] * 2
    first, second = (result.scores["clip_image"] for result in evaluation.results)
    expected = ((first + second) / 2, abs(first - second) / 2)
    assert evaluation.means["clip_image"] == pytest.approx(expected, abs=1e-4)
    evaluation.save(tmp_path)
    assert "±" in (tmp_path / "pictures.md").read_text()
    assert json.loads((tmp_path / "pictures.json").read_text())["pictures"][1]["caption"] == "a red mug"
    without = evaluate_pictures(pipeline, file_items(folder, [".png"], "picture", "none")[:1], None, steps=1)
    assert list(without.results[0].scores) == ["hull"]


def test_inception_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = inception_v3(weights=None, init_weights=False, transform_input=True)
    save_file(model.state_dict(), tmp_path / "inception.safetensors")
    classifier = InceptionClassifier(tmp_path / "inception.safetensors")
    pixels = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = model.eval()((pixels - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(classifier(pixels), expected, rtol=1e-3, atol=1e-4)
    save_file({"something": torch.zeros(1)}, tmp_path / "else.safetensors")
    with pytest.raises(ValueError, match="holds no weights of torchvision's Inception v3"):
        InceptionClassifier(tmp_path / "else.safetensors")
