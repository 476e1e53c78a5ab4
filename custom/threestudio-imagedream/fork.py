"""The official ImageDream fork of threestudio: its names and keys, so that its configs and commands run as they are.

The fork changed threestudio's own modules, this extension adds its own. Names of the fork that are free are registered
here. Where threestudio holds the name, there is a module with the fork's keys under a name of ours, which `launch.py`
puts into the config.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

import threestudio
from imagedream.checkpoints import PUBLISHED
from threestudio.models.background.neural_environment_map_background import NeuralEnvironmentMapBackground

from .background import random_color
from .data import CameraDataModule
from .guidance import ImageDreamGuidance
from .prompt_processor import ImageDreamPromptProcessor


def register_if_free(name: str):
    """Like `threestudio.register`, but a name that is taken stays as it is."""

    def decorator(module: type) -> type:
        taken = threestudio.__modules__.get(name)
        if taken is None:
            return threestudio.register(name)(module)
        threestudio.warn(f"{name} is {taken.__module__}.{taken.__qualname__}, not this extension's")
        return module

    return decorator


@dataclass(frozen=True)
class ForkKeys:
    """The keys of a part of the fork's config."""

    owner: str
    read: Mapping[str, Any]
    """Those with a counterpart here, with the fork's defaults."""
    only: Mapping[str, tuple[Any, Any]]
    """Those without: the fork's default, and the one value that is supported."""
    unread: Collection[str] = ()
    """Those that make no difference."""

    def values(self, cfg: Any) -> dict[str, Any]:
        """What is read, as given or by default.

        Raises:
            ValueError: an unknown key, or a value that is not supported.
        """
        given = dict(cfg or {})
        if OmegaConf.is_config(cfg):
            given = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        unknown = sorted(given.keys() - {*self.read, *self.only, *self.unread})
        if unknown:
            raise ValueError(f"{self.owner} has unknown keys {', '.join(unknown)}")
        for key, (default, supported) in self.only.items():
            value = given.get(key, default)
            if value != supported:
                raise ValueError(
                    f"{self.owner}.{key} is {value!r}, the ImageDream extension supports {supported!r} only"
                )
        return {key: given.get(key, default) for key, default in self.read.items()}


# ------------------------------------------------------------------------------------------------------------ data

CAMERAS = ForkKeys(
    "data",
    read={
        "batch_size": 1,
        "height": 64,
        "width": 64,
        "resolution_milestones": [],
        "n_view": 1,
        "elevation_range": [-10, 90],
        "fovy_range": [40, 70],
        "camera_distance_range": [1, 1.5],  # half the frame's height at the object, despite its name
        "light_position_perturb": 1.0,
        "light_distance_range": [0.8, 1.5],
        "n_val_views": 1,
        "n_test_views": 120,
        "eval_height": 512,
        "eval_width": 512,
        "eval_elevation_deg": 15.0,
        "eval_fovy_deg": 70.0,
        "eval_camera_distance": 1.5,  # in world units
    },
    only={
        "relative_radius": (True, True),
        "azimuth_range": ([-180, 180], [-180, 180]),
        "zoom_range": ([1.0, 1.0], [1.0, 1.0]),
        "camera_perturb": (0.1, 0.0),
        "center_perturb": (0.2, 0.0),
        "up_perturb": (0.02, 0.0),
        "progressive_until": (0, 0),
        "light_sample_strategy": ("dreamfusion", "dreamfusion"),
    },
    unread=("eval_batch_size", "batch_uniform_azimuth"),
)


def camera_settings(cfg: Any) -> dict[str, Any]:
    """The fork's `data` in the words of `imagedream-camera-datamodule`."""
    values = CAMERAS.values(cfg)
    values["relative_distance_range"] = values.pop("camera_distance_range")
    half_frame = math.tan(math.radians(values["eval_fovy_deg"]) / 2)
    values["eval_relative_distance"] = values.pop("eval_camera_distance") * half_frame
    return values


@register_if_free("random-multiview-camera-datamodule")
class ForkCameraDataModule(CameraDataModule):
    """`imagedream-camera-datamodule` with the fork's keys."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__(camera_settings(cfg))


# -------------------------------------------------------------------------------------------------------- guidance


GUIDANCE = ForkKeys(
    "system.guidance",
    read={
        "model_name": "sd-v2.1-base-4view-ipmv",
        "ckpt_path": None,
        "ip_mode": None,
        "guidance_scale": 50.0,
        "grad_clip": None,
        "min_step_percent": 0.02,
        "max_step_percent": 0.98,
        "n_view": 4,
        "recon_loss": True,
        "recon_std_rescale": 0.5,
    },
    only={"camera_condition_type": ("rotation", "rotation"), "view_dependent_prompting": (False, False)},
    # what the network is like, and its size, is told by its weights and `ip_mode`
    unread=("config_path", "image_size", "half_precision_weights"),
)


def guidance_settings(cfg: Any) -> dict[str, Any]:
    """The fork's `system.guidance` in the words of `imagedream-guidance`."""
    values = GUIDANCE.values(cfg)
    model, weights, mode = (values.pop(key) for key in ("model_name", "ckpt_path", "ip_mode"))
    if mode not in (None, "pixel", "local"):
        raise ValueError(f"system.guidance.ip_mode is {mode!r}, must be 'pixel' or 'local'")
    if weights is None:
        file = f"{model}.pt"
        if file not in PUBLISHED:
            names = ", ".join(repr(name.removesuffix(".pt")) for name in PUBLISHED)
            raise ValueError(f"system.guidance.model_name is {model!r}, published are {names}")
        weights = f"{PUBLISHED[file].repository}/{file}"
    # as there: the prompt on the mean grey, and as it was typed
    ours = {"prompt_background": "mean_grey", "prompt_suffix": ""}
    return {**values, "weights": weights, "controllers": mode, **ours}


@register_if_free("multiview-diffusion-guidance")
class ForkGuidance(ImageDreamGuidance):
    """`imagedream-guidance` with the fork's keys, and what it does otherwise than we."""

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the settings or the weights, without loading them."""
        ImageDreamGuidance.preflight(guidance_settings(cfg))

    def __init__(self, cfg: Any) -> None:
        super().__init__(guidance_settings(cfg))


# ---------------------------------------------------------------------------------------------------------- prompt


PROMPT = ForkKeys(
    "system.prompt_processor",
    read={"image_path": None, "prompt": "", "negative_prompt": ""},
    only={},
    # the diffusion model brings its text encoder, and knows its views by their cameras
    unread=(
        *("pretrained_model_name_or_path", "use_cache", "spawn", "view_dependent_prompt_front"),
        *("front_threshold", "back_threshold", "overhead_threshold"),
    ),
)


@threestudio.register("imagedream-fork-prompt-processor")
class ForkPromptProcessor(ImageDreamPromptProcessor):
    """`imagedream-prompt-processor` with the keys of the fork's `stable-diffusion-prompt-processor`."""

    @classmethod
    def settings(cls, cfg: Any) -> ImageDreamPromptProcessor.Config:
        """What a config of the fork says, in the keys of `imagedream-prompt-processor`."""
        return super().settings(PROMPT.values(cfg))

    def __init__(self, cfg: Any) -> None:
        super().__init__(PROMPT.values(cfg))


# ------------------------------------------------------------------------------------------------------ background


@threestudio.register("imagedream-fork-background")
class ForkBackground(NeuralEnvironmentMapBackground):
    """`neural-environment-map-background`, whose random colours may be one for all views of a step."""

    @dataclass
    class Config(NeuralEnvironmentMapBackground.Config):
        """Keys of the fork's `system.background`."""

        share_aug_bg: bool = False
        """One random colour for the whole batch, not one for each view."""

    cfg: Config

    def configure(self) -> None:
        """Take the random colours over where they are shared."""
        super().configure()
        self.shares = self.cfg.random_aug and self.cfg.share_aug_bg
        if self.shares:
            self.cfg.random_aug = False
        self.random_color: list[float] | None = None

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Choose the step's random colour, or none."""
        super().update_step(epoch, global_step, on_load_weights=on_load_weights)
        self.random_color = random_color(self.cfg, global_step) if self.shares else None

    def forward(self, dirs: Tensor) -> Tensor:
        """Colours of rays `(batch, height, width, 3)`."""
        color = super().forward(dirs)
        if self.training and self.random_color is not None:
            color = 0 * color + color.new_tensor(self.random_color)  # keeps the network in the graph
        return color
