import pytest
import torch

from imagedream.runs.seeds import step_generator
from imagedream.workshop.training.objects import StepBatches, epoch_indices, random_backgrounds
from imagedream.workshop.training.toy_data import SampleCache, SampleConfig, render_sample

SMALL = SampleConfig(image_size=16, groups=2, prompts=1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = SampleCache(tmp_path_factory.mktemp("cache"), objects=6, config=SMALL)
    cache.build(workers=1)
    return cache


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


def test_prompts_are_centred_at_the_size_that_preparation_makes():
    for seed in range(4):
        alpha = render_sample(seed, SampleConfig(image_size=64, prompts=1, groups=1))["prompts"][0, 3] > 25
        rows, columns = alpha.any(1).nonzero()[:, 0], alpha.any(0).nonzero()[:, 0]
        longest = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        assert 0.76 * 64 <= longest <= 0.98 * 64
        assert abs(int(rows[0] + rows[-1]) - 63) <= 3
        assert abs(int(columns[0] + columns[-1]) - 63) <= 3


def test_the_cache_is_made_once(cache):
    shard = next(cache.folder.glob("*.safetensors"))
    before = shard.stat().st_mtime_ns
    cache.build(workers=1)
    assert shard.stat().st_mtime_ns == before


def test_processes_change_nothing(tmp_path):
    for name, workers in (("here", 1), ("there", 2)):
        cache = SampleCache(tmp_path / name, objects=3, config=SMALL, first_seed=5)
        cache.SHARD = 2
        cache.build(workers)
    files = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.safetensors")]
    assert [path.name for path in sorted(files)] == ["00000005.safetensors", "00000007.safetensors"]
    for path in files:
        assert (tmp_path / "there" / path).read_bytes() == (tmp_path / "here" / path).read_bytes()


def test_batches_depend_on_the_step_alone(cache):
    from_start = iter(StepBatches(cache, batch_size=4, seed=1, first_step=0))
    third = [next(from_start) for _ in range(3)][2]
    resumed = next(iter(StepBatches(cache, batch_size=4, seed=1, first_step=2)))
    assert third["captions"] == resumed["captions"]
    assert third["step"] == resumed["step"] == 2
    assert torch.equal(third["targets"], resumed["targets"])


def test_an_epoch_visits_every_object_once():
    seen = torch.cat([epoch_indices(step, 4, objects=10, seed=0) for step in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_backgrounds_are_white_grey_or_coloured():
    colours = random_backgrounds(4000, step_generator(0, 0), white=0.4, grey=0.2)
    white = (colours == 1).all(1)
    grey = (colours == colours[:, :1]).all(1) & ~white
    assert abs(white.float().mean() - 0.4) < 0.03
    assert abs(grey.float().mean() - 0.2) < 0.03


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match="unicorn"):
        SampleConfig(kinds=["unicorn"])
