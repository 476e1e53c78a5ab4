"""nerf-volume-renderer: emission-absorption volume rendering on an occupancy grid."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

import threestudio
from threestudio.models.background.base import BaseBackground
from threestudio.models.estimators import (
    OccGridEstimator,
    accumulate_along_rays,
    render_weight_from_density,
)
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.renderers.base import VolumeRenderer
from threestudio.utils.ops import chunk_batch, validate_empty_rays

_GRID_RESOLUTION = 32


@threestudio.register("nerf-volume-renderer")
class NeRFVolumeRenderer(VolumeRenderer):
    @dataclass
    class Config(VolumeRenderer.Config):
        num_samples_per_ray: int = 512
        eval_chunk_size: int = 160000
        randomized: bool = True
        return_comp_normal: bool = False
        """Also in training, where the material asks for normals."""

    cfg: Config

    def configure(
        self, geometry: BaseImplicitGeometry, material: BaseMaterial, background: BaseBackground
    ) -> None:
        super().configure(geometry, material, background)
        self.estimator = OccGridEstimator(self.bbox.view(-1), _GRID_RESOLUTION)
        # as long as the box's diagonal is divided into
        self.render_step_size = 1.732 * 2 * self.cfg.radius / self.cfg.num_samples_per_ray

    def forward(
        self,
        rays_o: Float[Tensor, "batch height width 3"],
        rays_d: Float[Tensor, "batch height width 3"],
        light_positions: Float[Tensor, "batch 3"],
        **kwargs,
    ) -> dict[str, Tensor]:
        """Render the rays.

        Args:
            rays_o: origins in world units.
            rays_d: unit directions.
            light_positions: one point light an image, in world units.
            **kwargs: the rest of the batch; in training the material gets it.

        Returns:
            `comp_rgb`, `comp_rgb_fg`, `comp_rgb_bg`, `opacity`, `depth`, `z_variance` and with normals `comp_normal`,
            all (batch, height, width, channel); in training also what each sample was (see the code).
        """
        image_shape = rays_o.shape[:-1]
        n_rays = image_shape.numel()
        origins, directions = rays_o.reshape(n_rays, 3), rays_d.reshape(n_rays, 3)
        ray_indices, t_starts, t_ends = self._sample(origins, directions)
        t_points, t_intervals = (t_starts + t_ends)[:, None] / 2, (t_ends - t_starts)[:, None]
        t_dirs = directions.index_select(0, ray_indices)
        points = torch.addcmul(origins.index_select(0, ray_indices), t_dirs, t_points)
        lights = light_positions.index_select(0, ray_indices // (n_rays // len(rays_o)))

        geometry, rgb = self._evaluate(points, t_dirs, lights, kwargs)
        comp_rgb_bg = self._background(rays_d)
        weights, _, _ = render_weight_from_density(
            t_starts, t_ends, geometry["density"][:, 0], ray_indices, n_rays
        )

        def composite(values: Tensor | None) -> Tensor:
            return accumulate_along_rays(weights, values, ray_indices, n_rays)

        opacity = composite(None)
        # colours, depth and normals in one sum
        channels = [rgb, t_points] + ([geometry["normal"]] if self._composites_normals(geometry) else [])
        summed = composite(torch.cat(channels, dim=-1)).split(
            [channel.shape[-1] for channel in channels], dim=-1
        )
        comp_rgb_fg, depth = summed[:2]
        mean_t = depth / opacity.clamp(min=1e-5)
        variance = composite((t_points - mean_t.index_select(0, ray_indices)) ** 2) / opacity.clamp(min=1e-5)

        output = {
            "comp_rgb": comp_rgb_fg + comp_rgb_bg.reshape(n_rays, -1) * (1 - opacity),
            "comp_rgb_fg": comp_rgb_fg,
            "comp_rgb_bg": comp_rgb_bg,
            "opacity": opacity,
            "depth": depth,
            "z_variance": variance * (opacity > 0.5),
        }
        if len(channels) == 3:
            output["comp_normal"] = (F.normalize(summed[2], dim=-1) + 1) / 2 * opacity
        output = {key: value.reshape(*image_shape, -1) for key, value in output.items()}
        if not self.training:
            return {key: value.detach() for key, value in output.items()}
        samples = {
            "weights": weights[:, None],
            "t_points": t_points,
            "t_intervals": t_intervals,
            "t_dirs": t_dirs,
            "ray_indices": ray_indices,
            "points": points,
        }
        return output | samples | geometry

    def _composites_normals(self, geometry: dict[str, Tensor]) -> bool:
        return "normal" in geometry and (self.cfg.return_comp_normal or not self.training)

    def _sample(
        self, origins: Float[Tensor, "ray 3"], directions: Float[Tensor, "ray 3"]
    ) -> tuple[Int[Tensor, " sample"], Float[Tensor, " sample"], Float[Tensor, " sample"]]:
        """Ray indices, starts and ends of the samples that matter; at least one sample."""

        def density_at(t_starts: Tensor, t_ends: Tensor, ray_indices: Tensor) -> Tensor:
            middle = (t_starts + t_ends)[:, None] / 2
            start, direction = (rays.index_select(0, ray_indices) for rays in (origins, directions))
            points = torch.addcmul(start, direction, middle)
            if self.training:
                return self.geometry.forward_density(points)[:, 0]
            return chunk_batch(self.geometry.forward_density, self.cfg.eval_chunk_size, points)[:, 0]

        samples = self.estimator.sampling(
            origins,
            directions,
            self.render_step_size,
            density=density_at,
            jitter=self.training and self.cfg.randomized,
        )
        if len(samples[0]) == 0:
            threestudio.warn("no ray meets anything: the picture is all background")
        return validate_empty_rays(*samples)

    def _evaluate(
        self, points: Tensor, t_dirs: Tensor, lights: Tensor, batch: dict
    ) -> tuple[dict[str, Tensor], Float[Tensor, "sample color"]]:
        """The geometry's output at the samples and the material's colours."""
        needs_normal = self.material.requires_normal
        arguments = {"viewdirs": t_dirs, "positions": points, "light_positions": lights}
        if self.training:
            geometry = self.geometry(points, output_normal=needs_normal)
            return geometry, self.material(**arguments, **geometry, **batch)
        chunk = self.cfg.eval_chunk_size
        geometry = chunk_batch(self.geometry, chunk, points, output_normal=needs_normal)
        return geometry, chunk_batch(self.material, chunk, **arguments, **geometry)

    def _background(self, rays_d: Float[Tensor, "batch height width 3"]) -> Tensor:
        if self.training:
            return self.background(dirs=rays_d)
        return chunk_batch(self.background, self.cfg.eval_chunk_size, dirs=rays_d)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        if self.training and not on_load_weights:
            self.estimator.update(
                global_step, lambda points: self.geometry.forward_density(points) * self.render_step_size
            )
