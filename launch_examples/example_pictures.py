"""Render the example pictures beside this script: held-out toys, seen a little from the side.

python launch_examples/example_pictures.py
"""

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "custom" / "threestudio-imagedream"))

from imagedream.cameras import framing_distance, look_at_origin  # noqa: E402
from imagedream.image_prompt.prompt import place  # noqa: E402
from imagedream.mesh.raycast import Raycaster  # noqa: E402
from imagedream.pictures import to_pil  # noqa: E402
from imagedream.toybox import make_toy  # noqa: E402

EXAMPLES = {"robot": (2, 25.0), "car": (5, -30.0), "house": (3, 20.0), "mug": (11, -15.0)}
"""Kind -> seed of the held-out toy, azimuth in degrees."""


def main() -> None:
    """Write a 512-pixel RGBA picture for each example and print its caption."""
    fov = torch.tensor([40.0])
    for kind, (seed, azimuth_deg) in EXAMPLES.items():
        toy = make_toy(seed, kind, split="heldout")
        camera = look_at_origin(
            torch.tensor([12.0]), torch.tensor([azimuth_deg]), framing_distance(0.75, fov)
        )
        view = Raycaster(toy.mesh).render(camera, fov, 640, supersample=2).rgba[0]
        to_pil(place(view, 512, 0.85)).save(HERE / f"{kind}.png")
        print(f"{kind}.png: {toy.caption}")


if __name__ == "__main__":
    main()
