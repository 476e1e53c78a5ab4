"""The two pictures of the documents: axes and canonical views, and the road from a picture to a GLB.

python docs/draw_pictures.py outputs/demo/robot    # a finished run: make demo
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "custom" / "threestudio-imagedream"))
matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

from imagedream.cameras import (  # noqa: E402
    VIEW_NAMES,
    framing_distance,
    look_at_origin,
    orthogonal_azimuths,
)
from imagedream.mesh.raycast import Raycaster  # noqa: E402
from imagedream.pictures import composite, to_pil  # noqa: E402
from imagedream.toybox import make_toy  # noqa: E402
from imagedream.workshop.mesh_files.reading import load_parts  # noqa: E402

RED, GREEN, BLUE, GREY = "#c0392b", "#218c53", "#2458a6", "#555555"
WHITE = torch.ones(3)


def views_of(mesh, azimuths_deg: torch.Tensor, elevation_deg: float, size: int) -> list[Image.Image]:
    """Pictures of a mesh on white."""
    fov = torch.full(azimuths_deg.shape, 45.0)
    cameras = look_at_origin(
        torch.full(azimuths_deg.shape, elevation_deg), azimuths_deg, framing_distance(0.75, fov)
    )
    views = Raycaster(mesh).render(cameras, fov, size, light=None, supersample=3)
    return [to_pil(composite(rgba, WHITE)) for rgba in views.rgba]


def place(figure, image: Image.Image, x: float, y: float, size: float) -> None:
    """Put a picture of this side around (x, y), in inches."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes(
        [(x - size / 2) / width, (y - size / 2) / height, size / width, size / height], zorder=2
    )
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])


def plan(figure) -> "plt.Axes":
    """Empty axes in inches over the whole figure."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes([0, 0, 1, 1], zorder=1)
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return axes


def arrow(axes, start: tuple, end: tuple, colour: str, width: float = 1.5) -> None:
    """An arrow without text."""
    axes.annotate(
        "",
        end,
        start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0},
    )


def draw_axes(out: Path) -> None:
    """World axes seen from above and at an angle, and the four canonical views around the object."""
    toy = make_toy(1, kind="car").mesh
    figure = plt.figure(figsize=(9, 4.9))
    axes = plan(figure)
    # left: the axes, drawn with the very camera that renders the toy
    fov, size, centre = 45.0, 3.4, (2.1, 2.35)
    camera = look_at_origin(torch.tensor(28.0), torch.tensor(35.0), torch.tensor(2.4))
    rgba = Raycaster(toy).render(camera[None], torch.tensor([fov]), 480, light=None, supersample=3).rgba[0]
    place(figure, to_pil(composite(rgba, WHITE)), *centre, size)
    figure.axes[-1].axis("off")
    over = plan(figure)
    over.set_zorder(3)
    rotation, position = camera[:3, :3], camera[:3, 3]
    for direction, colour, label in (
        ((1.0, 0, 0), RED, "+x  front"),
        ((0, 1.0, 0), GREEN, "+y  the object's left"),
        ((0, 0, 0.95), BLUE, "+z  up"),
    ):
        ends = []
        for share in (0.45, 0.8):
            local = rotation.T @ (torch.tensor(direction) * share - position)
            pixel = local[:2] / -local[2] / np.tan(np.radians(fov / 2)) * size / 2
            ends.append((centre[0] + pixel[0].item(), centre[1] + pixel[1].item()))
        arrow(over, *ends, colour, 2.5)
        over.text(ends[1][0], ends[1][1] + (0.12 if direction[2] else -0.2), label, color=colour, ha="center")
    over.text(centre[0], 4.55, "World: right-handed, +z up", ha="center", weight="bold")
    # right: seen from above, +x to the right
    middle, radius = (6.7, 2.3), 1.05
    axes.text(middle[0], 4.55, "Canonical views, from above", ha="center", weight="bold")
    (above,) = views_of(toy, torch.tensor([0.0]), 89.9, 240)
    place(figure, above.rotate(90), *middle, 1.0)  # the camera's up is −x there
    figure.axes[-1].axis("off")
    azimuths = orthogonal_azimuths(0.0)
    for azimuth, name, view in zip(azimuths, VIEW_NAMES, views_of(toy, azimuths, 5.0, 240), strict=True):
        angle = np.radians(azimuth.item())
        direction = np.array([np.cos(angle), np.sin(angle)])
        arrow(axes, tuple(middle + direction * radius), tuple(middle + direction * radius * 0.55), GREY)
        at = middle + direction * np.array([1.75, 1.62])
        place(figure, view, *at, 0.86)
        axes.text(at[0], at[1] - 0.56, f"{name}, azimuth {azimuth:.0f}°", ha="center", fontsize=8.5)
    turn = np.radians(np.linspace(12, 62, 30))
    path = np.array(middle)[:, None] + 1.15 * np.stack([np.cos(turn), np.sin(turn)])
    axes.plot(*path, color=RED, lw=1.2)
    arrow(axes, tuple(path[:, -2]), tuple(path[:, -1]), RED, 1.2)
    axes.text(path[0, 15] + 0.08, path[1, 15] + 0.08, "azimuth", color=RED, fontsize=8.5)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def draw_road(trial: Path, out: Path) -> None:
    """The stations between a picture and its GLB, with the files that lead from one to the next."""
    save = trial / "save"
    prompt = Image.open(save / "prompt.png").convert("RGBA")
    with np.load(save / "views.npz") as stored:
        four = [
            Image.fromarray(view).resize((120, 120), Image.Resampling.LANCZOS) for view in stored["images"]
        ]
    sheet = Image.new("RGB", (240, 240))
    for number, view in enumerate(four):
        sheet.paste(view, (number % 2 * 120, number // 2 * 120))
    turntable = sorted(save.glob("it*-test/0.png"))[-1]
    field = Image.open(turntable).convert("RGB")
    field = field.crop((0, 0, field.height, field.height))
    parts = load_parts(max(save.glob("it*-export/model.glb"), key=lambda path: path.stat().st_mtime))
    (model,) = views_of(parts, torch.tensor([30.0]), 15.0, 360)
    picture = Image.open(HERE.parent / "launch_examples" / f"{trial.name}.png").convert("RGBA")
    stations = (
        ("picture", picture),
        ("prompt: cut out, centred", prompt),
        ("four views", sheet),
        ("radiance field", field),
        ("textured GLB", model),
    )
    roads = (
        "image_prompt/",
        "encoders.py\nmodel.py\npipeline.py",
        "cameras.py\ndistillation.py\nand the extension",
        "mesh/",
    )
    figure = plt.figure(figsize=(12.4, 2.35))
    axes = plan(figure)
    step, size, height = 2.52, 1.5, 1.15
    for number, (title, image) in enumerate(stations):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        x = 0.95 + number * step
        place(figure, image, x, height, size)
        axes.text(x, height + 0.92, title, ha="center", weight="bold", fontsize=10)
        if number < len(roads):
            arrow(axes, (x + size / 2 + 0.06, height), (x + step - size / 2 - 0.06, height), GREY, 2)
            axes.text(
                x + step / 2, height - 0.12, roads[number], ha="center", va="top", fontsize=7.5, color=BLUE
            )
    axes.text(
        0.95 + 2.5 * step,
        0.12,
        "the four views are a preview; the field is optimised by the same network, step by step",
        ha="center",
        fontsize=8.5,
        color=GREY,
    )
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    draw_axes(HERE / "pictures" / "axes.png")
    draw_road(Path(sys.argv[1]), HERE / "pictures" / "road.png")
