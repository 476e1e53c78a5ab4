"""What a run logs: numbers, pictures, TensorBoard."""

import pytest
import torch
from PIL import Image

from imagedream import checkpoints
from imagedream.cli import main
from imagedream.metrics import image_scores
from imagedream.pictures import over_white
from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.train_config import read_config
from imagedream.workshop.training.training_data import TrainingData
from imagedream.workshop.training.validation_views import sample
from tests.workshop.training.conftest import LIGHTNING_WARNINGS, lines

pytestmark = LIGHTNING_WARNINGS


@pytest.fixture(scope="module")
def watched(recipe, tmp_path_factory):
    """Two steps, two objects watched, TensorBoard as well."""
    out = tmp_path_factory.mktemp("watched") / "out"
    options = [
        "validation_views=2",
        "validation_view_steps=2",
        "tensorboard=true",
        "optimizer.learning_rate=0.01",
        "ema_decay=0.5",
    ]
    assert main(["train", "--config", str(recipe / "tiny.yaml"), f"out={out}", *options]) == 0
    return out


def test_numbers_for_machines(watched):
    training = [line for line in lines(watched) if "train/loss" in line]
    assert [line["step"] for line in training] == [1, 2]
    assert all(0 <= line["waiting"] <= 1 for line in training)
    assert training[0]["seconds_left"] > 0
    assert training[1]["seconds_left"] == 0
    assert [line["step"] for line in lines(watched) if "validation/psnr_db" in line] == [0, 2]


def test_scores_are_those_of_the_model_that_is_saved(recipe, watched):
    pipeline = checkpoints.load(watched / "model")
    config = read_config(recipe / "tiny.yaml")
    data = TrainingData(config.data, config.seed)
    data.setup()
    batch = data.validation.batch(torch.arange(2), step_generator(0, 0))
    sampled, true = sample(pipeline, batch, steps=2), over_white(batch["targets"])
    scores = [image_scores(ours, theirs) for ours, theirs in zip(sampled, true, strict=True)]
    told = [line for line in lines(watched) if "validation/psnr_db" in line]
    for name in ("psnr_db", "ssim", "iou"):
        mean = sum(score[name] for score in scores) / 2
        assert told[-1][f"validation/{name}"] == pytest.approx(mean, abs=1e-3)
    assert told[0]["validation/psnr_db"] != told[-1]["validation/psnr_db"]


def test_pictures_show_prompt_truth_and_samples(watched):
    assert sorted(path.name for path in (watched / "validation").iterdir()) == [
        "step-00000000.png",
        "step-00000002.png",
    ]
    with Image.open(watched / "validation" / "step-00000002.png") as picture:
        assert picture.width == 9 * 96
        assert picture.height == pytest.approx(2 * 96, abs=20)


def test_tensorboard_gets_the_same(watched):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(watched / "tensorboard"), size_guidance={"images": 0})
    found.Reload()
    assert {"train/loss", "validation/loss", "validation/psnr_db"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Images("validation")] == [0, 2]
    psnr = [event.value for event in found.Scalars("validation/psnr_db")]
    assert psnr == pytest.approx(
        [line["validation/psnr_db"] for line in lines(watched) if "validation/psnr_db" in line], abs=1e-4
    )
