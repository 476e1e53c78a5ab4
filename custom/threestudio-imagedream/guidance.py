"""Guidance by an ImageDream model, and threestudio's guidance call around `imagedream.distillation`."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

import threestudio
from imagedream import checkpoints
from imagedream.cameras import camera_condition
from imagedream.controller_weights import ControllerWeights
from imagedream.image_prompt.multi_image import PROMPT_TEMPERATURE, angle_bias
from imagedream.memory_options import MemoryOptions, load_pipeline, precision
from imagedream.runs.ranges import (
    Count,
    Fraction,
    NotNegative,
    OneOf,
    Positive,
    Schedule,
    check_ranges,
)
from imagedream.runs.seeds import step_generator
from threestudio.utils.base import BaseObject
from threestudio.utils.config import parse_structured
from threestudio.utils.misc import C

from .prompt_processor import PromptOutput

STREAM = 2

SMALL_MODEL_WARNING = (
    "The small model that ships knows toybox objects only: of other pictures it makes a toy of similar shape and "
    "colour. For real pictures use configs/imagedream.yaml with the published weights."
)


def _controller_weights(cfg: Any, epoch: int, step: int) -> ControllerWeights:
    """The controllers' weights at a training step."""
    names = ("ip_weight", "pixel_weight", "caption_weight")
    return ControllerWeights(**{name: float(C(getattr(cfg, name), epoch, step)) for name in names})


class DiffusionGuidance(BaseObject):
    """What guidances by a frozen ImageDream model share: the model, which no checkpoint contains, and its prompt."""

    @dataclass
    class Config:
        """Keys of `system.guidance`, whichever way an ImageDream model guides."""

        weights: str = "toybox"
        """`toybox` (the small model that ships), a file or folder of weights, or an id on the Hugging Face hub."""
        controllers: str | None = None
        """`local` or `pixel`, for a published file: the two have the same tensors. None is pixel, unless known."""
        adapter: str | None = None
        """File of a LoRA adapter that is merged into the network, such as a training with `lora` leaves."""
        adapter_scale: NotNegative = 1.0
        """How much of it."""
        guidance_scale: Annotated[Any, Schedule(NotNegative)] = 5.0
        n_view: Count = 4
        precision: Annotated[str, OneOf("auto", "float32", "float16", "bfloat16")] = "auto"
        """Of the weights: float32, float16 or bfloat16; `auto` is float16 on CUDA and float32 elsewhere."""
        memory: dict = field(default_factory=dict)
        """`imagedream.memory_options.MemoryOptions`, such as {encoder: offload, vae_checkpointing: true}."""
        groups_per_call: Count | None = None
        """Most groups the network sees at once (each group counts twice, for guidance); None is all."""
        prompt_temperature: Positive = PROMPT_TEMPERATURE
        """How little it matters from which side a picture was taken, where several are given; see `angle_bias`."""
        ip_weight: Annotated[Any, Schedule(NotNegative)] = 1.0
        """Of the image tokens; like the next two 1 is the model as trained, 0 without: `imagedream.controller_weights`."""
        pixel_weight: Annotated[Any, Schedule(NotNegative)] = 1.0
        """Of the prompt's frame."""
        caption_weight: Annotated[Any, Schedule(NotNegative)] = 1.0
        """Of the caption."""
        prompt_suffix: str | None = None
        """Added to the prompt unless it says "3d"; None: what suits the model, ", 3d asset" for published weights."""
        encoding_cache_size: Count = 32
        """Encodings of the prompts that are kept, one for each background colour (8 bits a channel)."""

        def __post_init__(self) -> None:
            check_ranges(self, "system.guidance")

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the settings or the weights, without loading them."""
        cls.check(parse_structured(cls.Config, cfg))

    @classmethod
    def check(cls, cfg: Config) -> None:
        """The same for parsed settings."""
        MemoryOptions(**parse_structured(MemoryOptions, cfg.memory))
        checkpoints.check(cfg.weights)
        if cfg.adapter is not None:
            checkpoints.check_adapter(cfg.adapter)

    def configure(self) -> None:
        """Load the model."""
        self.check(self.cfg)
        if self.cfg.weights == "toybox":
            threestudio.warn(SMALL_MODEL_WARNING)
        dtype = precision(self.cfg.precision, self.device)
        given = {name: getattr(self.cfg, name) for name in ("controllers", "adapter", "adapter_scale")}
        options = MemoryOptions(**parse_structured(MemoryOptions, self.cfg.memory))
        self.pipeline = load_pipeline(self.cfg.weights, options, dtype, self.device, **given)
        self.pipeline.set_progress_bar_config(desc="Four views", leave=False)
        self._conditions: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._prompt: PromptOutput | None = None
        self._text = ""
        self._empty_tokens: Tensor | None = None
        self.update_step(0, 0)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the schedules at a training step, and begin its random numbers."""
        self.step = global_step
        self.generator = step_generator(torch.initial_seed(), global_step, STREAM)
        self.weights = _controller_weights(self.cfg, epoch, global_step)
        self.guidance_scale = float(C(self.cfg.guidance_scale, epoch, global_step))

    def encode_prompt(self, prompt: PromptOutput, background: Tensor) -> tuple[Any, Any]:
        """(condition, "no condition") of one group in front of a background colour, from the cache if it is there.

        Args:
            prompt: pictures and texts.
            background: RGB in [0, 1]; rounded to 8 bits a channel.
        """
        if prompt is not self._prompt:
            self._conditions.clear()
            self._prompt = prompt
            self._text = self.pipeline.complete_prompt(prompt.prompt, self.cfg.prompt_suffix)
        key = tuple((background.detach().float().cpu().clamp(0, 1) * 255).round().int().tolist())
        if key not in self._conditions:
            colour = torch.tensor(key, device=self.device) / 255
            pictures = [image.rgba for image in prompt.images]
            condition = self.pipeline.encode_condition(pictures, self._text, colour)
            with torch.no_grad():
                negative = self.pipeline.encoder.encode_text([prompt.negative_prompt])
            nothing = condition.without_image().with_text(negative.to(condition.text_tokens.dtype))
            self._conditions[key] = (condition, nothing)
            if len(self._conditions) > self.cfg.encoding_cache_size:
                self._conditions.popitem(last=False)
        self._conditions.move_to_end(key)
        return self._conditions[key]

    @torch.no_grad()
    def empty_tokens(self) -> Tensor | None:
        """Tokens of the empty caption, where the caption's weight needs them."""
        if self.weights.caption_weight == 1:
            return None
        if self._empty_tokens is None:
            self._empty_tokens = self.pipeline.encoder.encode_text([""])
        return self._empty_tokens

    def encode_images(self, rgb: Tensor, rgb_as_latents: bool = False) -> Tensor:
        """Renders `(batch, height, width, channel)` -> latents `(batch, c, h, w)`, with gradient."""
        pixels = rgb.permute(0, 3, 1, 2)
        size = self.pipeline.latent_size if rgb_as_latents else self.pipeline.image_size
        if pixels.shape[-2:] != (size, size):
            pixels = interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=True)
        if rgb_as_latents:
            return pixels * 2 - 1
        return self.pipeline.encode_images(pixels).float()

    def conditions(self, prompt: PromptOutput, colours: Tensor, azimuth_deg: Tensor) -> tuple[Any, Any]:
        """(condition, "no condition") of a step: on these colours, for views from these azimuths `(group, view)`."""
        from imagedream.model import concatenate_conditions

        pairs = [self.encode_prompt(prompt, colour) for colour in colours]
        prompt_azimuths = [image.azimuth_deg for image in prompt.images]
        bias = angle_bias(azimuth_deg, prompt_azimuths, self.cfg.prompt_temperature)
        pair = [
            concatenate_conditions(list(rows)).with_prompt_bias(bias) for rows in zip(*pairs, strict=True)
        ]
        return self.weights.apply(*pair, self.empty_tokens())

    def sample_views(
        self,
        prompt: PromptOutput,
        seed: int,
        background: tuple[float, float, float] = (1.0, 1.0, 1.0),
        **how: Any,
    ) -> Any:
        """The pipeline's answer with four views of the prompt; `how` are further arguments of `ImageDreamPipeline`."""
        return self.pipeline(
            images=prompt.images,
            prompt=prompt.prompt,
            negative_prompt=prompt.negative_prompt,
            prompt_suffix=self.cfg.prompt_suffix,
            prompt_temperature=self.cfg.prompt_temperature,
            weights=self.weights,
            generator=torch.Generator().manual_seed(seed),
            background=background,
            output_type="pt",
            **how,
        )


@threestudio.register("imagedream-guidance")
class ImageDreamGuidance(DiffusionGuidance):
    """Image-prompt score distillation."""

    @dataclass
    class Config(DiffusionGuidance.Config):
        """Keys of `system.guidance` for distillation, `imagedream-guidance`."""

        min_step_percent: Annotated[Any, Schedule(Fraction)] = 0.02
        max_step_percent: Annotated[Any, Schedule(Fraction)] = 0.98
        """Timesteps are drawn between these fractions of the training timesteps, one per group."""
        recon_loss: bool = True
        """True: the x0-reconstruction loss of the paper. False: score distillation sampling with weight σ²."""
        recon_std_rescale: Annotated[Any, Schedule(Fraction)] = 0.2
        """Blend of the rescaling of x0 that tames guidance; 0 is off."""
        grad_clip: Annotated[Any, Schedule(Positive | None)] = None
        """Largest norm of a group's latent gradient; None does not clip."""
        prompt_background: Annotated[str, OneOf("match", "mean_grey")] = "match"
        """`match`: the prompt is shown on the colour behind its group's renders. `mean_grey`: on the grey of the whole
        batch's mean, as in the released code."""

    cfg: Config

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the schedules at a training step, and begin its random numbers."""
        from imagedream.distillation import DistillationSettings

        super().update_step(epoch, global_step, on_load_weights)
        keys = ("min_step_percent", "max_step_percent", "recon_std_rescale", "grad_clip")
        given = {key: getattr(self.cfg, key) for key in keys}
        now = {key: None if value is None else C(value, epoch, global_step) for key, value in given.items()}
        self.settings = DistillationSettings(
            timestep_range=(now["min_step_percent"], now["max_step_percent"]),
            guidance_scale=self.guidance_scale,
            recon_std_rescale=now["recon_std_rescale"],
            gradient_clip=now["grad_clip"],
            groups_per_call=self.cfg.groups_per_call,
        )

    def __call__(
        self,
        rgb: Tensor,
        prompt_utils: PromptOutput,
        elevation: Tensor,
        azimuth: Tensor,
        camera_distances: Tensor,
        c2w: Tensor,
        rgb_as_latents: bool = False,
        comp_rgb_bg: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """One step of distillation.

        Args:
            rgb: renders `(batch, height, width, 3)` in [0, 1]; n_view rows in turn are a group.
            prompt_utils: what `imagedream-prompt-processor` returned.
            elevation: in degrees, one per image; the cameras' matrices say the same.
            azimuth: in degrees, one per image; likewise, and it decides how much each of several prompts counts in it.
            camera_distances: one per image; likewise.
            c2w: camera-to-world matrices `(batch, 4, 4)`.
            rgb_as_latents: whether `rgb` holds latents (as many channels) scaled to [0, 1].
            comp_rgb_bg: the background alone, like `rgb`; its mean colour in a group is put behind the prompt. White
                when None.
            **kwargs: the rest of the batch, not needed.

        Returns:
            `loss_sds` with gradient, and the numbers worth logging.
        """
        from imagedream import distillation

        views = self.cfg.n_view
        if len(rgb) % views:
            raise ValueError(f"{len(rgb)} images do not make groups of n_view = {views}")
        groups = len(rgb) // views
        with torch.autocast(rgb.device.type, enabled=False):
            latents = self.encode_images(rgb.float(), rgb_as_latents).unflatten(0, (groups, views))
            conditions = self.conditions(
                prompt_utils,
                self.prompt_colours(comp_rgb_bg, rgb, groups),
                azimuth.float().unflatten(0, (groups, views)),
            )
            distil = (
                distillation.image_prompt_score_distillation
                if self.cfg.recon_loss
                else distillation.score_distillation_sampling
            )
            result = distil(
                self.pipeline.unet,
                self.pipeline.scheduler,
                latents,
                camera_condition(c2w.float()).unflatten(0, (groups, views)),
                *conditions,
                self.settings,
                generator=self.generator,
            )
        return {
            "loss_sds": result.loss,
            "grad_norm": result.gradient_norm.mean(),
            "timestep": result.timesteps.float().mean(),
        }

    def prompt_colours(self, background: Tensor | None, rgb: Tensor, groups: int) -> Tensor:
        """The colours that the prompt is shown on, `(group, 3)`; one row where all groups share it."""
        if background is None:
            return rgb.new_ones(1, 3)
        background = background.detach().float()
        if self.cfg.prompt_background == "mean_grey":
            return background.mean().expand(1, 3)
        colours = background.expand_as(rgb).unflatten(0, (groups, -1)).mean((1, 2, 3))
        return colours[:1] if (colours == colours[:1]).all() else colours
