"""The presets that ship: what they set, and that they fit in the memory they are made for, counted on the full-size model."""

from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
import threestudio.utils.config  # configs use its resolvers
from benchmarks.random_weights import fake_pipeline
from imagedream.cameras import orthogonal_azimuths
from imagedream.cli import doctor
from imagedream.memory_options import MemoryOptions
from imagedream.model import predict_noise
from imagedream.runs.settings import (
    GIB,
    apply_presets,
    choose,
    cuda_memory,
    flatten,
    read_presets,
    read_with_bases,
)
from imagedream.workshop.training.architectures import published_architecture
from imagedream.workshop.training.memory import memory_use

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
PRESETS = read_presets(CONFIGS / "presets")
CARDS = ("8g", "12g", "16g", "24g", "40g", "80g")
HOSTS = ("embedded", "threestudio")

SAMPLES_LEFT = 0.13
BYTES_PER_SAMPLE = {"embedded": 15_100, "threestudio": 2_500}
"""As configs/presets/16g.yaml says; the second is assumed."""
FIELD_BYTES = 4 * 4 * 12_600_000
"""The hash grid in single precision: weights, gradient, two moments."""


@cache
def files(name):
    """A config and its bases."""
    return read_with_bases(CONFIGS / f"{name}.yaml")


@cache
def config(name="imagedream", *presets, host="embedded"):
    """A config that is changed by presets; to be read only."""
    found, _ = apply_presets(files(name), presets, PRESETS, host, "0")
    given = [
        f"system.prompt_processor.{key}=a.png" for key in ("image_path", "front_path", "back_path", "prompt")
    ]
    found.merge_with_dotlist(given)
    OmegaConf.resolve(found)
    return found


def test_default_and_paper_change_nothing_in_the_papers_run():
    assert config("imagedream", "default") == config("imagedream", "paper") == config()
    assert config("imagedream-toybox", "default") == config("imagedream-toybox")


def test_a_preview_of_the_papers_run_stays_at_the_first_resolution():
    chosen = config("imagedream", "preview")
    assert chosen.trainer.max_steps == chosen.checkpoint.every_n_train_steps == 4167
    assert set(chosen.data.height) | set(chosen.data.width) == {64}
    assert set(chosen.data.batch_size) == {4}
    assert chosen.system.material.ambient_only_steps == 1667


@pytest.mark.parametrize("preset", ["preview", "paper"])
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_all_schedules_are_stretched_as_the_steps_are(path, preset):
    if path.stem == "imagedream-refine":
        with pytest.raises(ValueError, match=f"--preset {preset} is for .* not imagedream-refine"):
            config(path.stem, preset)
        return
    before, after = config(path.stem), config(path.stem, preset)
    ratio = after.trainer.max_steps / before.trainer.max_steps
    then, now = (flatten(OmegaConf.to_container(part.system)) for part in (before, after))
    schedules = [
        key
        for key, value in then.items()
        if isinstance(value, list) and len(value) == 4 and isinstance(value[-1], int) and value[-1] > 1
    ]
    assert "guidance.min_step_percent" in schedules
    for key in schedules:
        begin, v0, v1, end = then[key]
        assert now[key] == pytest.approx([begin * ratio, v0, v1, end * ratio], abs=0.7), key


@pytest.fixture(scope="module")
def counted():
    """Bytes of the full-size model in half precision, and its parameters."""
    half = torch.float16
    with fake_pipeline(published_architecture(), half) as pipeline:
        models = {"unet": pipeline.unet, "vae": pipeline.vae, "encoder": pipeline.encoder}
        result = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
        shapes = ((1, 4, 4, 32, 32), (1, 4, 16), (1, 77, 1024), (1, 257, 1280), (1, 1, 4, 32, 32))
        noisy, *condition = (torch.empty(shape, dtype=half) for shape in shapes)
        with torch.no_grad():
            run = memory_use(lambda: predict_noise(pipeline.unet, noisy, torch.tensor([1]), *condition))
            decode = memory_use(lambda: pipeline.decode_latents(torch.empty(1, 4, 32, 32, dtype=half)))
        result["network"], result["decoding"] = run.peak_bytes, decode.peak_bytes

        def encoding():
            pixels = torch.empty(1, 3, 256, 256, requires_grad=True)
            kept = memory_use(lambda: pipeline.encode_images(pixels)).kept_bytes
            return kept, memory_use(lambda: pipeline.encode_images(pixels).sum().backward()).peak_bytes

        result["encoding"] = {"plain": encoding()}
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_gradient_checkpointing()
        result["encoding"]["lean"] = encoding()

        clip = pipeline.encoder.clip
        in_blocks = {id(p) for part in (clip, clip.visual) for p in part.transformer.resblocks.parameters()}
        text = [(name, p) for name, p in clip.named_parameters() if not name.startswith("visual.")]
        result["text"] = sum(p.numel() for _, p in text if id(p) not in in_blocks)
        result["text"] += sum(p.numel() for p in clip.transformer.resblocks[0].parameters())
    return result


@pytest.mark.slow
def test_what_the_doctor_says_of_the_published_model(counted):
    parameters = counted["unet"] + counted["vae"] + counted["encoder"]
    assert parameters == doctor.PUBLISHED_PARAMETERS
    assert counted["decoding"] * 4 / 2 == pytest.approx(doctor.PUBLISHED_DECODING_NUMBERS, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", CARDS)
def test_a_cards_preset_fits(counted, name, host):
    chosen = config("imagedream", name, host=host)
    options = MemoryOptions(**chosen.system.guidance.memory)
    on_device = counted["encoder"] if options.encoder == "keep" else counted["text"]
    weights = 2 * (counted["unet"] + counted["vae"] + on_device)
    assert f"{weights / GIB:.1f} GiB of weights" in PRESETS[name].about
    samples = chosen.system.renderer.num_samples_per_ray
    stages = zip(chosen.data.batch_size, chosen.data.height, chosen.data.width, strict=True)
    for images, height, width in stages:
        groups = images // chosen.data.n_view
        kept_of_one, peak_of_one = counted["encoding"]["lean" if options.vae_slicing else "plain"]
        kept = images * kept_of_one
        peak = kept + peak_of_one - kept_of_one  # one image at a time is computed again
        calls = min(2 * groups, chosen.system.guidance.get("groups_per_call", 2 * groups))
        render = images * height * width * samples * SAMPLES_LEFT * BYTES_PER_SAMPLE[host]
        needed = weights + FIELD_BYTES + GIB + render + max(kept + calls * counted["network"], peak)
        assert needed / GIB <= PRESETS[name].auto["imagedream"]["cuda"] * 1.005
    assert PRESETS[name].auto["imagedream"]["cuda"] == pytest.approx(0.9 * int(name.removesuffix("g")))


def test_larger_cards_get_no_less_and_none_more_than_is_asked_for():
    asked = config()
    for host in HOSTS:
        samples = []
        for name in CARDS:
            chosen = config("imagedream", name, host=host)
            assert chosen.system.renderer.num_samples_per_ray <= asked.system.renderer.num_samples_per_ray
            for key in ("batch_size", "height", "width"):
                assert all(map(int.__le__, chosen.data[key], asked.data[key])), (name, key)
            assert not any(images % asked.data.n_view for images in chosen.data.batch_size)
            stage = chosen.data.batch_size[-1] * chosen.data.height[-1] * chosen.data.width[-1]
            samples.append(stage * chosen.system.renderer.num_samples_per_ray)
        assert samples == sorted(samples)


def test_the_small_model_is_small_everywhere():
    for name in CARDS:
        assert config("imagedream-toybox", name) == config("imagedream-toybox")


@pytest.mark.parametrize(
    ("free_gib", "name"),
    [(7.3, "8g"), (10.9, "12g"), (15.8, "16g"), (23.5, "24g"), (39, "40g"), (139, "80g")],
)
def test_auto_on_cuda(free_gib, name):
    memory = cuda_memory("Some GPU", int(free_gib * GIB), int(1.1 * free_gib * GIB))
    assert choose(PRESETS, ["imagedream", "imagedream-zero123"], memory)[0] == name
    assert choose(PRESETS, ["imagedream-toybox"], memory)[0] == "default"


@pytest.mark.slow
def test_renders_of_a_step_need_what_the_sum_says(extension):
    """The embedded host's bytes of a sample, counted on the field that every object starts as."""
    torch.manual_seed(0)
    system = threestudio.find("imagedream-system")(config().system).train()
    for step in range(17):  # the occupancy grid is updated every 16 steps
        system.do_update_step(0, step)
    camera_batch = import_module("threestudio-imagedream.data").camera_batch
    ones = torch.ones(4)

    def render(side):
        """Samples of a step, and its peak."""
        batch = camera_batch(
            5 * ones, orthogonal_azimuths(torch.tensor(0.0)), 0.7 * ones, 47.5 * ones, side, side
        )
        samples = []

        def step():
            out = system.renderer(**batch)
            samples.append(len(out["weights"]))
            system.zero_grad(set_to_none=True)
            (out["comp_rgb"].sum() + out["normal"].square().sum()).backward()

        return memory_use(step).peak_bytes, samples[0]

    (few_bytes, few), (bytes_, many) = render(6), render(12)
    assert many / (4 * 12 * 12 * 512) == pytest.approx(SAMPLES_LEFT, rel=0.1)
    # the difference, because the gradient of the grid is the same for all
    bytes_per_sample = (bytes_ - few_bytes) / (many - few)
    assert bytes_per_sample == pytest.approx(BYTES_PER_SAMPLE["embedded"], rel=0.15)
