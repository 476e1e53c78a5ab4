"""Picture + prompt -> views of the object (paper §3; released sampler settings: DDIM, 50 steps, guidance 5).

Names, types and order of events are those of diffusers' pipelines. What they call an image of a prompt is a *group* here:
views of one object from several cameras.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc import locate
from typing import Annotated, Any, Literal

import numpy as np
import PIL.Image
import torch
from annotated_types import Interval
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from imagedream.cameras import camera_angles, camera_condition, look_at_origin, orthogonal_azimuths
from imagedream.controller_weights import AS_TRAINED, ControllerWeights
from imagedream.encoders import ImageTextEncoder
from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE, angle_bias, with_azimuths
from imagedream.image_prompt.prompt import ImagePrompt, as_image_prompt
from imagedream.model import Condition, MultiViewUNet, concatenate_conditions, predict_noise, to_original
from imagedream.pictures import composite, to_pil
from imagedream.runs.ranges import Count, Fraction, NotNegative, OneOf, check_value

logger = logging.getLogger(__name__)

NEGATIVE_PROMPT = (
    "uniform low no texture ugly, boring, bad anatomy, blurry, pixelated, obscure, unnatural colors, poor lighting, "
    "dull, and unclear."
)
"""The released sampler's negative prompt, for the published networks; to one that saw none such it is noise."""

PAPER_GUIDANCE_SCALE = 5.0

CUSTOM_PIPELINE = '''"""For `DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER)`, where imagedream is installed."""

from imagedream.pipeline import ImageDreamPipeline  # noqa: F401
'''

WHITE = (1.0, 1.0, 1.0)

Sampler = Literal["ddim", "dpm"]
"""`ddim` is the paper's; `dpm` is DPM-Solver++ of second order (Lu et al. 2022), which needs fewer steps."""

DEFAULT_STEPS: dict[Sampler, int] = {"ddim": 50, "dpm": 20}


def with_suffix(caption: str, suffix: str) -> str:
    """The caption, with the suffix unless it says "3d" already; an empty one stays empty."""
    return caption + suffix if caption and "3d" not in caption.lower() else caption


def make_sampler(name: Sampler, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A sampler with the noise schedule and the parametrisation of a model's scheduler, which stays as it is."""
    return {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler}[name].from_config(scheduler.config)


RANGES: Mapping[str, Any] = {
    "guidance_scale": NotNegative,
    "refine_strength": Fraction,
    "num_images_per_prompt": Count,
    "eta": Fraction,
    "output_type": Annotated[str, OneOf("pil", "np", "pt", "latent")],
    "background": Annotated[tuple[float, float, float], Interval(ge=0, le=1)],
}
"""What the settings of a call may be."""

Generators = torch.Generator | list[torch.Generator] | None
"""One for all groups, or one for each: then what a group looks like does not depend on the others."""


@dataclass
class ImageDreamOutput(BaseOutput):
    """Views, group after group, and where the views of every group were seen from."""

    images: (
        list[PIL.Image.Image]
        | Float[np.ndarray, "image height width 3"]
        | Float[Tensor, "image channel height width"]
    )
    """Pictures ("pil"), pixels in [0, 1] ("np" and "pt"), or latents; groups · views of them."""
    camera_to_world: Float[Tensor, "view 4 4"]
    """Camera matrices on the unit sphere: the network is told of no distance."""
    azimuths_deg: tuple[float, ...]
    elevations_deg: tuple[float, ...]


class ImageDreamPipeline(DiffusionPipeline):
    """The whole model; `from_pretrained` and `save_pretrained` as for any diffusers pipeline.

    Args:
        unet: multi-view network with its image controllers.
        vae: autoencoder of the views and the prompt.
        encoder: CLIP text and image encoder (OpenCLIP).
        scheduler: noise schedule, parametrisation and sampler.
        guidance_scale: strength of guidance that suits this network, saved in `model_index.json`; calls that name none
            use it.
        negative_prompt: likewise, what guidance moves away from; a network of this project's trainer knows "no prompt"
            as an empty one.
        prompt_suffix: what the captions of its training ended with, added to prompts by `complete_prompt`.
        num_inference_steps: steps of a whole sampling, likewise.
        refine_strength: likewise; 1 samples from noise, as the paper does. Below 1 the views are predicted in one step,
            noised again, and sampled from there: the share of the steps that is taken. One step says what is likely, without
            the sampler's errors, but blurred; a small network gains by beginning there.

    Raises:
        ValueError: one of these numbers is out of its range.
    """

    def __init__(
        self,
        unet: MultiViewUNet,
        vae: AutoencoderKL,
        encoder: ImageTextEncoder,
        scheduler: SchedulerMixin,
        guidance_scale: float = PAPER_GUIDANCE_SCALE,
        negative_prompt: str = NEGATIVE_PROMPT,
        prompt_suffix: str = "",
        num_inference_steps: int = DEFAULT_STEPS["ddim"],
        refine_strength: float = 1.0,
    ) -> None:
        super().__init__()
        if num_inference_steps == DEFAULT_STEPS["ddim"]:  # a schedule may have fewer
            num_inference_steps = min(num_inference_steps, scheduler.config.num_train_timesteps)
        self.register_modules(unet=unet, vae=vae, encoder=encoder, scheduler=scheduler)
        self.register_to_config(
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            prompt_suffix=prompt_suffix,
            num_inference_steps=num_inference_steps,
            refine_strength=refine_strength,
        )
        self.check_inputs(
            (negative_prompt,),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            refine_strength=refine_strength,
        )

    model_cpu_offload_seq = "encoder->unet->vae"
    _callback_tensor_inputs = ("latents",)

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

    @property
    def prompt_size(self) -> int:
        """Side in pixels of prompts that are cut out of pictures."""
        return max(self.image_size, self.encoder.image_size)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        """Save as diffusers does, and leave a `pipeline.py` by which `DiffusionPipeline.from_pretrained` finds this class."""
        super().save_pretrained(save_directory, **options)
        (Path(save_directory) / "pipeline.py").write_text(CUSTOM_PIPELINE, encoding="utf-8")

    def load_lora_weights(
        self, file: str | Path, weight_name: str | None = None, adapter_scale: float = 1.0
    ) -> None:
        """Merge a LoRA adapter into the network for good, see `imagedream.checkpoints.adapters`.

        Args:
            file: the adapter on this disk, or the folder it is in.
            weight_name: the file's name in the folder.
            adapter_scale: how much of it; −1 takes it out again.

        Raises:
            CheckpointError: it is no adapter, or one of another network.
        """
        # found by name, since it is the checkpoints that know the pipeline
        merge_adapter = locate("imagedream.checkpoints.adapters.merge_adapter")
        merge_adapter(self.unet, Path(file) / weight_name if weight_name else file, adapter_scale)

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

    def complete_prompt(self, prompt: str, suffix: str | None = None) -> str:
        """A prompt as the captions of the model's training were: with their suffix, or another, see `with_suffix`."""
        complete = with_suffix(prompt, self.config.prompt_suffix if suffix is None else suffix)
        if complete != prompt:
            logger.info("the prompt as the model reads it: %s", complete)
        return complete

    @torch.no_grad()
    def encode_condition(
        self,
        image: Float[Tensor, "*prompt 4 height width"] | Sequence[Float[Tensor, "4 _ _"]] | None,
        prompt: str,
        background: Float[Tensor, " 3"],
    ) -> Condition:
        """The condition of one group of views.

        Args:
            image: RGBA prompt with straight alpha in [0, 1], or several of them; None for no image prompt.
            prompt: what the object is; may be empty.
            background: RGB in [0, 1], the colour behind the views that will be made.

        Returns:
            Image features with a prompt axis where there are several prompts, as `predict_noise` takes them.
        """
        if image is None:
            prompts = []
        else:
            prompts = [image] if isinstance(image, Tensor) and image.ndim == 3 else list(image)
        self.check_reads(prompts)
        text_tokens = self.encoder.encode_text([prompt]).to(self.unet.dtype)
        if not self.unet.reads_images:
            return Condition(text_tokens)
        device = self._execution_device
        plain = background.to(device)[None, :, None, None].expand(1, 3, self.image_size, self.image_size)
        pictures = [composite(one.to(device), background.to(device))[None] for one in prompts]
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

    @property
    def num_timesteps(self) -> int:
        """Steps of the call in progress, for callbacks."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`, which ends the sampling after its step."""
        return self._interrupt

    def check_inputs(
        self,
        prompts: Sequence[Any] = ("",),
        *,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[int] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        """Raise TypeError or ValueError for what `__call__` cannot take, before anything is encoded.

        Args:
            prompts: negative ones too.
            height: see `__call__`, as all the others.
            width: likewise.
            timesteps: likewise.
            callback_on_step_end_tensor_inputs: likewise.
            settings: those of `RANGES`.
        """
        for text in prompts:
            if not isinstance(text, str):
                raise TypeError(
                    f"prompt and negative_prompt must be text, got {type(text).__name__} {text!r}"
                )
        trained = self.scheduler.config.num_train_timesteps
        ranges = RANGES | {"num_inference_steps": Annotated[int, Interval(ge=1, le=trained)]}
        for name, value in settings.items():
            check_value(name, value, ranges[name])
        if timesteps is not None:
            steps = [int(step) for step in timesteps]
            if not steps or steps != sorted(set(steps) & set(range(trained)), reverse=True):
                raise ValueError(f"timesteps are {steps}, must descend and lie between 0 and {trained - 1}")
            if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
                raise ValueError(f"timesteps are given, but {type(self.scheduler).__name__} chooses its own")
        for name, side in (("height", height), ("width", width)):
            if side not in (None, self.image_size):
                raise ValueError(
                    f"{name} is {side}, but this model makes views of {self.image_size} x {self.image_size} pixels only"
                )
        if settings.get("eta") and "eta" not in self._step_arguments:
            raise ValueError(
                f"eta is {settings['eta']}, but {type(self.scheduler).__name__} has none; DDIM has"
            )
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)}, allowed is {self._callback_tensor_inputs}"
            )

    @property
    def _step_arguments(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.scheduler.step).parameters

    def prepare_latents(
        self,
        groups: int,
        views: int,
        generator: Generators = None,
        latents: Float[Tensor, "image channel h w"] | None = None,
    ) -> Float[Tensor, "group view channel h w"]:
        """Noise to begin with, drawn unless it is given.

        Raises:
            ValueError: latents of another shape, or another number of generators than groups.
        """
        shape = (groups, views, *self.unet.latent_shape)
        if isinstance(generator, list) and len(generator) != groups:
            raise ValueError(
                f"generator is a list of {len(generator)}, must be one for each of {groups} groups of views"
            )
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=self._execution_device)
        elif latents.shape != (groups * views, *shape[2:]):
            raise ValueError(
                f"latents are {tuple(latents.shape)}, must be {(groups * views, *shape[2:])}: {groups} groups of "
                f"{views} views"
            )
        return latents.view(shape).to(self._execution_device, self.unet.dtype)

    def denoise(
        self,
        condition: Condition,
        unconditional: Condition,
        cameras: Float[Tensor, "group view 16"],
        latents: Float[Tensor, "group view c h w"],
        guidance_scale: float,
        num_inference_steps: int,
        refine_strength: float = 1.0,
        generator: Generators = None,
        eta: float = 0.0,
        timesteps: Sequence[int] | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Float[Tensor, "group view c h w"]:
        """The sampling loop: noise to latents with classifier-free guidance, at once or after a prediction to begin with."""
        groups = latents.shape[0]
        guided = guidance_scale != 1
        both = concatenate_conditions([condition, unconditional]) if guided else condition
        repeats = 2 if guided else 1
        steps = (
            {"num_inference_steps": num_inference_steps} if timesteps is None else {"timesteps": [*timesteps]}
        )
        self.scheduler.set_timesteps(**steps, device=latents.device)
        timesteps = self.scheduler.timesteps

        def network(latents: Tensor, timestep: Tensor) -> Tensor:
            scaled = self.scheduler.scale_model_input(latents, timestep)
            output = predict_noise(
                self.unet,
                scaled.repeat(repeats, 1, 1, 1, 1),
                timestep.expand(groups * repeats),
                cameras.repeat(repeats, 1, 1),
                *both.inputs,
            )
            if not guided:
                return output
            with_condition, without = output.chunk(2)
            return without + guidance_scale * (with_condition - without)

        if refine_strength < 1:
            kept = max(round(len(timesteps) * refine_strength), 1) if refine_strength else 0
            skipped = len(timesteps) - kept
            timesteps = timesteps[skipped:]
            if hasattr(self.scheduler, "set_begin_index"):
                self.scheduler.set_begin_index(skipped)
            last = torch.tensor(self.scheduler.config.num_train_timesteps - 1, device=latents.device)
            predicted = to_original(self.scheduler, network(latents, last), latents, last.expand(groups))
            latents = predicted.to(latents.dtype)
            if kept:
                noise = randn_tensor(latents.shape, generator, latents.device, latents.dtype)
                latents = self.scheduler.add_noise(latents, noise, timesteps[:1])
        else:
            latents = latents * self.scheduler.init_noise_sigma
        self._num_timesteps, self._interrupt = len(timesteps), False
        extra = {"eta": eta, "generator": generator}
        extra = {name: value for name, value in extra.items() if name in self._step_arguments}
        with self.progress_bar(total=len(timesteps)) as progress:
            for step, timestep in enumerate(timesteps):
                output = network(latents, timestep)
                latents = self.scheduler.step(output, timestep, latents, **extra).prev_sample
                if callback_on_step_end is not None:
                    given = {"latents": latents} if "latents" in callback_on_step_end_tensor_inputs else {}
                    changed = callback_on_step_end(self, step, timestep, given) or {}
                    latents = changed.get("latents", latents)
                progress.update()
                if self.interrupt:
                    break
        return latents

    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
        prompt: str | list[str] = "",
        negative_prompt: str | list[str] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        elevation_deg: float | Sequence[float] = 5.0,
        azimuth_deg: float = 0.0,
        generator: Generators = None,
        background: tuple[float, float, float] = WHITE,
        *,
        azimuths_deg: Sequence[float] | None = None,
        refine_strength: float | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        latents: Float[Tensor, "image channel h w"] | None = None,
        timesteps: Sequence[int] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        prompt_suffix: str | None = None,
        images: Sequence[Any] = (),
        front: Any = None,
        left: Any = None,
        back: Any = None,
        right: Any = None,
        prompt_temperature: float = PROMPT_TEMPERATURE,
        weights: ControllerWeights = AS_TRAINED,
    ) -> ImageDreamOutput | tuple[Any, ...]:
        """Views of the object in a picture or in several pictures, by default four, 90° apart.

        Args:
            image: a path, a PIL picture, an array `(height, width, channel)` or a tensor `(channel, height, width)` with
                values in [0, 1], from which the object is cut out; an `ImagePrompt`, or a tensor with four channels,
                straight alpha, which is the prompt as it stands; or None: the views are sampled from the text alone. A
                list, or an array or tensor with one more axis in front, is of several objects.
            prompt: what the object is; a list for several objects.
            negative_prompt: what guidance moves away from; None for what suits the model.
            guidance_scale: strength of classifier-free guidance; 1 for none, None for what suits the model.
            num_inference_steps: sampler steps; None for what suits the model.
            elevation_deg: of all cameras, or of each in turn.
            azimuth_deg: of the first of four cameras; 0 is the object's front.
            generator: source of the noise: one, or a list of one for each group.
            background: RGB in [0, 1] behind the views.
            azimuths_deg: of the cameras, any number of them.
            refine_strength: 1 samples from noise; below, that share of the steps refines a prediction made in one step; 0 is
                the prediction itself, the blurred mean of all that the views may be; None for what suits the model.
            num_images_per_prompt: groups of views of each object.
            height: of a view in pixels: the model's own, nothing else.
            width: likewise.
            eta: of DDIM, from 0 (no further noise) to 1.
            latents: noise to begin with, for all views of all groups in turn; instead of the generator's.
            timesteps: descending; for samplers that take them (DPM-Solver++, not DDIM), instead of `num_inference_steps`.
            output_type: "pil", "np", "pt" or "latent", see `ImageDreamOutput.images`.
            return_dict: False gives the output's fields as a tuple.
            callback_on_step_end: called with the pipeline, the step, its timestep and a dict with `latents` after each
                step; what it returns may hold others to go on with.
            callback_on_step_end_tensor_inputs: what the dict holds.
            prompt_suffix: added to prompts, see `complete_prompt`; None for what suits the model, "" for nothing.
            images: further pictures of the same object, from wherever.
            front: a picture that shows the object's front; a picture counts most in the views from its own side.
            left: likewise, the object's own left side.
            back: likewise.
            right: likewise.
            prompt_temperature: the larger, the less the sides matter, see `angle_bias`.
            weights: how much image tokens, prompt frame and text have to say.

        Raises:
            TypeError: a prompt is no text, or a picture nothing that is known.
            ValueError: a number out of its range, or arguments that do not fit each other.
        """
        if guidance_scale is None:
            guidance_scale = self.config.guidance_scale
        if negative_prompt is None:
            negative_prompt = self.config.negative_prompt
        if num_inference_steps is None:
            num_inference_steps = self.config.num_inference_steps
        if refine_strength is None:
            refine_strength = self.config.refine_strength
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        unnamed, prompts, negatives = _of_each_object(
            image=image, prompt=prompt, negative_prompt=negative_prompt
        )
        self.check_inputs(
            [*prompts, *negatives],
            height=height,
            width=width,
            timesteps=timesteps,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            refine_strength=refine_strength,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            output_type=output_type,
            background=background,
        )
        prompts = [self.complete_prompt(one, prompt_suffix) for one in prompts]
        if azimuths_deg is not None and azimuth_deg:
            raise ValueError(f"azimuth_deg is {azimuth_deg}, but azimuths_deg is given too")
        azimuths, elevations = camera_angles(
            orthogonal_azimuths(azimuth_deg).tolist() if azimuths_deg is None else azimuths_deg, elevation_deg
        )
        groups = len(prompts) * num_images_per_prompt
        latents = self.prepare_latents(groups, len(azimuths), generator, latents)
        pictures = [with_azimuths([] if one is None else [one], {}) for one in unnamed]
        sides = {"front": front, "left": left, "back": back, "right": right}
        further = with_azimuths(images, sides)
        if further and len(prompts) > 1:
            raise ValueError(
                f"images, front, left, back and right are of one object, but there are {len(prompts)}"
            )
        pictures[0] = [*pictures[0], *further]
        self.check_reads([one for of_object in pictures for one in of_object])
        weights.check(self.unet)

        pairs = [
            self._conditions(
                [as_image_prompt(picture, self.prompt_size, azimuth) for picture, azimuth in of_object],
                *texts,
                azimuths,
                background,
                prompt_temperature,
            )
            for of_object, *texts in zip(pictures, prompts, negatives, strict=True)
        ]
        condition, unconditional = (
            concatenate_conditions(list(rows)).map(
                lambda tensor: tensor.repeat_interleave(num_images_per_prompt, dim=0)
            )
            for rows in zip(*pairs, strict=True)
        )
        empty = None if weights.caption_weight == 1 else self.encoder.encode_text([""])
        condition, unconditional = weights.apply(condition, unconditional, empty)

        camera_to_world = look_at_origin(elevations, azimuths, torch.tensor(1.0))
        cameras = camera_condition(camera_to_world).to(latents).expand(groups, -1, -1)
        latents = self.denoise(
            condition,
            unconditional,
            cameras,
            latents,
            guidance_scale,
            num_inference_steps,
            refine_strength,
            generator,
            eta,
            timesteps,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        output = ImageDreamOutput(
            self.postprocess(latents, output_type),
            camera_to_world,
            tuple(azimuths.tolist()),
            tuple(elevations.tolist()),
        )
        self.maybe_free_model_hooks()
        return output if return_dict else output.to_tuple()

    def _conditions(
        self,
        images: Sequence[ImagePrompt],
        prompt: str,
        negative_prompt: str,
        azimuths: Float[Tensor, " view"],
        background: Sequence[float],
        prompt_temperature: float,
    ) -> tuple[Condition, Condition]:
        """(condition, "no condition") of one group of views of one object."""
        condition = self.encode_condition([image.rgba for image in images], prompt, torch.tensor(background))
        if images:
            bias = angle_bias(azimuths[None], [image.azimuth_deg for image in images], prompt_temperature)
            condition = condition.with_prompt_bias(bias)
        negative = self.encoder.encode_text([negative_prompt]).to(self.unet.dtype)
        return condition, condition.without_image().with_text(negative)

    def postprocess(self, latents: Float[Tensor, "group view c h w"], output_type: str) -> Any:
        """What `ImageDreamOutput.images` holds; decoded group by group, which bounds the memory."""
        if output_type == "latent":
            return latents.flatten(0, 1)
        images = torch.cat([self.decode_latents(group).float() for group in latents])
        if not images.isfinite().all():
            raise FloatingPointError(f"the views are not finite: these weights overflow in {self.unet.dtype}")
        if output_type == "np":
            return images.permute(0, 2, 3, 1).cpu().numpy()
        return images if output_type == "pt" else [to_pil(image) for image in images]


def _of_each_object(**given: Any) -> list[list[Any]]:
    """The arguments as lists, equally long: a single value is that of every object.

    Raises:
        ValueError: lists of different lengths, or empty ones.
    """
    lists = {
        name: list(value) if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 4 else None
        for name, value in given.items()
    }
    counts = {name: len(values) for name, values in lists.items() if values is not None}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        lengths = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"{lengths}: lists must be equally long, one value for each object")
    count = max(counts.values(), default=1)
    return [[given[name]] * count if values is None else values for name, values in lists.items()]
