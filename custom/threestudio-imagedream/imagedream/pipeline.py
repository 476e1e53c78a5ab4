"""Picture + caption -> four views of the object (paper §3; released sampler settings: DDIM, 50 steps, guidance 5)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from imagedream.cameras import camera_condition, check_angles, look_at_origin, orthogonal_azimuths
from imagedream.controller_weights import AS_TRAINED, ControllerWeights
from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE, angle_bias, with_azimuths
from imagedream.image_prompt.prompt import ImagePrompt, load_image_prompt
from imagedream.model import Condition, MultiViewUNet, concatenate_conditions, predict_noise
from imagedream.pictures import composite

logger = logging.getLogger(__name__)

NEGATIVE_CAPTION = (
    "uniform low no texture ugly, boring, bad anatomy, blurry, pixelated, obscure, unnatural colors, poor lighting, "
    "dull, and unclear."
)
"""The released sampler's negative caption, for the published networks; to one that saw none such it is noise."""

PAPER_GUIDANCE_SCALE = 5.0

WHITE = (1.0, 1.0, 1.0)

Sampler = Literal["ddim", "dpm"]
"""`ddim` is the paper's; `dpm` is DPM-Solver++ of second order (Lu et al. 2022), which needs fewer steps."""

DEFAULT_STEPS: dict[Sampler, int] = {"ddim": 50, "dpm": 20}


def make_sampler(name: Sampler, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A sampler with the noise schedule and the parametrisation of a model's scheduler, which stays as it is."""
    return {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}[name].from_config(scheduler.config)


@dataclass(frozen=True)
class ImageDreamOutput:
    """Four views and where they were seen from."""

    images: Float[Tensor, "view 3 height width"]
    """Pixels in [0, 1]."""
    camera_to_world: Float[Tensor, "view 4 4"]
    """Camera matrices on the unit sphere: the network is told of no distance."""
    azimuths_deg: tuple[float, ...]
    elevation_deg: float


class ImageDreamPipeline(DiffusionPipeline):
    """The whole model; `from_pretrained` and `save_pretrained` as for any diffusers pipeline.

    Args:
        unet: multi-view network with its image controllers.
        vae: autoencoder of the views and the prompt.
        encoder: CLIP text and image encoder (OpenCLIP).
        scheduler: noise schedule, parametrisation and sampler.
        guidance_scale: strength of guidance that suits this network, saved in `model_index.json`; calls that name none
            use it.
        negative_caption: likewise, what guidance moves away from; a network of this project's trainer knows "no caption"
            as an empty one.
    """

    def __init__(
        self,
        unet: MultiViewUNet,
        vae: AutoencoderKL,
        encoder: ImageTextEncoder,
        scheduler: SchedulerMixin,
        guidance_scale: float = PAPER_GUIDANCE_SCALE,
        negative_caption: str = NEGATIVE_CAPTION,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, vae=vae, encoder=encoder, scheduler=scheduler)
        self.register_to_config(guidance_scale=guidance_scale, negative_caption=negative_caption)

    free_encoder = False
    """Whether a call gives the encoder's memory back when it has encoded its prompt, see `MemoryOptions.encoder`."""

    @property
    def device(self) -> torch.device:
        """Where the network is; the encoder may wait elsewhere."""
        return self.unet.device

    @property
    def latent_size(self) -> int:
        """Side of a view's latents."""
        return self.unet.latent_shape[-1]

    @property
    def image_size(self) -> int:
        """Side of a view in pixels."""
        return self.latent_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch c h w"]:
        """Pixels in [0, 1] -> scaled latents: the posterior's mode, so nothing random; differentiable."""
        latents = self.vae.encode(pixels.to(self.vae.dtype) * 2 - 1).latent_dist.mode()
        return latents * self.vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch 3 height width"]:
        """Scaled latents -> pixels in [0, 1]."""
        pixels = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1)

    def image_features(self, pixels: Float[Tensor, "batch 3 height width"]) -> Tensor | None:
        """What this model's controllers read off pictures: hidden states (local, pixel), the embedding (global), or None."""
        if not self.unet.uses_image_tokens:
            return None
        features = self.encoder.encode_image(pixels)
        return features.embedding if self.unet.config.controllers == "global" else features.hidden

    @torch.no_grad()
    def encode_condition(
        self,
        prompt: Float[Tensor, "*prompt 4 height width"] | Sequence[Float[Tensor, "4 _ _"]] | None,
        caption: str,
        background: Float[Tensor, " 3"],
    ) -> Condition:
        """The condition of one group of views.

        Args:
            prompt: RGBA prompt with straight alpha in [0, 1], or several of them; None for no image prompt.
            caption: what the object is; may be empty.
            background: RGB in [0, 1], the colour behind the views that will be made.

        Returns:
            Image features with a prompt axis where there are several prompts, as `predict_noise` takes them.
        """
        if prompt is None:
            prompts = []
        else:
            prompts = [prompt] if isinstance(prompt, Tensor) and prompt.ndim == 3 else list(prompt)
        self.check_reads(prompts)
        text_tokens = self.encoder.encode_text([caption]).to(self.unet.dtype)
        if not self.unet.reads_images:
            return Condition(text_tokens)
        plain = background.to(self.device)[None, :, None, None].expand(1, 3, self.image_size, self.image_size)
        pictures = [composite(one.to(self.device), background.to(self.device))[None] for one in prompts]
        condition = self._of_pictures(text_tokens, pictures or [plain])
        if self.unet.config.no_image == "plain":
            nothing = self._of_pictures(text_tokens, [plain] * max(len(pictures), 1))
            condition = replace(
                condition, plain_features=nothing.image_features, plain_latents=nothing.prompt_latents
            )
        return condition if prompts else condition.without_image()

    def _of_pictures(
        self,
        text_tokens: Float[Tensor, "1 token width"],
        pictures: Sequence[Float[Tensor, "1 3 _ _"]],
    ) -> Condition:
        """The condition of one group, for pictures as they are."""
        features, latents = None, None
        if self.unet.uses_image_tokens:
            each = [self.image_features(picture).to(self.unet.dtype) for picture in pictures]
            features = torch.stack(each, 1) if len(each) > 1 else each[0]
        if self.unet.uses_prompt_frame:
            latents = torch.stack([self.encode_images(self._resize(one)) for one in pictures], dim=1)
            latents = latents.to(self.unet.dtype)
        return Condition(text_tokens, features, latents)

    def _resize(self, pixels: Float[Tensor, "1 3 _ _"]) -> Float[Tensor, "1 3 size size"]:
        """Pixels of the size of a view."""
        size = (self.image_size, self.image_size)
        if pixels.shape[-2:] == size:
            return pixels
        return interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)

    def check_reads(self, images: Sequence[Any]) -> None:
        """Raise ValueError for pictures given to a model that reads captions only."""
        if images and not self.unet.reads_images:
            raise ValueError("this model reads captions only (controllers: none), but a picture was given")

    def check_inputs(
        self,
        caption: Any,
        negative_caption: Any,
        guidance_scale: float,
        num_inference_steps: int,
        elevation_deg: float,
    ) -> None:
        """Raise TypeError or ValueError for what `__call__` cannot take."""
        for name, text in (("caption", caption), ("negative_caption", negative_caption)):
            if not isinstance(text, str):
                raise TypeError(f"{name} must be text, got {type(text).__name__} {text!r}")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale is {guidance_scale}, must be at least 0 (1 means no guidance)")
        if num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {num_inference_steps}, must be at least 1")
        check_angles(elevation_deg)

    def denoise(
        self,
        condition: Condition,
        unconditional: Condition,
        cameras: Float[Tensor, "group view 16"],
        latents: Float[Tensor, "group view c h w"],
        guidance_scale: float,
        num_inference_steps: int,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "group view c h w"]:
        """The sampling loop: noise to latents with classifier-free guidance."""
        groups = latents.shape[0]
        guided = guidance_scale != 1
        both = concatenate_conditions([condition, unconditional]) if guided else condition
        repeats = 2 if guided else 1
        self.scheduler.set_timesteps(num_inference_steps, device=latents.device)
        latents = latents * self.scheduler.init_noise_sigma
        with self.progress_bar(total=num_inference_steps) as progress:
            for timestep in self.scheduler.timesteps:
                scaled = self.scheduler.scale_model_input(latents, timestep)
                output = predict_noise(
                    self.unet,
                    scaled.repeat(repeats, 1, 1, 1, 1),
                    timestep.expand(groups * repeats),
                    cameras.repeat(repeats, 1, 1),
                    *both.inputs,
                )
                if guided:
                    with_condition, without = output.chunk(2)
                    output = without + guidance_scale * (with_condition - without)
                latents = self.scheduler.step(output, timestep, latents, generator=generator).prev_sample
                progress.update()
        return latents

    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
        caption: str = "",
        negative_caption: str | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int = 50,
        elevation_deg: float = 5.0,
        azimuth_deg: float = 0.0,
        generator: torch.Generator | None = None,
        background: tuple[float, float, float] = WHITE,
        *,
        images: Sequence[Any] = (),
        front: Any = None,
        left: Any = None,
        back: Any = None,
        right: Any = None,
        prompt_temperature: float = PROMPT_TEMPERATURE,
        weights: ControllerWeights = AS_TRAINED,
    ) -> ImageDreamOutput:
        """Four views of the object in a picture or in several pictures, 90° apart.

        Args:
            image: an `ImagePrompt`, a path, an RGBA tensor `(4, height, width)` in [0, 1] with straight alpha, or
                None; without any picture the views are sampled from the caption alone.
            caption: what the object is.
            negative_caption: what guidance moves away from; None for what suits the model.
            guidance_scale: strength of classifier-free guidance; 1 for none, None for what suits the model.
            num_inference_steps: sampler steps.
            elevation_deg: of all four cameras.
            azimuth_deg: of the first camera; 0 is the object's front.
            generator: source of the initial noise.
            background: RGB in [0, 1] behind the views.
            images: further pictures of the same object, from wherever.
            front: a picture that shows the object's front; a picture counts most in the views from its own side.
            left: likewise, the object's own left side.
            back: likewise.
            right: likewise.
            prompt_temperature: the larger, the less the sides matter, see `angle_bias`.
            weights: how much image tokens, prompt frame and caption have to say.
        """
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale
        if negative_caption is None:
            negative_caption = self.config.negative_caption
        self.check_inputs(caption, negative_caption, guidance_scale, num_inference_steps, elevation_deg)
        unnamed = [*([] if image is None else [image]), *images]
        pictures = with_azimuths(unnamed, {"front": front, "left": left, "back": back, "right": right})
        self.check_reads(pictures)
        weights.check(self.unet)
        prompts = [self._as_prompt(picture, prompt_azimuth) for picture, prompt_azimuth in pictures]
        condition = self.encode_condition([rgba for rgba, _ in prompts], caption, torch.tensor(background))
        azimuths = orthogonal_azimuths(azimuth_deg)
        if prompts:
            bias = angle_bias(azimuths[None], [angle for _, angle in prompts], prompt_temperature)
            condition = condition.with_prompt_bias(bias)
        negative = self.encoder.encode_text([negative_caption]).to(self.unet.dtype)
        unconditional = condition.without_image().with_text(negative)
        empty = None if weights.caption_weight == 1 else self.encoder.encode_text([""])
        condition, unconditional = weights.apply(condition, unconditional, empty)
        if self.free_encoder:
            self.encoder.free()

        camera_to_world = look_at_origin(torch.tensor(float(elevation_deg)), azimuths, torch.tensor(1.0))
        cameras = camera_condition(camera_to_world)[None].to(self.device, self.unet.dtype)
        device = self.device if generator is None else generator.device
        noise = torch.randn(1, len(azimuths), *self.unet.latent_shape, generator=generator, device=device)
        latents = self.denoise(
            condition,
            unconditional,
            cameras,
            noise.to(self.device, self.unet.dtype),
            guidance_scale,
            num_inference_steps,
            generator,
        )
        images = self.decode_latents(latents[0]).float()
        return ImageDreamOutput(images, camera_to_world, tuple(azimuths.tolist()), float(elevation_deg))

    def _as_prompt(self, picture: Any, azimuth_deg: float | None) -> tuple[Tensor, float | None]:
        """RGBA pixels of anything that may be a prompt, and the azimuth it was taken from."""
        if isinstance(picture, Tensor):
            return picture, azimuth_deg
        if not isinstance(picture, ImagePrompt):
            picture = load_image_prompt(picture, size=max(self.image_size, self.encoder.image_size))
        return picture.rgba, picture.azimuth_deg if azimuth_deg is None else azimuth_deg
