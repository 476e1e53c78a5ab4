"""`convert`: somebody else's weights become a model folder."""

from dataclasses import dataclass
from typing import Literal

import tyro

from imagedream.cli.verb import OutPath, Verb, say


@dataclass(frozen=True)
class Convert(Verb):
    """Published weights -> a model folder (safetensors)."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """A file (.pt, .ckpt, .safetensors), a folder, an id on the Hugging Face hub, or `toybox`."""
    out: OutPath = tyro.MISSING
    """Folder to make."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights."""
    controllers: Literal["local", "pixel"] | None = None
    """Which of the two a file with image tokens is: nothing in it tells them apart. Otherwise pixel, unless known."""

    def run(self) -> None:  # noqa: D102
        from imagedream import checkpoints

        if self.out.exists() and (self.out.is_file() or any(self.out.iterdir())):
            raise FileExistsError(f"--out is {self.out}, which exists already; name a new or an empty folder")
        checkpoints.check(self.source)
        import torch

        pipeline = checkpoints.load(
            self.source, dtype=getattr(torch, self.dtype), controllers=self.controllers
        )
        from imagedream.runs.files import atomic_folder

        with atomic_folder(self.out) as folder:
            pipeline.save_pretrained(folder)
        say(self.out)
