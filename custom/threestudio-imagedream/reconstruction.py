"""Guidance that has pictures made and holds renders against them: `imagedream.reconstruction` in threestudio's call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Predicate
from torch import Tensor

import threestudio
from imagedream.cameras import camera_condition, orthogonal_azimuths
from imagedream.runs.ranges import (
    Count,
    ElevationDeg,
    FieldOfViewDeg,
    Fraction,
    Length,
    Schedule,
    Size,
    ascending,
    not_empty,
)
from imagedream.runs.seeds import step_generator
from threestudio.utils.misc import C

from .data import camera_batch, on_device
from .guidance import DiffusionGuidance
from .prompt_processor import PromptOutput

STREAM = 3

WHITE = (1.0, 1.0, 1.0)


@threestudio.register("imagedream-reconstruction-guidance")
class ReconstructionGuidance(DiffusionGuidance):
    """Score-based iterative reconstruction, as `system.guidance`.

    The data module says how many patches a step shows (`batch_size`) and how large they are (`height`, `width`).
    """

    @dataclass
    class Config(DiffusionGuidance.Config):
        """Keys of `system.guidance` for reconstruction, `imagedream-reconstruction-guidance`."""

        first_groups: Count = 2
        """Groups of four views that are sampled in the beginning, as `system.views` says, each turned into the gaps of those
        before. The first group, the third and so on are in front of white, the others in front of random colours that
        the pictures do not have, also those of the rounds."""
        round_steps: Annotated[list[int], Ge(1), Predicate(ascending)] = field(default_factory=list)
        """Steps at which the model completes a group of views of the field as it is then."""
        min_step_percent: Annotated[Any, Schedule(Fraction)] = 0.3
        max_step_percent: Annotated[Any, Schedule(Fraction)] = 0.5
        """Fractions of the training timesteps: renders are noised as far as the first, carried on to the second by DDIM
        inversion, which keeps what they show, and denoised from there."""
        inversion_steps: Size = 4
        denoising_steps: Size = 8
        """Network evaluations of a round: the first without guidance, the others with it."""
        elevations_deg: Annotated[list[ElevationDeg], Predicate(not_empty)] = field(
            default_factory=lambda: [5.0]
        )
        """Of the rounds in turn."""
        fovy_deg: FieldOfViewDeg = 47.5
        relative_distance: Length = 0.7
        """Half the frame's height at the object, in world units. The model is told of neither."""
        most_views: Count | None = None
        """That the field is fitted to, the newest; None is all."""

    cfg: Config

    def configure(self) -> None:
        """Load the model."""
        super().configure()
        self.targets: Any = None
        """`TargetViews` that there are so far; a resumed run is given those that it had."""
        self.has_new_targets = False
        """Since whoever keeps them has set it to False."""

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Evaluate the schedules at a training step, and begin its random numbers."""
        super().update_step(epoch, global_step, on_load_weights)
        low, high = self.cfg.min_step_percent, self.cfg.max_step_percent
        self.noise_levels = (float(C(low, epoch, global_step)), float(C(high, epoch, global_step)))

    def begin(self, prompt: PromptOutput, output: Any, seed: int, **how: Any) -> None:
        """Take the first group's views, and have those of the other first groups sampled likewise.

        Args:
            prompt: pictures and texts.
            output: of `sample_views`, in front of white.
            seed: of `output`; further groups count on from there.
            **how: they were sampled.
        """
        from imagedream import reconstruction

        groups = [self._targets(output.images, output.azimuths_deg, output.elevations_deg, WHITE, 0)]
        for number in range(1, self.cfg.first_groups):
            colour = self._colour(number)
            turned = {**how, "azimuth_deg": reconstruction.turned_azimuth(number, self.cfg.n_view)}
            output = self.sample_views(prompt, seed + number, colour, **turned)
            groups.append(self._targets(output.images, output.azimuths_deg, output.elevations_deg, colour, 0))
        self.targets, self.has_new_targets = reconstruction.TargetViews.joined(groups), True

    def read_targets(self, path: Path) -> None:
        """Take the target views of an earlier part of the run."""
        from imagedream import reconstruction

        with np.load(path, allow_pickle=False) as stored:
            self.targets = reconstruction.TargetViews.from_arrays(stored)

    @staticmethod
    def _colour(group: int) -> tuple[float, ...]:
        """White and random colours in turn, so that both white and coloured parts end somewhere."""
        if group % 2 == 0:
            return WHITE
        return tuple(torch.rand(3, generator=step_generator(torch.initial_seed(), group, STREAM)).tolist())

    def _targets(self, images: Tensor, azimuths_deg: Any, elevations_deg: Any, colour: Any, step: int) -> Any:
        from imagedream import reconstruction

        count = len(images)
        return reconstruction.TargetViews(
            # of 8 bits, as they are kept for a resumed run
            (images.float().cpu().movedim(1, -1).clamp(0, 1) * 255).round() / 255,
            torch.as_tensor(azimuths_deg, dtype=torch.float32).cpu(),
            torch.as_tensor(elevations_deg, dtype=torch.float32).cpu(),
            torch.tensor(colour).expand(count, 3),
            torch.full((count,), step),
        )

    def camera_batch(
        self, prompt: PromptOutput, batch: dict[str, Any], render: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> dict[str, Any]:
        """Cameras of patches of target views, as many and as large as the batch's pictures; first the rounds that are due.

        Raises:
            ValueError: patches larger than the views, or a guidance that was not begun.
        """
        from imagedream import reconstruction

        if self.targets is None:
            raise ValueError(
                "imagedream-reconstruction-guidance has no views to begin with: it must be system.guidance_type, "
                "not one of system.guidances"
            )
        for number, step in enumerate(self.cfg.round_steps):
            if step <= self.step and step not in self.targets.step:
                completed = self.complete_round(prompt, render, number, step)
                self.targets = reconstruction.TargetViews.joined([self.targets, completed])
                self.has_new_targets = True
        views = self.targets.at(self.step, self.cfg.most_views)
        count, height, width = batch["rays_o"].shape[:3]
        size = views.images.shape[1]
        patches = reconstruction.draw_patches(len(views), size, count, height, width, self.generator)
        self._shown = views[patches.picture], patches.cut(views.images)
        cameras = self.cameras(self._shown[0].elevation_deg, self._shown[0].azimuth_deg, size)
        own = reconstruction.Patches(torch.arange(count), patches.top, patches.left, height, width)
        rays = {name: own.cut(cameras[name]) for name in ("rays_o", "rays_d")}
        return on_device({**cameras, **rays, "height": height, "width": width}, batch["rays_o"].device)

    def cameras(self, elevation_deg: Tensor, azimuth_deg: Tensor, size: int) -> dict[str, Any]:
        """Cameras that show whole target views."""
        framing = (self.cfg.relative_distance, self.cfg.fovy_deg)
        distances, fovy = (torch.full_like(azimuth_deg, value) for value in framing)
        return camera_batch(elevation_deg, azimuth_deg, distances, fovy, size, size)

    @torch.no_grad()
    def complete_round(
        self, prompt: PromptOutput, render: Callable[..., dict[str, Any]], number: int, step: int
    ) -> Any:
        """Target views of a round: what the model makes of renders, between those of the groups before."""
        from imagedream import reconstruction

        cfg = self.cfg
        group = cfg.first_groups + number
        elevation = torch.full((cfg.n_view,), float(cfg.elevations_deg[number % len(cfg.elevations_deg)]))
        azimuth = orthogonal_azimuths(reconstruction.turned_azimuth(group, cfg.n_view), cfg.n_view)
        cameras = on_device(self.cameras(elevation, azimuth, self.pipeline.image_size), self.device)
        out = render(cameras)
        colour = torch.tensor(self._colour(group), device=self.device)
        settings = reconstruction.ReconstructionSettings(
            guidance_scale=self.guidance_scale,
            inversion_steps=cfg.inversion_steps,
            denoising_steps=cfg.denoising_steps,
            groups_per_call=cfg.groups_per_call,
        )
        with torch.autocast(self.device.type, enabled=False):
            pictures = out["comp_rgb_fg"] + (1 - out["opacity"]) * colour
            completed = reconstruction.complete_views(
                self.pipeline.unet,
                self.pipeline.scheduler,
                self.encode_images(pictures.float())[None],
                camera_condition(cameras["c2w"].float())[None],
                *self.conditions(prompt, colour[None], azimuth[None].to(self.device)),
                self.noise_levels,
                settings,
                generator=step_generator(torch.initial_seed(), step, STREAM),
            )
            images = self.pipeline.decode_latents(completed[0])
        return self._targets(images, azimuth, elevation, colour.tolist(), step)

    def __call__(self, rgb: Tensor, render: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """How far the patches that `camera_batch` chose are from their targets.

        Args:
            rgb: renders `(patch, height, width, 3)`, on whatever background.
            render: all that the renderer gave.
            **kwargs: the rest of the batch, not needed.

        Returns:
            `loss_sds` with gradient (the name that `system.loss` weighs guidance by), and the number of target views.
        """
        from imagedream import reconstruction

        views, pixels = self._shown
        with torch.autocast(rgb.device.type, enabled=False):
            loss = reconstruction.view_loss(
                render["comp_rgb_fg"].float(),
                render["opacity"].float(),
                pixels.to(rgb.device),
                views.background.to(rgb.device),
            )
        return {"loss_sds": loss, "target_views": float(len(self.targets.at(self.step, self.cfg.most_views)))}
