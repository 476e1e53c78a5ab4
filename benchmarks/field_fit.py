"""The field by itself: fitted to true views of toys, with other samples along its rays.

    OMP_NUM_THREADS=1 python benchmarks/field_fit.py --out benchmarks/results/field_fit

No network: what limits the fit here is the field, its renderer and the steps. Each variant is the same fit with other
settings of `system.renderer`. Samples are those of a step that are given a gradient; seconds are processor seconds, told
as a ratio to the first variant of the same run. PSNR and IoU are of views that were not fitted to, all on white.

A full-size field (`--config imagedream-fast.yaml --pixels 256`) takes more than ten minutes for 20 steps on a CPU.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "custom" / "threestudio-imagedream"), str(ROOT / "embedded"), str(ROOT)]

import torch  # noqa: E402
import tyro  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from torch import nn  # noqa: E402

import threestudio  # noqa: E402
from imagedream import cameras  # noqa: E402
from imagedream.metrics import psnr, silhouette_iou  # noqa: E402
from imagedream.pictures import over_white  # noqa: E402
from imagedream.runs.settings import read_with_bases  # noqa: E402
from imagedream.workshop.evaluation.held_out_objects import Orbit, held_out_cases  # noqa: E402
from imagedream.workshop.evaluation.tables import markdown_table, mean_scores, save_results  # noqa: E402
from threestudio.systems.utils import parse_optimizer  # noqa: E402
from threestudio.utils.base import Updateable  # noqa: E402

FITTED = [
    Orbit(tuple(range(start, 360 + start, 45)), elevation)
    for start, elevation in [(0, 0.0), (9, 10.0), (18, 20.0), (27, -10.0), (36, 40.0)]
]
HELD_OUT = Orbit(tuple(range(20, 380, 45)), 15.0)


@dataclass(frozen=True)
class Settings:
    """What is fitted."""

    config: str = "imagedream-toybox-fast.yaml"
    """Whose field and renderer."""
    variants: tuple[str, ...] = tuple(f"num_samples_per_ray={count}" for count in (96, 80, 64, 48, 32))
    """Settings of `system.renderer`, several joined by commas; the first is what the others are compared with."""
    toys: int = 4
    pixels: int = 64
    """Side of the views."""
    rays: int = 2048
    """Of a step, anywhere in the views."""
    steps: int = 240
    out: Path | None = None
    """Write OUT.md and OUT.json."""


class Field(nn.Module, Updateable):
    """Geometry, material and renderer of a config, as a system holds them."""

    def __init__(self, system: Any):
        super().__init__()
        self.geometry = threestudio.find(system.geometry_type)(system.geometry)
        self.material = threestudio.find("no-material")({"n_output_dims": 3, "color_activation": "sigmoid"})
        self.renderer = threestudio.find(system.renderer_type)(
            system.renderer,
            geometry=self.geometry,
            material=self.material,
            background=lambda dirs: torch.zeros_like(dirs),
        )
        names = [name for name in system.optimizer.params if name.startswith("geometry")]
        groups = OmegaConf.masked_copy(system.optimizer.params, names)
        self.optimizer = parse_optimizer({**system.optimizer, "params": groups}, self)


def system_of(config: str, variant: str) -> Any:
    """A config's `system`, its renderer changed."""
    merged = OmegaConf.merge({}, *read_with_bases(ROOT / "configs" / config).values())
    changed = OmegaConf.from_dotlist([f"system.renderer.{one}" for one in variant.split(",")])
    return OmegaConf.merge(merged, changed).system


def rays_of(orbits: list[Orbit], pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and directions `(view, pixels, pixels, 3)`."""
    origins, directions = [], []
    for orbit in orbits:
        azimuth = torch.tensor(orbit.azimuths_deg, dtype=torch.float32)
        fov = torch.full_like(azimuth, orbit.fov_y_deg)
        distance = cameras.framing_distance(orbit.relative_distance, fov)
        poses = cameras.look_at_origin(torch.full_like(azimuth, orbit.elevation_deg), azimuth, distance)
        for all_rays, some in zip(
            (origins, directions), cameras.rays(poses, fov, pixels, pixels), strict=True
        ):
            all_rays.append(some)
    return torch.cat(origins), torch.cat(directions)


def fit(toy: Any, variant: str, settings: Settings) -> dict[str, float]:
    """Scores of one field."""
    torch.manual_seed(0)
    model = Field(system_of(settings.config, variant))
    rgba = torch.cat([orbit.views(toy.mesh, settings.pixels, lit=False).rgba for orbit in FITTED])
    rgba = rgba.movedim(1, -1).reshape(-1, 4)
    rays_o, rays_d = (rays.reshape(-1, 3) for rays in rays_of(FITTED, settings.pixels))
    samples, seconds = 0, time.process_time()
    for step in range(settings.steps):
        if step == settings.steps * 7 // 8:
            for group in model.optimizer.param_groups:
                group["lr"] *= 0.3
        model.do_update_step(0, step)
        chosen = torch.randint(len(rgba), (settings.rays,))
        shape = (1, 1, settings.rays, 3)
        out = model.renderer(rays_o[chosen].view(shape), rays_d[chosen].view(shape), torch.zeros(1, 3))
        behind = torch.rand(settings.rays, 3)
        colour, alpha = rgba[chosen, :3], rgba[chosen, 3:]
        got = out["comp_rgb_fg"].view(-1, 3) + (1 - out["opacity"].view(-1, 1)) * behind
        loss = (got - (colour * alpha + behind * (1 - alpha))).abs().mean()
        model.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        model.optimizer.step()
        samples += len(out["weights"])
    seconds = time.process_time() - seconds
    model.eval()
    truth = HELD_OUT.views(toy.mesh, settings.pixels, lit=False).rgba
    with torch.no_grad():
        out = model.renderer(*rays_of([HELD_OUT], settings.pixels), torch.zeros(len(truth), 3))
    opacity = out["opacity"].movedim(-1, 1)
    shown = out["comp_rgb_fg"].movedim(-1, 1) + 1 - opacity
    white = over_white(truth)
    return {
        "PSNR dB": float(psnr(shown, white).mean()),
        "IoU": float(silhouette_iou(opacity[:, 0] > 0.5, truth[:, 3] > 0.5).mean()),
        "samples a step": samples / settings.steps,
        "seconds": seconds,
    }


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    toys = [case.object for case in held_out_cases(settings.toys)]
    scores = {variant: [fit(toy, variant, settings) for toy in toys] for variant in settings.variants}
    means = {variant: mean_scores(rows) for variant, rows in scores.items()}
    first = means[settings.variants[0]]
    table = [
        {
            "variant": variant,
            "PSNR dB": round(mean["PSNR dB"], 2),
            "IoU": round(mean["IoU"], 4),
            "samples a step": round(mean["samples a step"]),
            "of the first": round(mean["samples a step"] / first["samples a step"], 2),
            "processor seconds, of the first": round(mean["seconds"] / first["seconds"], 2),
        }
        for variant, mean in means.items()
    ]
    text = (
        f"# Fit of the field\n\n`{settings.config}`, the first {settings.toys} held-out toys, {settings.pixels} px, 40 true views, "
        f"{settings.rays} rays a step, {settings.steps} steps, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n"
        + markdown_table(table)
    )
    print(text)
    if settings.out is not None:
        save_results(settings.out, text, scores)


if __name__ == "__main__":
    main()
