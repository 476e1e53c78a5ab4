"""What every pipeline of diffusers takes and gives, with groups of views in the place of images."""

import math
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from safetensors.torch import save_file

from imagedream.cameras import camera_condition, look_at_origin, orthogonal_azimuths
from imagedream.image_prompt.prompt import prepare_image_prompt
from imagedream.model import predict_noise
from imagedream.pipeline import make_sampler
from tests.tiny import tiny_pipeline

PIPELINE = tiny_pipeline()
PIXELS = np.zeros((40, 40, 4), np.uint8)
PIXELS[5:35, 10:30] = (250, 20, 30, 255)
RED = torch.zeros(4, 24, 24)
RED[[0, 3], 4:20, 8:16] = 1
GREEN = RED[[1, 0, 2, 3]]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def views(image=RED, prompt="a brick", *, seed=0, pipeline=PIPELINE, **options):
    given = {"num_inference_steps": 1, "generator": seeded(seed), "output_type": "pt", **options}
    return pipeline(image, prompt, **given)


def close(first, second):
    torch.testing.assert_close(first.images, second.images, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["path", "pil", "uint8", "float", "opaque tensor"])
def test_a_picture_may_come_in_any_form(kind, tmp_path):
    picture = PIL.Image.fromarray(PIXELS)
    if kind == "opaque tensor":
        white = PIL.Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture)
        given, picture = torch.from_numpy(np.array(white)).permute(2, 0, 1) / 255, white
    else:
        picture.save(tmp_path / "red.png")
        given = {
            "path": str(tmp_path / "red.png"),
            "pil": picture,
            "uint8": PIXELS,
            "float": PIXELS.astype(np.float32) / 255,
        }[kind]
    close(views(given), views(prepare_image_prompt(picture, 16)))


def test_every_type_of_output():
    pixels = views().images
    assert pixels.shape == (4, 3, 16, 16)
    pictures = PIPELINE(RED, "a brick", num_inference_steps=1, generator=seeded(0)).images  # "pil" by default
    assert [picture.size for picture in pictures] == [(16, 16)] * 4
    eight_bits = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.abs(np.stack([np.asarray(one) for one in pictures]).astype(int) - eight_bits).max() <= 1
    array = views(output_type="np").images
    np.testing.assert_allclose(array, pixels.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    latents = views(output_type="latent").images
    with torch.no_grad():
        torch.testing.assert_close(PIPELINE.decode_latents(latents), pixels)
    output = views()
    assert output[0] is output["images"] is output.images
    assert len(views(return_dict=False)) == 4
    torch.testing.assert_close(views(return_dict=False)[0], pixels)


def test_what_a_group_looks_like_does_not_depend_on_the_others():
    each = [
        views(picture, prompt, seed=seed)
        for seed, (picture, prompt) in enumerate(
            [(RED, "a brick"), (RED, "a brick"), (GREEN, "a leaf"), (GREEN, "a leaf")]
        )
    ]
    together = views(
        [RED, GREEN],
        ["a brick", "a leaf"],
        num_images_per_prompt=2,
        generator=[seeded(seed) for seed in range(4)],
    )
    assert together.images.shape == (16, 3, 16, 16)
    torch.testing.assert_close(together.images, torch.cat([one.images for one in each]), atol=1e-5, rtol=1e-4)
    assert together.azimuths_deg == (0, 90, 180, 270)
    # one value stands for all objects, and a tensor with one more axis is a list
    options = {"generator": [seeded(0), seeded(1)], "prompt": "a brick"}
    close(
        views(torch.stack([RED, GREEN]), **options, negative_prompt="grey"),
        views([RED, GREEN], **{**options, "generator": [seeded(0), seeded(1)]}, negative_prompt=["grey"] * 2),
    )


def test_any_number_of_cameras_each_with_its_elevation():
    azimuths, elevations = (0.0, 45.0, 200.0), (-10.0, 0.0, 30.0)
    output = views(azimuths_deg=azimuths, elevation_deg=elevations)
    assert output.images.shape == (3, 3, 16, 16)
    assert (output.azimuths_deg, output.elevations_deg) == (azimuths, elevations)
    for matrix, azimuth, elevation in zip(output.camera_to_world, azimuths, elevations, strict=True):
        expected = look_at_origin(torch.tensor(elevation), torch.tensor(azimuth), torch.tensor(1.0))
        torch.testing.assert_close(matrix, expected)
    assert views(azimuth_deg=20.0).azimuths_deg == (20.0, 110.0, 200.0, 290.0)
    four = [0.0, 90.0, 180.0, 270.0]
    close(views(azimuths_deg=four, elevation_deg=[5.0] * 4), views())
    assert len(views(azimuths_deg=[22.5 * number for number in range(16)]).images) == 16


def test_a_prediction_is_refined():
    """Written out by hand for a network that predicts v: x0 from the last level, noise up to a middle one, one step of DDIM."""
    draws = seeded(5)
    noise, fresh = (torch.randn(1, 4, 4, 4, 4, generator=draws) for _ in range(2))
    ours = views(seed=5, num_inference_steps=2, refine_strength=0.5, guidance_scale=1.0, output_type="latent")
    condition = PIPELINE.encode_condition(RED, "a brick", torch.ones(3))
    cameras = camera_condition(look_at_origin(torch.tensor(5.0), orthogonal_azimuths(), torch.tensor(1.0)))[
        None
    ]

    def original(noisy, timestep):
        alpha_bar = PIPELINE.scheduler.alphas_cumprod[timestep]
        v = predict_noise(PIPELINE.unet, noisy, torch.tensor([timestep]), cameras, *condition.inputs)
        return alpha_bar.sqrt() * noisy - (1 - alpha_bar).sqrt() * v

    with torch.no_grad():
        predicted = original(noise, 999)
        (middle,) = [int(one) for one in PIPELINE.scheduler.timesteps[-1:]]
        alpha_bar, first = (PIPELINE.scheduler.alphas_cumprod[level] for level in (middle, 0))
        noised = alpha_bar.sqrt() * predicted + (1 - alpha_bar).sqrt() * fresh
        refined = original(noised, middle)
        remaining = (noised - alpha_bar.sqrt() * refined) / (1 - alpha_bar).sqrt()
        refined = first.sqrt() * refined + (1 - first).sqrt() * remaining  # DDIM ends at the first level
    torch.testing.assert_close(ours.images.view(refined.shape), refined, atol=1e-4, rtol=1e-4)
    mean = views(seed=5, refine_strength=0.0, guidance_scale=1.0, output_type="latent").images
    torch.testing.assert_close(mean.view(predicted.shape), predicted, atol=1e-4, rtol=1e-4)
    predicting = {"num_inference_steps": 3, "refine_strength": 0.01}  # one step at least is left
    assert torch.isfinite(views(**predicting).images).all()


# diffusers' DPM-Solver makes numpy arrays of tensors in a way that numpy 2 frowns upon
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_noise_timesteps_and_eta():
    noise = torch.randn(1, 4, 4, 4, 4, generator=seeded(0))
    close(views(latents=noise[0]), views())
    plain = views(num_inference_steps=3)
    assert (views(num_inference_steps=3, eta=1.0).images - plain.images).abs().max() > 1e-4
    fast = tiny_pipeline()
    fast.register_modules(scheduler=make_sampler("dpm", fast.scheduler))
    seen = []
    views(
        pipeline=fast,
        timesteps=[900, 500, 100],
        callback_on_step_end=lambda pipe, step, timestep, given: seen.append((step, int(timestep))),
    )
    assert seen == [(0, 900), (1, 500), (2, 100)]
    with pytest.raises(ValueError, match="timesteps are given, but DDIMScheduler chooses its own"):
        views(timesteps=[900, 500])
    with pytest.raises(ValueError, match=r"eta is 0\.5, but DPMSolverMultistepScheduler has none"):
        views(pipeline=fast, eta=0.5)


def test_a_callback_sees_and_changes_the_latents_and_can_stop():
    steps = []

    def replace_last(pipe, step, timestep, given):
        steps.append(step)
        assert pipe.num_timesteps == 3
        return {"latents": torch.zeros_like(given["latents"])} if step == 2 else given

    ended = views(num_inference_steps=3, output_type="latent", callback_on_step_end=replace_last)
    assert steps == [0, 1, 2]
    assert not ended.images.any()

    class Stop(PipelineCallback):
        tensor_inputs: ClassVar = ["latents"]

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            steps.append(step_index)
            pipeline._interrupt = step_index == 1
            return callback_kwargs

    steps.clear()
    views(num_inference_steps=5, callback_on_step_end=Stop(cutoff_step_ratio=None, cutoff_step_index=0))
    assert steps == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 512}, "height is 512, but this model makes views of 16 x 16 pixels only"),
        ({"width": 8, "height": 16}, "width is 8"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0, must be a whole number of at least 1"),
        ({"num_inference_steps": 1001}, "is 1001, must be a whole number of at least 1, up to 1,000"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"elevation_deg": 90.0}, "elevation_deg is 90.0"),
        ({"refine_strength": -0.1}, "refine_strength is -0.1, must be a number of at least 0, up to 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"num_inference_steps": True}, "num_inference_steps is True"),
        ({"eta": 1.5}, "eta is 1.5, must be a number of at least 0, up to 1"),
        ({"output_type": "jpg"}, "output_type is 'jpg', must be one of pil, np, pt, latent"),
        ({"generator": [seeded(0)] * 3}, "generator is a list of 3, must be one for each of 1 groups"),
        ({"latents": torch.zeros(3, 4, 4, 4)}, r"latents are \(3, 4, 4, 4\), must be \(4, 4, 4, 4\)"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c"]}, "prompt has 2, negative_prompt has 1: lists must"),
        ({"image": []}, "image has 0: lists must be equally long"),
        ({"image": [RED, GREEN], "back": RED}, "are of one object, but there are 2"),
        ({"timesteps": [5, 900]}, r"timesteps are \[5, 900\], must descend and lie between 0 and 999"),
        ({"timesteps": [1000]}, "must descend and lie between 0 and 999"),
        ({"azimuths_deg": []}, "must be angles in degrees, at least one"),
        ({"azimuths_deg": [0.0, float("inf")]}, "must be angles in degrees, at least one"),
        ({"azimuths_deg": [0.0], "azimuth_deg": 3.0}, "azimuth_deg is 3.0, but azimuths_deg is given too"),
        ({"elevation_deg": [1.0, 2.0]}, "2 elevations for 4 cameras"),
        ({"background": (2.0, 0.0, 0.0)}, "background is"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "allowed is"),
        ({"image": torch.full((3, 8, 8), 7.0)}, r"pixels from 7 to 7, must lie in \[0, 1\]"),
        ({"image": torch.full((4, 8, 8), math.nan)}, r"pixels from nan to nan, must lie in \[0, 1\]"),
        ({"image": torch.zeros(4, 8, 8)}, "no object found: every pixel is transparent"),
        ({"image": torch.full((4, 8, 8), 300)}, "pixels are int64, must be uint8 or floating"),
        ({"image": np.zeros((8, 8, 5), np.uint8)}, "must be height x width with 1, 3 or 4 channels"),
        ({"image": np.zeros((8, 8, 3), np.int64)}, "pixels are int64, must be uint8 or floating"),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises((ValueError, TypeError), match=message) as error:
        views(**options)
    assert "\n" not in str(error.value)


def test_prompts_are_text():
    with pytest.raises(TypeError, match="prompt and negative_prompt must be text, got int 3"):
        PIPELINE.check_inputs(["a ball", 3])


def test_a_saved_folder_is_found_by_diffusers_itself(tmp_path):
    PIPELINE.save_pretrained(tmp_path / "model")
    loaded = DiffusionPipeline.from_pretrained(
        str(tmp_path / "model"), custom_pipeline=str(tmp_path / "model"), trust_remote_code=True
    )
    assert type(loaded) is type(PIPELINE)
    loaded.set_progress_bar_config(disable=True)
    close(views(pipeline=loaded), views())


def test_an_adapter_is_merged_and_taken_out_again(tmp_path):
    pipeline = tiny_pipeline()
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = pipeline.unet.unet.get_submodule(name).weight
    before, width = weight.clone(), len(weight)
    pair = {f"{name}.lora_A.weight": torch.ones(1, width), f"{name}.lora_B.weight": torch.ones(width, 1)}
    save_file(pair, tmp_path / "adapter.safetensors")
    for wrong in (math.nan, -math.inf):
        with pytest.raises(ValueError, match=f"adapter_scale is {wrong}, must be a number"):
            pipeline.load_lora_weights(tmp_path / "adapter.safetensors", adapter_scale=wrong)
    pipeline.load_lora_weights(tmp_path / "adapter.safetensors", adapter_scale=0.5)
    torch.testing.assert_close(weight, before + 0.5)
    pipeline.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors", adapter_scale=-0.5)
    torch.testing.assert_close(weight, before)


def test_offloaded_models_come_when_they_are_called():
    """What `enable_model_cpu_offload` hooks in, which itself wants an accelerator: each call fetches its model first."""
    pipeline, fetched = tiny_pipeline(), []
    for name in pipeline.model_cpu_offload_seq.split("->"):

        class Fetch(ModelHook):
            def pre_forward(self, module, *args, _name=name, **kwargs):
                fetched.append(_name)
                return args, kwargs

        add_hook_to_module(getattr(pipeline, name), Fetch())
    close(views(pipeline=pipeline), views())
    assert list(dict.fromkeys(fetched)) == [
        "encoder",
        "vae",
        "unet",
    ]  # the prompt's latents come before the network
    assert fetched[-1] == "vae"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_offloaded_models_give_the_same_views():
    pipeline = tiny_pipeline()
    pipeline.enable_model_cpu_offload()
    for _ in range(2):
        offloaded = views(pipeline=pipeline)
        torch.testing.assert_close(offloaded.images.cpu(), views().images, rtol=1e-2, atol=1e-3)
        assert {part.device.type for part in (pipeline.unet, pipeline.vae, pipeline.encoder)} == {"cpu"}


def test_the_suffix_of_the_training_is_added_once_and_said(caplog):
    pipeline = tiny_pipeline()
    pipeline.register_to_config(prompt_suffix=", 3d asset")
    caplog.set_level("INFO", "imagedream")
    close(views(prompt="a brick", pipeline=pipeline), views(prompt="a brick, 3d asset"))
    assert "the prompt as the model reads it: a brick, 3d asset" in caplog.text
    caplog.clear()
    for typed in ("a brick, 3D asset", ""):
        close(views(prompt=typed, pipeline=pipeline), views(prompt=typed))
    close(views(prompt="a brick", pipeline=pipeline, prompt_suffix=""), views(prompt="a brick"))
    assert not caplog.text
