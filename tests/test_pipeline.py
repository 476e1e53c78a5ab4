import pytest
import torch

from imagedream import checkpoints
from imagedream.pictures import composite
from imagedream.pipeline import ImageDreamPipeline
from tests.tiny import tiny_encoder, tiny_pipeline, tiny_scheduler, tiny_unet, tiny_vae


def disc(size: int = 24) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2).float()
    return torch.stack([inside, inside * 0.2, inside * 0.1, inside])


def sample(pipeline, seed=0, **options):
    options = {
        "num_inference_steps": 2,
        "output_type": "pt",
        "generator": torch.Generator().manual_seed(seed),
        **options,
    }
    return pipeline(disc(), prompt="a red ball", **options)


@pytest.mark.parametrize("controllers", ["global", "local", "pixel"])
def test_saved_and_loaded_is_the_same_model(controllers, tmp_path):
    pipeline = tiny_pipeline(controllers)
    pipeline.save_pretrained(tmp_path / "model")
    for loaded in (
        checkpoints.load(tmp_path / "model"),
        ImageDreamPipeline.from_pretrained(tmp_path / "model"),
    ):
        loaded.set_progress_bar_config(disable=True)
        assert loaded.unet.config.controllers == controllers
        torch.testing.assert_close(sample(loaded).images, sample(pipeline).images)


def test_a_prompt_stands_on_its_background():
    pipeline = tiny_pipeline()
    blue = torch.tensor([0.2, 0.4, 0.6])
    with torch.no_grad():
        expected = pipeline.encode_images(composite(disc(16), blue)[None])
    condition = pipeline.encode_condition(disc(16), "", blue)
    torch.testing.assert_close(condition.prompt_latents[:, 0], expected)


def test_a_model_without_controllers_reads_captions_only(tmp_path):
    pipeline = ImageDreamPipeline(
        tiny_unet("none"), tiny_vae(), tiny_encoder(vision_cfg=None), tiny_scheduler()
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path)
    views = [
        model(
            None, prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images
        for model in (pipeline, checkpoints.load(tmp_path))
        for prompt in ("a red robot", "a green house")
    ]
    assert (views[0] != views[1]).any()
    torch.testing.assert_close(views[0], views[2])
    with pytest.raises(ValueError, match="reads captions only"):
        pipeline("nowhere.png", "a red robot")
