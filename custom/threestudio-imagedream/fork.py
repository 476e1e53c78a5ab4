"""The official ImageDream fork of threestudio: its names and keys, so that its configs and commands run as they are.

The fork changed threestudio's own modules, this extension adds its own. Names of the fork that are free are registered
here. Where threestudio holds the name, there is a module with the fork's keys under a name of ours, which `launch.py`
puts into the config.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

import threestudio
from imagedream.checkpoints import PUBLISHED
from threestudio.models.background.neural_environment_map_background import NeuralEnvironmentMapBackground
from threestudio.utils.config import parse_structured

from .background import random_color
from .data import CameraDataModule, CameraDataModuleConfig
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


def _only(owner: str, cfg: Any, **allowed: Any) -> None:
    """Raise unless the settings that have no counterpart have the values that mean nothing here."""
    for key, value in allowed.items():
        given = getattr(cfg, key)
        given = list(given) if isinstance(value, list) else given
        if given != value:
            raise ValueError(f"{owner}.{key} is {given!r}, the ImageDream extension supports {value!r} only")


def _shared(settings: Any, cfg: Any, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values that mean the same in both."""
    names = {name for name in settings.__dataclass_fields__ if name not in without}
    return {name: cfg[name] for name in names if name in cfg and cfg[name] is not None}


# ------------------------------------------------------------------------------------------------------------ data


@dataclass
class ForkCameraDataModuleConfig:
    """Keys of the fork's `data`, distances relative to the field of view (`relative_radius`)."""

    batch_size: Any = 1
    height: Any = 64
    width: Any = 64
    resolution_milestones: list[int] = field(default_factory=list)
    n_view: int = 1
    elevation_range: Any = (-10, 90)
    fovy_range: Any = (40, 70)
    camera_distance_range: Any = (1, 1.5)
    """Half the frame's height at the object in world units, despite its name."""
    light_position_perturb: float = 1.0
    light_distance_range: Any = (0.8, 1.5)
    n_val_views: int = 1
    n_test_views: int = 120
    eval_height: int = 512
    eval_width: int = 512
    eval_batch_size: int = 1
    eval_elevation_deg: float = 15.0
    eval_fovy_deg: float = 70.0
    eval_camera_distance: float = 1.5
    """In world units."""
    relative_radius: bool = True
    azimuth_range: Any = (-180, 180)
    zoom_range: Any = (1.0, 1.0)
    camera_perturb: float = 0.1
    center_perturb: float = 0.2
    up_perturb: float = 0.02
    progressive_until: int = 0
    batch_uniform_azimuth: bool = True
    light_sample_strategy: str = "dreamfusion"


def camera_settings(cfg: Any) -> dict[str, Any]:
    """The fork's `data` in the words of `imagedream-camera-datamodule`."""
    cfg = parse_structured(ForkCameraDataModuleConfig, cfg)
    _only(
        "data",
        cfg,
        relative_radius=True,
        azimuth_range=[-180, 180],
        zoom_range=[1.0, 1.0],
        camera_perturb=0.0,
        center_perturb=0.0,
        up_perturb=0.0,
        progressive_until=0,
        light_sample_strategy="dreamfusion",
    )
    return {
        **_shared(CameraDataModuleConfig, cfg),
        "relative_distance_range": list(cfg.camera_distance_range),
        "eval_relative_distance": cfg.eval_camera_distance * math.tan(math.radians(cfg.eval_fovy_deg) / 2),
    }


@register_if_free("random-multiview-camera-datamodule")
class ForkCameraDataModule(CameraDataModule):
    """`imagedream-camera-datamodule` with the fork's keys."""

    def __init__(self, cfg: Any = None) -> None:
        super().__init__(camera_settings(cfg or {}))


# -------------------------------------------------------------------------------------------------------- guidance


@dataclass
class ForkGuidanceConfig:
    """Keys of the fork's `system.guidance`."""

    model_name: str = "sd-v2.1-base-4view-ipmv"
    ckpt_path: str | None = None
    config_path: str | None = None
    """Not read: what the network is like is told by its weights and `ip_mode`."""
    ip_mode: str | None = None
    """`pixel` or `local`."""
    guidance_scale: Any = 50.0
    grad_clip: Any = None
    half_precision_weights: bool = True
    min_step_percent: Any = 0.02
    max_step_percent: Any = 0.98
    camera_condition_type: str = "rotation"
    view_dependent_prompting: bool = False
    n_view: int = 4
    image_size: int = 256
    """Not read: the weights' own size counts."""
    recon_loss: bool = True
    recon_std_rescale: Any = 0.5
    weights: Any = None


def guidance_settings(cfg: Any) -> dict[str, Any]:
    """The fork's `system.guidance` in the words of `imagedream-guidance`."""
    cfg = parse_structured(ForkGuidanceConfig, cfg)
    _only(
        "system.guidance", cfg, camera_condition_type="rotation", view_dependent_prompting=False, weights=None
    )
    if cfg.ip_mode not in (None, "pixel", "local"):
        raise ValueError(f"system.guidance.ip_mode is {cfg.ip_mode!r}, must be 'pixel' or 'local'")
    weights = cfg.ckpt_path
    if weights is None:
        file = f"{cfg.model_name}.pt"
        if file not in PUBLISHED:
            names = ", ".join(repr(name.removesuffix(".pt")) for name in PUBLISHED)
            raise ValueError(f"system.guidance.model_name is {cfg.model_name!r}, published are {names}")
        weights = f"{PUBLISHED[file].repository}/{file}"
    return {
        **_shared(ImageDreamGuidance.Config, cfg, without=("weights",)),
        "weights": weights,
        "controllers": cfg.ip_mode,
        "prompt_background": "mean_grey",
    }


@register_if_free("multiview-diffusion-guidance")
class ForkGuidance(ImageDreamGuidance):
    """`imagedream-guidance` with the fork's keys; the prompt is shown on the mean grey, as there."""

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the settings or the weights, without loading them."""
        ImageDreamGuidance.preflight(guidance_settings(cfg))

    def __init__(self, cfg: Any) -> None:
        super().__init__(guidance_settings(cfg))


# ---------------------------------------------------------------------------------------------------------- prompt


@dataclass
class ForkPromptConfig:
    """Keys of the fork's `system.prompt_processor`."""

    image_path: Any = None
    prompt: Any = ""
    negative_prompt: Any = ""
    pretrained_model_name_or_path: Any = None
    """Not read, like all that follow: the diffusion model brings its text encoder and knows its views by their cameras."""
    front_threshold: float = 45.0
    back_threshold: float = 45.0
    overhead_threshold: float = 60.0
    view_dependent_prompt_front: bool = False
    use_cache: bool = True
    spawn: bool = True


def prompt_settings(cfg: Any) -> dict[str, Any]:
    """The fork's `system.prompt_processor` in the words of `imagedream-prompt-processor`."""
    cfg = parse_structured(ForkPromptConfig, cfg)
    return {name: cfg[name] for name in ("image_path", "prompt", "negative_prompt")}


@threestudio.register("imagedream-fork-prompt-processor")
class ForkPromptProcessor(ImageDreamPromptProcessor):
    """`imagedream-prompt-processor` with the keys of the fork's `stable-diffusion-prompt-processor`."""

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the picture file or the captions."""
        ImageDreamPromptProcessor.preflight(prompt_settings(cfg))

    @classmethod
    def given(cls, cfg: Any) -> list[tuple[str, float | None]]:
        """The picture file, from wherever it was taken."""
        return super().given(prompt_settings(cfg))

    def __init__(self, cfg: Any) -> None:
        super().__init__(prompt_settings(cfg))


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
