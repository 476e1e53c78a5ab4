"""The prompt: a picture, and if wanted a caption."""

from dataclasses import dataclass
from typing import Any

import threestudio
from imagedream.image_prompt import (
    OBJECT_FRACTION,
    ImagePrompt,
    ImagePromptError,
    load_image_prompt,
    open_picture,
)
from threestudio.utils.base import BaseObject
from threestudio.utils.config import parse_structured


@dataclass(frozen=True)
class PromptOutput:
    """What `imagedream-guidance` needs to know of the prompt."""

    image: ImagePrompt
    caption: str
    negative_caption: str


@threestudio.register("imagedream-prompt-processor")
class ImageDreamPromptProcessor(BaseObject):
    """Reads and prepares the picture. It has no text encoder: the diffusion model brings its own."""

    @dataclass
    class Config:
        """Keys of `system.prompt_processor`."""

        image_path: Any = None
        """A picture file; what is transparent in it, or looks like its border, is background."""
        mask_path: Any = None
        """A picture of the same aspect, white where the object is."""
        prompt: Any = ""
        """Caption: what the object is."""
        negative_prompt: Any = ""
        """What guidance moves away from."""
        image_size: int = 256
        """Side in pixels of the prepared picture."""
        object_fraction: float = OBJECT_FRACTION
        """The object's longest side over the picture's side."""

    cfg: Config

    @classmethod
    def preflight(cls, cfg: Any) -> None:
        """Raise a ValueError that says what is wrong with the picture file or the captions; takes milliseconds."""
        cfg = parse_structured(cls.Config, cfg)
        for key in ("prompt", "negative_prompt"):
            text = getattr(cfg, key)
            if not isinstance(text, str):
                raise ValueError(
                    f"system.prompt_processor.{key} must be text, got {text!r} ({type(text).__name__}); quote it"
                )
        if not isinstance(cfg.image_path, str) or not cfg.image_path:
            raise ImagePromptError(
                f"system.prompt_processor.image_path is {cfg.image_path!r}, must be the path of a picture file"
            )
        for path in (cfg.image_path, cfg.mask_path):
            if path is not None:
                open_picture(path)

    def configure(self) -> None:
        """Read and prepare the prompt."""
        cfg = self.cfg
        self.preflight(cfg)
        image = load_image_prompt(cfg.image_path, cfg.image_size, cfg.object_fraction, cfg.mask_path)
        self.output = PromptOutput(image, cfg.prompt, cfg.negative_prompt)

    def __call__(self) -> PromptOutput:
        """The prepared prompt."""
        return self.output
