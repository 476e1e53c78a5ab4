"""`convert`: somebody else's weights become a model folder, and back."""

from dataclasses import dataclass
from typing import Literal

import tyro

from imagedream.cli.verb import OutPath, Verb, say


@dataclass(frozen=True)
class Convert(Verb):
    """Published weights -> a model folder (safetensors), or a model -> the official file."""

    source: tyro.conf.Positional[str] = tyro.MISSING
    """A file (.pt, .ckpt, .safetensors), a folder, an id on the Hugging Face hub, or `toybox`."""
    out: OutPath = tyro.MISSING
    """Folder to make; with `--to official` the .pt file to write."""
    to: Literal["folder", "official"] = "folder"
    """`official`: the layout of the ImageDream release, in float32."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights in a folder."""
    controllers: Literal["local", "pixel"] | None = None
    """Which of the two a file with image tokens is: nothing in it tells them apart. Otherwise pixel, unless known."""

    def run(self) -> None:  # noqa: D102
        from imagedream import checkpoints

        if self.to == "official" and self.out.suffix != ".pt":
            raise ValueError(f"--out is {self.out}, with --to official its name must end in .pt")
        if self.to == "official" and self.dtype != "float32":
            raise ValueError(f"--dtype is {self.dtype}, the official layout is in float32")
        if self.to == "folder" and self.out.exists() and (self.out.is_file() or any(self.out.iterdir())):
            raise FileExistsError(f"--out is {self.out}, which exists already; name a new or an empty folder")
        checkpoints.check(self.source)
        import torch

        pipeline = checkpoints.load(
            self.source, dtype=getattr(torch, self.dtype), controllers=self.controllers
        )
        if self.to == "official":
            from imagedream.checkpoints.official import save_official

            save_official(pipeline, self.out)
        else:
            from imagedream.runs.files import atomic_folder

            with atomic_folder(self.out) as folder:
                pipeline.save_pretrained(folder)
        say(self.out)
