"""Rendered samples as batches: the right views, from anywhere in an epoch, whoever loads them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from imagedream import cameras
from imagedream.runs.seeds import step_generator
from imagedream.workshop.rendering.object_views import Item, RenderConfig, object_samples
from imagedream.workshop.rendering.samples import SampleError, decode_png, encode_png, write_tar
from imagedream.workshop.training.objects import DataConfig, StepBatches, TrainingData, hold_out
from imagedream.workshop.training.rendered_data import (
    RenderedConfig,
    RenderedSamples,
    examine_rendered,
    with_suffix,
)
from imagedream.workshop.training.shard_data import Entry, index

RENDER = RenderConfig(size=16, views=8, rings=2, prompts=2, relative_distance=(0.8, 0.9))
CONFIG = RenderedConfig(folders=["somewhere"], image_size=16)


@pytest.fixture(scope="module")
def samples():
    return {
        f"toy-{seed}_{sample.ring}": files
        for seed in range(3)
        for sample, files in object_samples(Item(f"toy-{seed}", f"toybox:{seed}"), RENDER)
    }


@pytest.fixture(scope="module")
def entries(samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_tar(samples.items(), folder / "shard.tar")
    return index([folder / "shard.tar"], [], examine_rendered, folder)


def draw(entries, config=CONFIG, step=0, indices=None):
    indices = torch.arange(len(entries)) if indices is None else torch.tensor(indices)
    return RenderedSamples(entries, config).batch(indices, step_generator(0, step))


def test_a_batch_holds_four_views_a_quarter_turn_apart(entries, samples):
    batch = draw(entries)
    assert batch["targets"].shape == (6, 4, 4, 16, 16)
    assert batch["prompts"].shape == (6, 4, 16, 16)
    for row, entry in enumerate(entries):
        files = samples[entry.key]
        record = json.loads(files["cameras.json"])
        assert batch["elevations_deg"][row] == pytest.approx(record["views"][0]["elevation_deg"])
        assert batch["captions"][row] == record["caption"]
        turns = batch["azimuths_deg"][row].diff() % 360
        torch.testing.assert_close(turns, torch.full((3,), 90.0))
        for view, azimuth in enumerate(batch["azimuths_deg"][row].tolist()):
            (file,) = [v["file"] for v in record["views"] if v["azimuth_deg"] == azimuth]
            pixels = decode_png(files[file], 16, file)
            assert ((batch["targets"][row, view] * 255).round().permute(1, 2, 0).numpy() == pixels).all()


def test_the_cameras_of_a_batch_are_those_of_the_files(entries, samples):
    batch = draw(entries)
    for row, entry in enumerate(entries):
        record = json.loads(samples[entry.key]["cameras.json"])
        by_azimuth = {view["azimuth_deg"]: view["camera_to_world"] for view in record["views"]}
        written = torch.tensor([by_azimuth[azimuth] for azimuth in batch["azimuths_deg"][row].tolist()])
        angles = cameras.look_at_origin(
            batch["elevations_deg"][row], batch["azimuths_deg"][row], torch.tensor(1.0)
        )
        torch.testing.assert_close(
            cameras.camera_condition(written), cameras.camera_condition(angles), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("own", [0.0, 1.0])
def test_prompts_come_from_where_they_should(samples, entries, own, tmp_path):
    # all views red and all prompt views blue
    marked = {}
    for key, files in samples.items():
        marked[key] = dict(files)
        for name in files:
            if name.endswith(".png"):
                pixels = decode_png(files[name], None, name).copy()
                pixels[..., :3] = (255, 0, 0) if name.startswith("view") else (0, 0, 255)
                marked[key][name] = encode_png(pixels)
    write_tar(marked.items(), tmp_path / "shard.tar")
    found = index([tmp_path / "shard.tar"], [], examine_rendered, tmp_path)
    prompts = draw(found, replace(CONFIG, own_prompts=own))["prompts"]
    weight = prompts[:, 3:]
    mean = (prompts[:, :3] * weight).sum((2, 3)) / weight.sum((2, 3))
    expected = torch.tensor([[0.0, 0.0, 1.0]] if own else [[1.0, 0.0, 0.0]]).expand(6, 3)
    torch.testing.assert_close(mean, expected, atol=0.02, rtol=0)


def test_prompts_of_the_ring_are_of_the_front_half(samples, tmp_path):
    # only the views from -90 up to 90 (excluded) are visible: a prompt from elsewhere would be empty
    key, files = next(iter(samples.items()))
    files = dict(files)
    for view in json.loads(files["cameras.json"])["views"]:
        if 90 <= view["azimuth_deg"] < 270:
            files[view["file"]] = encode_png(np.zeros((16, 16, 4), np.uint8))
    write_tar([(key, files)], tmp_path / "shard.tar")
    found = index([tmp_path / "shard.tar"], [], examine_rendered, tmp_path)
    for step in range(8):
        prompt = draw(found, replace(CONFIG, own_prompts=0.0), step)["prompts"][0, 3] > 0.1
        rows, columns = prompt.any(1).nonzero(), prompt.any(0).nonzero()
        longest = max(int(rows[-1] - rows[0]), int(columns[-1] - columns[0])) + 1
        assert 0.8 * 16 - 2 <= longest <= 0.95 * 16 + 2


def test_a_sample_without_anything_to_see_is_named(samples, tmp_path):
    key, files = next(iter(samples.items()))
    empty = encode_png(np.zeros((16, 16, 4), np.uint8))
    files = {name: empty if name.startswith("view") else content for name, content in files.items()}
    write_tar([(key, files)], tmp_path / "shard.tar")
    found = index([tmp_path / "shard.tar"], [], examine_rendered, tmp_path)
    with pytest.raises(SampleError, match=f"sample {key}: nothing is to be seen in any of 4 prompt views"):
        draw(found, replace(CONFIG, own_prompts=0.0))


def test_damage_inside_a_picture_is_named(samples, tmp_path):
    key, files = next(iter(samples.items()))
    files = dict(files)
    for name in [name for name in files if name.endswith(".png")]:
        damaged = bytearray(files[name])
        damaged[len(damaged) // 2] ^= 0xFF
        files[name] = bytes(damaged)
    write_tar([(key, files)], tmp_path / "shard.tar")
    found = index([tmp_path / "shard.tar"], [], examine_rendered, tmp_path)
    with pytest.raises(
        SampleError, match=rf"shard\.tar: sample {key}: \w+\.png \(\d+ bytes\) cannot be decoded as PNG"
    ):
        draw(found)


def test_larger_views_are_reduced_and_smaller_ones_refused(entries):
    full, half = draw(entries), draw(entries, replace(CONFIG, image_size=8))
    assert half["prompts"].shape[-1] == 8
    alpha = torch.nn.functional.avg_pool2d(full["targets"].flatten(0, 1), 2)[:, 3]
    torch.testing.assert_close(half["targets"].flatten(0, 1)[:, 3], alpha)
    with pytest.raises(
        SampleError, match=r"views are 16 pixels wide, data\.rendered\.image_size 32 would enlarge"
    ):
        draw(entries, replace(CONFIG, image_size=32))


def test_suffix_of_captions():
    assert with_suffix("a car", ", 3d asset") == "a car, 3d asset"
    assert with_suffix("a 3D print", ", 3d asset") == "a 3D print"
    assert with_suffix("", ", 3d asset") == ""


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[key], other[key]) if isinstance(one[key], torch.Tensor) else one[key] == other[key]
        for key in one
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_the_step_alone(entries, workers):
    source = RenderedSamples(entries, CONFIG)
    expected = [StepBatches(source, 4, 1, 0).batch(step) for step in range(5)]
    for first in (0, 2):
        loader = iter(DataLoader(StepBatches(source, 4, 1, first), batch_size=None, num_workers=workers))
        for step in range(first, 5):
            batch = next(loader)
            assert batch["step"] == step
            assert same(batch, expected[step])
        del loader
    assert not same(expected[0], expected[3])


def test_processes_share_an_epoch(entries):
    source = RenderedSamples(entries, CONFIG)
    config = replace(CONFIG, own_prompts=0.0)
    source = RenderedSamples(entries, config)
    one = [StepBatches(source, 2, 1, 0, rank=rank, world_size=3).batch(0) for rank in range(3)]
    elevations = sorted(float(value) for batch in one for value in batch["elevations_deg"])
    assert len(set(elevations)) == 6  # each of the six rings once
    assert len({batch["step"] for batch in one}) == 3


def test_an_object_is_on_one_side_only():
    entries = [Entry("s", f"{name}_{ring}", name, 0, 0) for name in "abcd" for ring in (0, 1)]
    training, validation = hold_out(entries, 1)
    assert {entry.object for entry in validation} == {"d"}
    assert [len(training), len(validation)] == [6, 2]
    with pytest.raises(
        ValueError, match=r"hold 4 objects, of which data\.validation_objects 4 are kept apart"
    ):
        hold_out(entries, 4)
    assert hold_out(entries, 0) == (entries, entries)
    with pytest.raises(ValueError, match="of toys it must be at least 1"):
        DataConfig(validation_objects=0)


def test_data_module_serves_shards(entries, tmp_path):
    folder = entries[0].path
    config = DataConfig(
        rendered=RenderedConfig(folders=[folder], image_size=16),
        cache=str(tmp_path),
        validation_objects=1,
        batch_size=3,
        workers=1,
    )
    data = TrainingData(config, seed=0)
    data.prepare_data()
    data.setup()
    assert (len(data.training), len(data.validation)) == (4, 2)
    assert len(data.first_batches(2)) == 2
    (batch,) = data.val_dataloader()  # no more than there are
    assert batch["targets"].shape == (2, 4, 4, 16, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 2}, "image_size is 2"),
        ({"own_prompts": 1.5}, r"own_prompts is 1\.5"),
        ({"prompt_fraction": (0.9, 0.8)}, r"prompt_fraction is 0\.9 to 0\.8"),
    ],
)
def test_config_says_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        RenderedConfig(**settings)
