"""Where prompts are taken from, and under which light: known for every batch, also of caches made before anyone asked."""

import json

import pytest
import torch

from imagedream.runs.seeds import step_generator
from imagedream.workshop.rendering.samples import Picture
from imagedream.workshop.training.objects import DataConfig, TrainingData
from imagedream.workshop.training.rendered_data import RenderedConfig
from imagedream.workshop.training.shard_data import read
from imagedream.workshop.training.toy_data import SampleCache, SampleConfig, draw_sample, render_sample

SMALL = SampleConfig(image_size=16, groups=1, prompts=2)


def test_the_cache_of_the_shipped_model_keeps_its_name():
    assert SampleConfig().digest == "cb87ef2a56bf"
    assert SampleConfig(prompt_light="fixed").digest != SampleConfig().digest


def test_what_is_drawn_again_is_what_was_rendered():
    draws, sample = draw_sample(7, SMALL), render_sample(7, SMALL)
    assert torch.equal(draws.azimuths_deg, sample["azimuths_deg"])
    assert torch.equal(draws.elevations_deg, sample["elevations_deg"])
    assert all(-90 <= prompt.azimuth_deg <= 90 for prompt in draws.prompts)
    assert draws.prompts[0].light != draws.prompts[1].light


def test_the_light_of_prompts_can_be_fixed():
    fixed = SampleConfig(image_size=16, groups=1, prompts=2, prompt_light="fixed")
    assert draw_sample(7, fixed).prompts[0].light == draw_sample(7, fixed).prompts[1].light
    with pytest.raises(ValueError, match="prompt_light is 'dim', must be random or fixed"):
        SampleConfig(prompt_light="dim")


def test_a_batch_of_toys_knows_its_prompts_azimuths(tmp_path):
    cache = SampleCache(tmp_path, objects=2, config=SMALL)
    cache.SHARD = 2
    cache.build(workers=1)
    batch = cache.batch(torch.tensor([0, 1]), step_generator(0, 0))
    for row, azimuth in enumerate(batch["prompt_azimuths_deg"].tolist()):
        known = {float(prompt.azimuth_deg): at for at, prompt in enumerate(draw_sample(row, SMALL).prompts)}
        rendered = render_sample(row, SMALL)["prompts"][known[azimuth]]
        assert torch.equal(batch["prompts"][row], rendered.float() / 255)


def test_prompt_views_outside_the_ranges_are_left_out():
    config = RenderedConfig(
        prompt_azimuth_deg=(-45.0, 45.0), prompt_elevation_deg=(0.0, 30.0), prompt_fov_y_deg=(20.0, 50.0)
    )
    views = {
        (350.0, 10.0, 40.0): True,
        (60.0, 10.0, 40.0): False,
        (0.0, 40.0, 40.0): False,
        (0.0, 0.0, 55.0): False,
    }
    for (azimuth, elevation, fov), wanted in views.items():
        assert config.allows(Picture("a.png", azimuth, elevation, fov, [])) is wanted
    with pytest.raises(ValueError, match=r"prompt_fov_y_deg is 50\.0 to 20\.0"):
        RenderedConfig(prompt_fov_y_deg=(50.0, 20.0))


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_a_batch_of_rendered_objects_knows_its_prompts_azimuths(recipe, own):
    rendered = RenderedConfig(folders=[str(recipe / "shards")], image_size=16, own_prompts=own)
    config = DataConfig(
        rendered=rendered, cache=str(recipe / "cache"), validation_objects=0, batch_size=6, workers=1
    )
    data = TrainingData(config, seed=0)
    data.setup()
    batch = data.training.batch(torch.arange(len(data.training)), step_generator(0, 0))
    for row, entry in enumerate(data.training.entries):
        record = json.loads(read(entry)["cameras.json"])
        known = {prompt["azimuth_deg"] for prompt in record["prompts" if own else "views"]}
        azimuth = float(batch["prompt_azimuths_deg"][row])
        assert any(azimuth == pytest.approx(one, abs=1e-3) for one in known)
