"""The four views alone, from Python: picture + prompt -> front, left, back, right.

python launch_examples/four_views.py [PICTURE [PROMPT [OUT]]]
"""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "custom" / "threestudio-imagedream"))

from imagedream import checkpoints  # noqa: E402
from imagedream.pictures import label_strip  # noqa: E402


def main(picture: str = str(HERE / "robot.png"), prompt: str = "a toy", out: str = "views.png") -> None:
    """Load the small model that ships and sample four views."""
    pipeline = checkpoints.load("toybox")
    views = pipeline(picture, prompt, elevation_deg=10.0, generator=torch.Generator().manual_seed(0))
    label_strip(views.images, views.azimuths_deg).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
