"""Toys as batches: determined by their seeds, made once, the right views."""

from dataclasses import replace

import pytest
import torch

from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.random_draws import epoch_indices, random_backgrounds
from imagedream.workshop.training.toy_data import SampleCache, render_sample
from imagedream.workshop.training.train_config import SampleConfig

SMALL = SampleConfig(image_size=16, groups=2, prompts=2)


def test_a_sample_is_determined_by_its_seed():
    first, again, other = (render_sample(seed, SMALL) for seed in (3, 3, 4))
    assert first["caption"] == again["caption"]
    for key in ("targets", "prompts", "azimuths_deg", "elevations_deg"):
        assert torch.equal(first[key], again[key])
    assert not torch.equal(first["targets"], other["targets"])


def test_a_group_is_four_views_a_quarter_turn_apart():
    sample = render_sample(0, SMALL)
    assert sample["targets"].shape == (2, 4, 4, 16, 16)
    torch.testing.assert_close(sample["azimuths_deg"].diff(dim=1), torch.full((2, 3), 90.0))
    assert (sample["elevations_deg"] >= 0).all()
    assert (sample["elevations_deg"] <= 20).all()
    assert (sample["targets"][:, :, 3].flatten(2).amax(2) == 255).all()  # something to see in every view
    assert sample["prompt_azimuths_deg"].abs().max() <= 90
    fixed = render_sample(0, replace(SMALL, prompt_light="fixed"))
    assert torch.equal(sample["targets"], fixed["targets"])
    assert not torch.equal(sample["prompts"], fixed["prompts"])


def test_prompts_are_centred_at_the_size_that_preparation_makes():
    for seed in range(4):
        alpha = render_sample(seed, SampleConfig(image_size=64, prompts=1, groups=1))["prompts"][0, 3] > 25
        rows, columns = alpha.any(1).nonzero()[:, 0], alpha.any(0).nonzero()[:, 0]
        longest = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        assert 0.76 * 64 <= longest <= 0.98 * 64
        assert abs(int(rows[0] + rows[-1]) - 63) <= 3
        assert abs(int(columns[0] + columns[-1]) - 63) <= 3


def built_cache(folder, workers):
    cache = SampleCache(folder, objects=3, config=SMALL, first_seed=5)
    cache.SHARD = 2
    cache.build(workers)
    return cache


def test_a_cache_is_made_once(tmp_path):
    cache = built_cache(tmp_path, workers=1)
    files = sorted(cache.folder.glob("*.safetensors"))
    assert [path.name for path in files] == ["00000005-2.safetensors", "00000007-1.safetensors"]
    before = files[0].stat().st_mtime_ns
    cache.build(workers=1)
    assert files[0].stat().st_mtime_ns == before
    # a batch knows the azimuths of its prompts
    batch = cache.batch(torch.tensor([0, 1, 2]), step_generator(0, 0))
    assert batch["targets"].shape == (3, 4, 4, 16, 16)
    for row, azimuth in enumerate(batch["prompt_azimuths_deg"].tolist()):
        sample = render_sample(5 + row, SMALL)
        place = sample["prompt_azimuths_deg"].tolist().index(azimuth)
        assert torch.equal(batch["prompts"][row], sample["prompts"][place].float() / 255)


@pytest.mark.slow
def test_processes_make_the_same_cache(tmp_path):
    caches = [built_cache(tmp_path / str(workers), workers) for workers in (1, 2)]
    files = [sorted(cache.folder.glob("*.safetensors")) for cache in caches]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_an_epoch_visits_every_object_once():
    seen = torch.cat([epoch_indices(step, 4, objects=10, seed=0) for step in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_backgrounds_are_white_grey_or_coloured():
    colours = random_backgrounds(4000, step_generator(0, 0), white=0.4, grey=0.2)
    white = (colours == 1).all(1)
    grey = (colours == colours[:, :1]).all(1) & ~white
    assert white.float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
