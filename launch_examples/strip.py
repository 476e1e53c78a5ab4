"""A trial folder as one picture: the prompt, the four views, the exported GLB from around (the README's strip).

python launch_examples/strip.py outputs/demo/robot [OUT]
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "custom" / "threestudio-imagedream"))

from imagedream.cameras import framing_distance, look_at_origin  # noqa: E402
from imagedream.mesh.raycast import Raycaster  # noqa: E402
from imagedream.pictures import composite, to_pil  # noqa: E402
from imagedream.workshop.mesh_files.reading import load_parts  # noqa: E402

TILE = 192


def main(trial: str, out: str = str(HERE / "strip.png")) -> None:
    """Write the strip of a finished trial."""
    save = Path(trial) / "save"
    prompt = Image.open(save / "prompt.png").convert("RGBA")
    white = Image.new("RGBA", prompt.size, "white")
    tiles = [Image.alpha_composite(white, prompt).convert("RGB")]
    with np.load(save / "views.npz") as views:
        tiles += [Image.fromarray(image) for image in views["images"]]
    parts = load_parts(max(save.glob("it*-export/model.glb"), key=lambda path: path.stat().st_mtime))
    azimuths = torch.tensor([-25.0, 35.0, 110.0, 200.0])
    fov = torch.full((4,), 45.0)
    cameras = look_at_origin(torch.full((4,), 15.0), azimuths, framing_distance(0.72, fov))
    for rgba in Raycaster(parts).render(cameras, fov, TILE, light=None, supersample=3).rgba:
        tiles.append(to_pil(composite(rgba, torch.ones(3))))
    strip = Image.new("RGB", (TILE * len(tiles), TILE), "white")
    for index, tile in enumerate(tiles):
        strip.paste(tile.resize((TILE, TILE), Image.Resampling.LANCZOS), (index * TILE, 0))
    strip.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
