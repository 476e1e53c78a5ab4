"""Presets: their sums are counted again from the full-size model, and they only ever lower a config."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from imagedream import presets
from imagedream.model import predict_noise
from imagedream.offloading import MemoryOptions
from imagedream.presets import GIB, PRESETS, DeviceMemory, choose_preset, overrides, preset_settings
from imagedream.workshop.training.architectures import published_architecture
from imagedream.workshop.training.memory import fake_pipeline, footprint
from threestudio.utils.config import load_config

ROOT = Path(__file__).parents[1]


def config(name="imagedream.yaml", *extra):
    given = [
        "system.prompt_processor.image_path=a.png",
        "use_timestamp=false",
        "exp_root_dir=/tmp/unused",
        *extra,
    ]
    return load_config(str(ROOT / "configs" / name), cli_args=given)


@pytest.fixture(scope="module")
def counted():
    """Bytes of the full-size model in half precision."""
    half = torch.float16
    with fake_pipeline(published_architecture(), half) as pipeline:
        models = {"unet": pipeline.unet, "vae": pipeline.vae, "encoder": pipeline.encoder}
        result = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
        shapes = ((1, 4, 4, 32, 32), (1, 4, 16), (1, 77, 1024), (1, 257, 1280), (1, 1, 4, 32, 32))
        noisy, *condition = (torch.empty(shape, dtype=half) for shape in shapes)
        with torch.no_grad():
            run = footprint(lambda: predict_noise(pipeline.unet, noisy, torch.tensor([1]), *condition))
            decode = footprint(lambda: pipeline.decode_latents(torch.empty(1, 4, 32, 32, dtype=half)))
        result["network"], result["decoding"] = run.peak_bytes, decode.peak_bytes

        def encoding(images):
            pixels = torch.empty(images, 3, 256, 256, requires_grad=True)
            kept = footprint(lambda: pipeline.encode_images(pixels)).kept_bytes
            return kept, footprint(lambda: pipeline.encode_images(pixels).sum().backward()).peak_bytes

        result["plain"] = encoding(4)
        pipeline.vae.enable_slicing()
        pipeline.vae.enable_gradient_checkpointing()
        result["lean"] = encoding(4)

        clip = pipeline.encoder.clip
        in_blocks = {id(p) for tower in (clip, clip.visual) for p in tower.transformer.resblocks.parameters()}
        text = [(name, p) for name, p in clip.named_parameters() if not name.startswith("visual.")]
        result["text"] = 2 * sum(p.numel() for _, p in text if id(p) not in in_blocks)
        result["text"] += 2 * sum(p.numel() for p in clip.transformer.resblocks[0].parameters())
    return result


def test_the_sums_are_those_of_the_model(counted):
    assert counted["unet"] == presets.UNET_PARAMETERS
    assert counted["vae"] == presets.VAE_PARAMETERS
    assert counted["encoder"] == presets.ENCODER_PARAMETERS
    assert counted["network"] == pytest.approx(presets.NETWORK_BYTES_PER_GROUP, rel=0.02)
    assert counted["decoding"] == pytest.approx(presets.DECODING_BYTES_PER_IMAGE, rel=0.02)
    assert counted["text"] == pytest.approx(presets.OFFLOADED_TOWER_BYTES, rel=0.02)
    for mode, preset in (("plain", PRESETS["24g"]), ("lean", PRESETS["8g"])):
        assert counted[mode] == pytest.approx(preset.encoding_bytes(4), rel=0.03)


@pytest.mark.parametrize("host", ["embedded", "threestudio"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_lowers_and_fits(name, host):
    preset, cfg = PRESETS[name], config()
    settings = preset_settings(preset, cfg, host)
    chosen = config("imagedream.yaml", *overrides(settings))  # they are valid overrides
    rays = []
    for key in ("batch_size", "height", "width"):
        assert all(new <= old for new, old in zip(chosen.data[key], cfg.data[key], strict=True))
    for images, height, width in zip(
        chosen.data.batch_size, chosen.data.height, chosen.data.width, strict=True
    ):
        samples = images * height * width * chosen.system.renderer.num_samples_per_ray * 65 / 512
        needed = samples * presets.BYTES_PER_SAMPLE[host] + preset.weight_bytes + 1.2 * GIB
        needed += preset.network_bytes(images // 4) + preset.encoding_bytes(images)[0]
        assert needed <= 0.9 * preset.card_gib * GIB
        rays.append(images * height * width)
        assert images % cfg.data.n_view == 0
    MemoryOptions(**chosen.system.guidance.memory)


def test_larger_cards_get_no_less():
    cfg = config()
    for host in ("embedded", "threestudio"):
        samples = []
        for preset in PRESETS.values():
            chosen = config("imagedream.yaml", *overrides(preset_settings(preset, cfg, host)))
            stage = chosen.data.batch_size[-1] * chosen.data.height[-1] * chosen.data.width[-1]
            samples.append(stage * chosen.system.renderer.num_samples_per_ray)
        assert samples == sorted(samples)


def test_the_paper_run_stays_as_it_is_in_threestudio_on_80_gb():
    settings = preset_settings(PRESETS["80g"], config(), "threestudio")
    assert all(key.startswith("system.guidance.") for key in settings)
    assert settings["system.guidance.memory.encoder"] == "keep"


def test_a_small_config_keeps_its_sizes():
    for preset in PRESETS.values():
        settings = preset_settings(preset, config("imagedream-toybox.yaml"), "embedded")
        assert all(key.startswith("system.guidance.") for key in settings)


@pytest.mark.parametrize(
    ("free_gib", "name"),
    [(7.3, "8g"), (10.9, "12g"), (15.8, "16g"), (23.5, "24g"), (39, "40g"), (139, "80g")],
)
def test_auto_takes_the_largest_that_fits(free_gib, name):
    preset, reason = choose_preset(DeviceMemory("Some GPU", int(free_gib * GIB), int(1.1 * free_gib * GIB)))
    assert preset.name == name
    assert f"{free_gib:.1f} of" in reason
    assert "Some GPU" in reason


def test_a_device_can_be_too_small():
    with pytest.raises(ValueError, match=r"6.0 of 6.0 GiB .* 8g, needs 7.2 GiB"):
        choose_preset(DeviceMemory("Some GPU", 6 * GIB, 6 * GIB))


def test_sampling_needs_the_files_and_a_little_more():
    assert presets.published_bytes(4) / 1e9 == pytest.approx(8.05 + 0.8, abs=0.05)


def test_other_systems_have_no_presets():
    cfg = OmegaConf.create({"data_type": "random-camera-datamodule", "system": {"guidance_type": "other"}})
    with pytest.raises(ValueError, match="this config has random-camera-datamodule and other"):
        preset_settings(PRESETS["8g"], cfg, "embedded")


@pytest.mark.slow
def test_renders_of_a_step_need_what_the_sum_says():
    """The embedded host's bytes of a sample, counted on the field that every object starts as."""
    import threestudio
    from tests.extension.conftest import NAME

    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, ROOT / "custom" / NAME / "__init__.py")
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    from imagedream.cameras import orthogonal_azimuths

    torch.manual_seed(0)
    system = threestudio.find("imagedream-system")(config().system).train()
    for step in range(17):  # the occupancy grid is updated every 16 steps
        system.do_update_step(0, step)
    camera_batch = sys.modules[f"{NAME}.data"].camera_batch
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

        return footprint(step).peak_bytes, samples[0]

    (few_bytes, few), (bytes_, many) = render(6), render(12)
    assert many / (4 * 12 * 12 * 512) == pytest.approx(presets.SAMPLES_THAT_COUNT, rel=0.1)
    # the difference, because the gradient of the grid is the same for all
    bytes_per_sample = (bytes_ - few_bytes) / (many - few)
    assert bytes_per_sample == pytest.approx(presets.BYTES_PER_SAMPLE["embedded"], rel=0.15)
