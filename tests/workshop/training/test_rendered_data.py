"""Rendered samples as batches: the right views, from anywhere in an epoch, whoever loads them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from imagedream import cameras
from imagedream.runs.seeds import step_generator
from imagedream.workshop.rendering.captioned_files import Item
from imagedream.workshop.rendering.object_views import RenderConfig, object_samples
from imagedream.workshop.rendering.samples import Picture, SampleError, decode_png, encode_png, write_tar
from imagedream.workshop.training.rendered_data import (
    RenderedSamples,
    allows,
    check_sizes,
    examine_rendered,
    with_suffix,
)
from imagedream.workshop.training.shard_data import Entry, index
from imagedream.workshop.training.toy_data import SampleCache
from imagedream.workshop.training.train_config import DataConfig, RenderedConfig, SampleConfig
from imagedream.workshop.training.training_data import Mixture, StepBatches, TrainingData, hold_out

RENDER = RenderConfig(size=16, views=8, rings=2, prompts=2, relative_distance=(0.8, 0.9))
CONFIG = RenderedConfig(folders=["somewhere"], image_size=16)


@pytest.fixture(scope="module")
def samples():
    return {
        f"toy-{seed}_{sample.ring}": files
        for seed in range(3)
        for sample, files in object_samples(Item(f"toy-{seed}", f"toybox:{seed}"), RENDER)
    }


def indexed(samples, folder):
    write_tar(samples.items(), folder / "shard.tar")
    return index([folder / "shard.tar"], [], examine_rendered, folder)


@pytest.fixture(scope="module")
def entries(samples, tmp_path_factory):
    return indexed(samples, tmp_path_factory.mktemp("shards"))


def draw(entries, config=CONFIG, step=0):
    return RenderedSamples(entries, config).batch(torch.arange(len(entries)), step_generator(0, step))


def repainted(files, paint):
    """The files of a sample with other pictures: `paint` gets a file's name and its pixels."""
    return {
        name: encode_png(paint(name, decode_png(content, None, name).copy()))
        if name.endswith(".png")
        else content
        for name, content in files.items()
    }


def test_a_batch_holds_four_views_a_quarter_turn_apart(entries, samples):
    batch = draw(entries)
    assert batch["targets"].shape == (6, 4, 4, 16, 16)
    assert batch["prompts"].shape == (6, 4, 16, 16)
    for row, entry in enumerate(entries):
        files = samples[entry.key]
        record = json.loads(files["cameras.json"])
        views = {view["azimuth_deg"]: view for view in record["views"]}
        shown = [views[azimuth] for azimuth in batch["azimuths_deg"][row].tolist()]
        assert batch["elevations_deg"][row] == pytest.approx(record["views"][0]["elevation_deg"])
        assert batch["captions"][row] == record["caption"]
        torch.testing.assert_close(batch["azimuths_deg"][row].diff() % 360, torch.full((3,), 90.0))
        for number, view in enumerate(shown):
            pixels = decode_png(files[view["file"]], 16, "")
            assert ((batch["targets"][row, number] * 255).round().permute(1, 2, 0).numpy() == pixels).all()
        # the network is told what the matrices say
        written = torch.tensor([view["camera_to_world"] for view in shown])
        angles = batch["elevations_deg"][row], batch["azimuths_deg"][row]
        told = cameras.camera_condition(cameras.look_at_origin(*angles, torch.tensor(1.0)))
        torch.testing.assert_close(cameras.camera_condition(written), told, atol=1e-5, rtol=0)


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_prompts_come_from_where_they_should(samples, own, tmp_path):
    def paint(name, pixels):
        pixels[..., :3] = (255, 0, 0) if name.startswith("view") else (0, 0, 255)
        return pixels

    found = indexed({key: repainted(files, paint) for key, files in samples.items()}, tmp_path)
    batch = draw(found, replace(CONFIG, own_prompts=own))
    weight = batch["prompts"][:, 3:]
    mean = (batch["prompts"][:, :3] * weight).sum((2, 3)) / weight.sum((2, 3))
    expected = torch.tensor([[0.0, 0.0, 1.0]] if own else [[1.0, 0.0, 0.0]]).expand(6, 3)
    torch.testing.assert_close(mean, expected, atol=0.02, rtol=0)
    for row, entry in enumerate(found):
        record = json.loads(samples[entry.key]["cameras.json"])
        known = [prompt["azimuth_deg"] for prompt in record["prompts" if own else "views"]]
        azimuth = float(batch["prompt_azimuths_deg"][row])
        assert any(azimuth == pytest.approx(one, abs=1e-3) for one in known)


def test_prompts_of_the_ring_are_of_the_front_half(samples, tmp_path):
    # only the views from -90 up to 90 (excluded) are visible: a prompt from elsewhere would be empty
    key, files = next(iter(samples.items()))
    views = json.loads(files["cameras.json"])["views"]
    behind = {view["file"] for view in views if 90 <= view["azimuth_deg"] < 270}
    found = indexed({key: repainted(files, lambda name, p: p * (name not in behind))}, tmp_path)
    for step in range(8):
        prompt = draw(found, replace(CONFIG, own_prompts=0.0), step)["prompts"][0, 3] > 0.1
        rows, columns = prompt.any(1).nonzero(), prompt.any(0).nonzero()
        longest = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        assert 0.8 * 16 - 2 <= longest <= 0.95 * 16 + 2


def test_samples_that_cannot_be_shown_are_named(samples, tmp_path):
    key, files = next(iter(samples.items()))
    found = indexed({key: repainted(files, lambda name, pixels: np.zeros_like(pixels))}, tmp_path)
    with pytest.raises(SampleError, match=f"sample {key}: nothing is to be seen in any of 4 prompt views"):
        draw(found, replace(CONFIG, own_prompts=0.0))
    damaged = {name: bytearray(content) for name, content in files.items()}
    for name, content in damaged.items():
        content[len(content) // 2] ^= 0xFF if name.endswith(".png") else 0
    found = indexed({key: {name: bytes(content) for name, content in damaged.items()}}, tmp_path)
    with pytest.raises(SampleError, match=rf"sample {key}: \w+\.png \(\d+ bytes\) cannot be decoded as PNG"):
        draw(found)


@pytest.mark.parametrize(
    ("camera", "wanted"),
    [
        ((350.0, 10.0, 40.0), True),
        ((60.0, 10.0, 40.0), False),
        ((0.0, 40.0, 40.0), False),
        ((0.0, 0.0, 55.0), False),
    ],
)
def test_prompt_views_outside_the_ranges_are_left_out(camera, wanted):
    config = RenderedConfig(
        prompt_azimuth_deg=(-45.0, 45.0), prompt_elevation_deg=(0.0, 30.0), prompt_fov_y_deg=(20.0, 50.0)
    )
    assert allows(config, Picture("a.png", *camera, [])) is wanted


def test_larger_views_are_reduced_and_smaller_ones_refused(entries):
    full, half = draw(entries), draw(entries, replace(CONFIG, image_size=8))
    assert half["prompts"].shape[-1] == 8
    alpha = torch.nn.functional.avg_pool2d(full["targets"].flatten(0, 1), 2)[:, 3]
    torch.testing.assert_close(half["targets"].flatten(0, 1)[:, 3], alpha)
    with pytest.raises(
        SampleError, match=r"views are 16 pixels wide, data\.rendered\.image_size 32 would enlarge"
    ):
        draw(entries, replace(CONFIG, image_size=32))
    check_sizes(entries, 16)
    with pytest.raises(
        ValueError, match=r"image_size is 32, but \d+ of \d+ shards were rendered smaller: .* at 16;"
    ):
        check_sizes(entries, 32)


def test_suffix_of_captions():
    assert with_suffix("a car", ", 3d asset") == "a car, 3d asset"
    assert with_suffix("a 3D print", ", 3d asset") == "a 3D print"
    assert with_suffix("", ", 3d asset") == ""


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


@pytest.mark.parametrize(("workers", "first"), [(0, 0), (0, 2), (2, 2)])
def test_batches_depend_on_the_step_alone(entries, workers, first):
    source = RenderedSamples(entries, CONFIG)
    expected = [StepBatches(source, 4, 1, 0).batch(step) for step in range(5)]
    loader = iter(DataLoader(StepBatches(source, 4, 1, first), batch_size=None, num_workers=workers))
    for step in range(first, 5):
        batch = next(loader)
        assert batch["step"] == step
        assert same(batch, expected[step])
    del loader
    assert not same(expected[0], expected[3])


def test_processes_share_an_epoch(entries):
    source = RenderedSamples(entries, replace(CONFIG, own_prompts=0.0))
    batches = [StepBatches(source, 2, 1, 0, rank=rank, world_size=3).batch(0) for rank in range(3)]
    elevations = {float(value) for batch in batches for value in batch["elevations_deg"]}
    assert len(elevations) == 6  # each of the six rings once
    assert len({batch["step"] for batch in batches}) == 3


def test_an_object_is_on_one_side_only(entries, tmp_path):
    training, validation = hold_out(entries, 1)
    assert {entry.object for entry in validation} == {"toy-2"}
    assert [len(training), len(validation)] == [4, 2]
    assert hold_out(entries, 0) == (entries, entries)
    with pytest.raises(ValueError, match=r"hold 3 objects, of which data\.validation_objects 3 are kept"):
        hold_out(entries, 3)
    config = DataConfig(
        rendered=RenderedConfig(folders=[entries[0].path], image_size=16),
        cache=str(tmp_path),
        validation_objects=1,
        batch_size=3,
        workers=1,
    )
    data = TrainingData(config, seed=0)
    data.prepare_data()
    data.setup()
    assert (data.training.entries, data.validation.entries) == (training, validation)
    assert all(isinstance(entry, Entry) for entry in data.training.entries)
    (batch,) = data.val_dataloader()  # no more than there are
    assert batch["targets"].shape == (2, 4, 4, 16, 16)


def test_toys_among_rendered_objects(entries, tmp_path):
    config = DataConfig(
        rendered=RenderedConfig(folders=["somewhere"], share=0.75, image_size=16),
        sample=SampleConfig(image_size=16, groups=1, prompts=1),
        cache=str(tmp_path),
    )
    toys = SampleCache(tmp_path, 3, config.sample)
    toys.build(workers=1)
    rendered = RenderedSamples(entries, config.rendered)
    mixture = Mixture(rendered, toys, config.rendered.share)
    assert len(mixture) == 12  # the three toys are a quarter
    batch = mixture.batch(torch.tensor([11, 0, len(entries)]), torch.Generator().manual_seed(0))
    assert batch["objects"] == [entries[0].where, entries[0].where, "toy of seed 2"]
    assert batch["targets"].shape == (3, 4, 4, 16, 16)
    assert [(entry["data"], entry["share"]) for entry in config.seen] == [
        ("rendered", 0.75),
        ("toybox", 0.25),
    ]
    with pytest.raises(ValueError, match=r"data\.rendered\.image_size is 32, data\.sample\.image_size 16"):
        replace(config, rendered=replace(config.rendered, image_size=32))
