"""`prepare`: a picture becomes an image prompt."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from imagedream.cli.verb import OutPath, Verb, check_ending, say


@dataclass(frozen=True)
class Prepare(Verb):
    """Any picture -> the prompt the model sees: cut out, centred, in a square frame with transparency."""

    picture: tyro.conf.Positional[Path] = tyro.MISSING
    """PNG, JPEG, WebP, ...; of any colour mode."""
    out: OutPath = Path("rgba.png")
    """PNG file to write."""
    size: int = 256
    """Side of the frame in pixels."""
    object_fraction: float = 0.9
    """Longest side of the object over the side of the frame."""
    mask: Path | None = None
    """Picture that is white where the object is; otherwise transparency is used, or the background is removed."""

    def run(self) -> None:  # noqa: D102
        check_ending(self.out, (".png",))
        from imagedream.image_prompt.prompt import load_image_prompt

        load_image_prompt(self.picture, self.size, self.object_fraction, self.mask).save(self.out)
        say(self.out)
