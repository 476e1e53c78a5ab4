"""The prompt: a picture or several of the same object, and if wanted a caption."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from annotated_types import Interval

import threestudio
from imagedream.cameras import VIEW_NAMES
from imagedream.image_prompt.multi_image import with_azimuths
from imagedream.image_prompt.prompt import (
    OBJECT_FRACTION,
    ImagePrompt,
    ImagePromptError,
    load_image_prompt,
    open_picture,
)
from imagedream.image_prompt.prompt_camera import PromptCamera
from imagedream.runs.ranges import PromptSize, check_ranges
from imagedream.runs.settings import as_written
from threestudio.utils.base import BaseObject
from threestudio.utils.config import parse_structured


@dataclass(frozen=True)
class PromptOutput:
    """What `imagedream-guidance` needs to know of the prompt."""

    images: tuple[ImagePrompt, ...]
    prompt: str
    negative_prompt: str
    cameras: tuple[PromptCamera, ...] = ()
    """Where each picture was taken from, by the newest estimate; empty as long as there is none."""


@threestudio.register("imagedream-prompt-processor")
class ImageDreamPromptProcessor(BaseObject):
    """Reads and prepares the pictures. It has no text encoder: the diffusion model brings its own."""

    @dataclass
    class Config:
        """Keys of `system.prompt_processor`."""

        image_path: Any = None
        """A picture file; what is transparent in it, or looks like its border, is background."""
        mask_path: Any = None
        """A picture of the same aspect as that of `image_path`, white where the object is."""
        image_paths: list[Any] = field(default_factory=list)
        """Further pictures of the same object, from wherever."""
        front_path: Any = None
        """A picture of the object's front; a picture counts most in the rendered views from its own side."""
        left_path: Any = None
        back_path: Any = None
        right_path: Any = None
        prompt: Any = ""
        """Caption: what the object is."""
        negative_prompt: Any = ""
        """What guidance moves away from."""
        image_size: PromptSize = 256
        """Side in pixels of the prepared pictures."""
        object_fraction: Annotated[float, Interval(gt=0, le=1)] = OBJECT_FRACTION
        """The object's longest side over the picture's side."""

        def __post_init__(self) -> None:
            check_ranges(self, "system.prompt_processor")

    cfg: Config

    @classmethod
    def settings(cls, cfg: Any) -> Config:
        """What a config says, in the keys of `Config`."""
        return parse_structured(cls.Config, cfg)

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the picture files or the captions; takes milliseconds."""
        cfg = cls.settings(cfg)
        for key in ("prompt", "negative_prompt"):
            text = getattr(cfg, key)
            if not isinstance(text, str):
                raise ValueError(
                    f"system.prompt_processor.{key} must be text, got {text!r} ({type(text).__name__}); quote it"
                )
        for path, _ in cls._paths(cfg):
            open_picture(path)
        if cfg.mask_path is not None:
            if cfg.image_path is None:
                raise ImagePromptError("system.prompt_processor.mask_path needs image_path, whose mask it is")
            open_picture(cfg.mask_path)

    @staticmethod
    def _paths(cfg: Config) -> list[tuple[str, float | None]]:
        """The picture files, each with the azimuth it was taken from where that is known."""
        key = "system.prompt_processor."
        single = {
            name: getattr(cfg, name) for name in ("image_path", *(f"{side}_path" for side in VIEW_NAMES))
        }
        given = {
            **{key + name: path for name, path in single.items() if path is not None},
            **{f"{key}image_paths[{index}]": path for index, path in enumerate(cfg.image_paths)},
        }
        if not given:
            raise ImagePromptError(f"{key}image_path is None, must be the path of a picture file")
        for name, path in given.items():
            if not isinstance(path, str) or not path:
                raise ImagePromptError(f"{name} is {path!r}, must be the path of a picture file")
        unnamed = [path for path in (cfg.image_path, *cfg.image_paths) if path is not None]
        return with_azimuths(unnamed, {side: single[f"{side}_path"] for side in VIEW_NAMES})

    @classmethod
    def given(cls, cfg: Any) -> list[tuple[str, float | None]]:
        """The picture files, each with the azimuth it was taken from where that was said."""
        return cls._paths(cls.settings(cfg))

    @classmethod
    def read(cls, cfg: Any, size: int) -> tuple[ImagePrompt, ...]:
        """The pictures, cut out and framed alike whatever their size in pixels."""
        cfg = cls.settings(cfg)
        images: list[ImagePrompt] = []
        for path, azimuth_deg in cls._paths(cfg):
            # a mask is that of image_path, which comes first
            mask = None if images else cfg.mask_path
            image = load_image_prompt(path, size, cfg.object_fraction, mask)
            images.append(replace(image, azimuth_deg=azimuth_deg))
        return tuple(images)

    def configure(self) -> None:
        """Read and prepare the prompts."""
        cfg = self.cfg
        ImageDreamPromptProcessor.preflight(cfg)
        self.output = PromptOutput(
            ImageDreamPromptProcessor.read(cfg, cfg.image_size),
            as_written(cfg.prompt),
            as_written(cfg.negative_prompt),
        )

    def __call__(self) -> PromptOutput:
        """The prepared prompts."""
        return self.output
