"""What `official.py` writes, from our classes: the same names, shapes and inputs."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from imagedream.cameras import camera_condition, look_at_origin, orthogonal_azimuths
from imagedream.distillation import image_prompt_score_distillation, score_distillation_sampling
from imagedream.model import Condition, predict_noise
from imagedream.pipeline import NEGATIVE_PROMPT, ImageDreamPipeline
from tests.parity import cases


def pixels_of(picture) -> Tensor:
    """A PIL picture as (channel, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def cameras() -> Tensor:
    """Of sampling: the official code counts azimuths from −y, ours from +x."""
    azimuths = orthogonal_azimuths(-90.0)
    return camera_condition(look_at_origin(torch.tensor(cases.ELEVATION_DEG), azimuths, torch.tensor(1.0)))


def conditions(pipeline: ImageDreamPipeline, size: cases.Size, pixel: bool) -> tuple[Condition, Condition]:
    """With the prompt on the background's mean grey, and without."""
    background = torch.full((3,), cases.GREY_LEVEL / 255)
    condition = pipeline.encode_condition(pixels_of(cases.prompt_picture(size)), cases.CAPTION, background)
    if not pixel:
        condition = replace(condition, prompt_latents=None)
    return condition, condition.without_image().with_text(
        pipeline.encoder.encode_text([cases.NEGATIVE_CAPTION])
    )


def encoder_outputs(pipeline: ImageDreamPipeline, size: cases.Size) -> dict[str, Tensor]:
    encoder, vae = pipeline.encoder, pipeline.vae
    pixels = pixels_of(cases.prompt_picture(size).convert("RGB"))[None]
    posterior = vae.encode(pixels * 2 - 1).latent_dist
    latents = cases.seeded("latents to decode", 1, 4, size.latent_size, size.latent_size)
    return {
        "cameras": cameras(),
        "negative_caption_ids": encoder.tokenize([NEGATIVE_PROMPT]),
        "text_tokens": encoder.encode_text([cases.CAPTION]),
        "image_resized": encoder.preprocess(pixels_of(cases.resized_picture(size))[None]),
        "latents_mean": pipeline.encode_images(pixels),
        "latents_std": posterior.std * vae.config.scaling_factor,
        "decoded": vae.decode(latents / vae.config.scaling_factor).sample,
    }


def network_output(pipeline: ImageDreamPipeline, size: cases.Size, adapter: str, pixel: bool) -> Tensor:
    given = cases.network_inputs(size, adapter)
    if not pixel:
        del given["prompt_latents"]
    return predict_noise(pipeline.unet, **given)


def sampled(pipeline: ImageDreamPipeline, size: cases.Size, pixel: bool) -> Tensor:
    latents = pipeline.denoise(
        *conditions(pipeline, size, pixel),
        cameras()[None],
        cases.sampling_noise(size),
        guidance_scale=cases.GUIDANCE_SCALE,
        num_inference_steps=size.sampling_steps,
    )
    return latents[0]


def distilled(
    pipeline: ImageDreamPipeline, size: cases.Size, pixel: bool, recon_loss: bool = True
) -> tuple[Tensor, Tensor]:
    given = cases.distillation_inputs(size, from_renders=pixel)
    values = given["values"].requires_grad_()
    latents = values
    if pixel:
        # renders are smaller than a view, where interpolation is the same with and without antialiasing
        pixels = torch.nn.functional.interpolate(values.permute(0, 3, 1, 2), size.image_size, mode="bilinear")
        latents = pipeline.encode_images(pixels)

    def grouped(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (cases.GROUPS, cases.VIEWS))

    distil = image_prompt_score_distillation if recon_loss else score_distillation_sampling
    result = distil(
        pipeline.unet,
        pipeline.scheduler,
        grouped(latents),
        grouped(camera_condition(given["c2w"])),
        *conditions(pipeline, size, pixel),
        timesteps=torch.full((cases.GROUPS,), cases.DISTILLATION_TIMESTEP),
        noise=grouped(given["noise"]),
        guidance_scale=cases.GUIDANCE_SCALE,
        **({"recon_std_rescale": cases.RECON_STD_RESCALE} if recon_loss else {}),
    )
    result.loss.backward()
    return result.loss.detach(), values.grad


def outputs(pipeline: ImageDreamPipeline, size: cases.Size, adapter: str) -> dict[str, Tensor]:
    """Everything `official.outputs` returns for this adapter."""
    pipeline.unet.unet.register_to_config(sample_size=size.latent_size)
    pipeline.set_progress_bar_config(disable=True)
    with torch.no_grad():
        picture = pixels_of(cases.prompt_picture(size).convert("RGB"))[None]
        found = {
            f"image_{adapter}": pipeline.image_features(picture),
            f"network_{adapter}": network_output(pipeline, size, adapter, False),
        }
        if adapter == "local":
            found |= encoder_outputs(pipeline, size)
            found["network_pixel"] = network_output(pipeline, size, adapter, True)
        name = "global" if adapter == "global" else "pixel"
        found[f"sampled_{name}"] = sampled(pipeline, size, pixel=adapter == "local")
    runs = {f"distilled_{adapter}": (False, True)}
    if adapter == "local":
        runs |= {"distilled_pixel": (True, True), "distilled_local_sds": (False, False)}
    for run, (pixel, recon_loss) in runs.items():
        found[f"{run}_loss"], found[f"{run}_gradient"] = distilled(pipeline, size, pixel, recon_loss)
    return found
