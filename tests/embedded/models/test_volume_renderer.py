import math

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream import cameras
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry
from threestudio.models.renderers.nerf_volume_renderer import NeRFVolumeRenderer

RADIUS, DISTANCE, FOV = 0.5, 2.0, 40.0


class Ball(BaseImplicitGeometry):
    """Constant density in a ball; colour (logits) = position; normals radial."""

    def configure(self, density=100.0):
        super().configure()
        self.density = torch.nn.Parameter(torch.tensor(density))

    def forward(self, points, output_normal=False):
        output = {"density": self.forward_density(points), "features": points}
        if output_normal:
            normal = torch.nn.functional.normalize(points, dim=-1)
            output |= {"normal": normal, "shading_normal": normal}
        return output

    def forward_density(self, points):
        return self.density * (points.norm(dim=-1, keepdim=True) < RADIUS)


class White(BaseBackground):
    def forward(self, dirs):
        return torch.ones_like(dirs)


def scene(density=100.0, material="no-material", material_cfg=None, **renderer_cfg):
    geometry = Ball({}, density)
    if material_cfg is None:
        material_cfg = {"color_activation": "none", "requires_normal": True}
    renderer = NeRFVolumeRenderer(
        OmegaConf.create({"num_samples_per_ray": 256} | renderer_cfg),
        geometry=geometry,
        material=threestudio.find(material)(OmegaConf.create(material_cfg)),
        background=White({}),
    )
    if density > 0:  # the cells that the ball touches
        centers = (torch.arange(32) + 0.5) / 16 - 1
        distance = torch.stack(torch.meshgrid(centers, centers, centers, indexing="ij")).norm(dim=0)
        renderer.estimator.binaries[0] = distance < RADIUS + 3**0.5 / 32
        renderer.estimator.occs[:] = (
            renderer.estimator.binaries.flatten() * density * renderer.render_step_size
        )
    return renderer


def batch(azimuths=(0.0, 90.0), size=33):
    count = len(azimuths)
    camera_to_world = cameras.look_at_origin(
        torch.zeros(count), torch.tensor(azimuths), torch.full((count,), DISTANCE)
    )
    rays_o, rays_d = cameras.rays(camera_to_world, torch.full((count,), FOV), size, size)
    return {"rays_o": rays_o, "rays_d": rays_d, "light_positions": camera_to_world[:, :3, 3]}


def chords(rays_d, rays_o):
    """Entry distance and length of the rays' way through the ball; length 0 for those that miss."""
    along = -(rays_o * rays_d).sum(dim=-1)
    off_axis = (rays_o + along[..., None] * rays_d).norm(dim=-1)
    half = (RADIUS**2 - off_axis**2).clamp(min=0).sqrt()
    return along - half, 2 * half


def test_opaque_ball_has_its_silhouette_depth_and_normals():
    renderer = scene().eval()
    rays = batch()
    output = renderer(**rays)
    entry, length = chords(rays["rays_d"], rays["rays_o"])
    thick, missed, step = length > 0.2, length == 0, renderer.render_step_size
    assert (output["opacity"][..., 0][thick] > 0.999).all()
    assert (output["opacity"][..., 0][missed] == 0).all()
    # light dies off over 1/density; a step's samples are at its midpoint
    depth_error = output["depth"][..., 0][thick] - entry[thick]
    assert depth_error.abs().max() < 1 / 100 + step
    normal = output["comp_normal"] * 2 - 1
    surface = rays["rays_o"] + entry[..., None] * rays["rays_d"]
    cosine = (normal * surface / RADIUS).sum(dim=-1)[thick]
    assert cosine.min() > 0.99
    # the middle of the first picture looks along −x at azimuth 0: the surface point (0.5, 0, 0)
    torch.testing.assert_close(
        output["comp_rgb"][0, 16, 16], torch.tensor([RADIUS, 0.0, 0.0]), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        output["comp_rgb"][1, 16, 16], torch.tensor([0.0, RADIUS, 0.0]), atol=0.02, rtol=0
    )
    assert (output["comp_rgb"][missed] == 1).all()


def test_thin_ball_dims_by_the_length_of_the_way_through_it():
    rays = batch(azimuths=(30.0,))
    _, length = chords(rays["rays_d"], rays["rays_o"])
    renderer = scene(density=2.0, num_samples_per_ray=1024).eval()
    opacity = renderer(**rays)["opacity"][..., 0]
    torch.testing.assert_close(
        opacity, 1 - torch.exp(-2 * length), atol=2 * 2 * renderer.render_step_size, rtol=0
    )


def test_depth_variance_of_a_uniform_slab():
    # nearly transparent: samples weigh the same, so the variance of t is length²/12; below opacity ½ it is masked
    renderer = scene(density=1.0, num_samples_per_ray=1024).eval()
    output = renderer(**batch(azimuths=(0.0,)))
    centre = output["z_variance"][0, 16, 16]
    t = torch.linspace(0, 1, 100_000)
    weight = torch.exp(-t) / (1 - math.exp(-1))
    mean = (weight * t).mean()
    expected = (weight * (t - mean) ** 2).mean()
    torch.testing.assert_close(centre[0], expected, atol=2e-3, rtol=0)
    assert output["z_variance"][0, 0, 0] == 0


def test_skipping_empty_space_does_not_change_the_picture():
    rays = batch(size=24)
    pruned, full = scene().eval(), scene().eval()
    full.estimator.binaries.fill_(True)
    assert pruned.estimator.binaries.float().mean() < 0.2
    one, other = pruned(**rays), full(**rays)
    for key in one:
        torch.testing.assert_close(one[key], other[key], atol=2e-4, rtol=0, msg=key)


def test_the_grid_finds_the_ball_by_itself():
    torch.manual_seed(0)
    exact, learned = scene(), scene()
    learned.estimator.binaries.fill_(False)
    for step in range(0, 480, 16):
        learned.update_step(0, step)
    assert learned.estimator.binaries.sum() > 0.95 * exact.estimator.binaries.sum()
    assert not (learned.estimator.binaries & ~exact.estimator.binaries).any()
    learned.estimator.binaries.fill_(False)
    learned.update_step(0, 480, on_load_weights=True)
    learned.eval().update_step(0, 496)
    assert not learned.estimator.binaries.any()


def test_training_tells_what_the_samples_were():
    torch.manual_seed(0)
    renderer = scene(return_comp_normal=True).train()
    output = renderer(**batch(size=9), elevation=torch.zeros(2), height=9)
    samples = len(output["weights"])
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    picture = {"comp_rgb": 3, "comp_rgb_fg": 3, "comp_rgb_bg": 3, "comp_normal": 3, "opacity": 1, "depth": 1}
    sample = {
        "weights": 1,
        "t_points": 1,
        "t_intervals": 1,
        "t_dirs": 3,
        "points": 3,
        "density": 1,
        "features": 3,
    }
    sample |= {"normal": 3, "shading_normal": 3}
    expected = {key: (2, 9, 9, channels) for key, channels in (picture | {"z_variance": 1}).items()}
    expected |= {key: (samples, channels) for key, channels in sample.items()} | {"ray_indices": (samples,)}
    assert shapes == expected
    opacity = torch.zeros(162).index_add(0, output["ray_indices"], output["weights"][:, 0])
    torch.testing.assert_close(opacity.view(2, 9, 9, 1), output["opacity"])
    rays = batch(size=9)
    points = rays["rays_o"].reshape(-1, 3)[output["ray_indices"]] + output["t_dirs"] * output["t_points"]
    torch.testing.assert_close(points, output["points"])


def test_gradient_of_opacity_reaches_the_density():
    renderer = scene(density=2.0, randomized=False, num_samples_per_ray=512).train()
    rays = batch(size=9)
    renderer(**rays)["opacity"].sum().backward()
    _, length = chords(rays["rays_d"], rays["rays_o"])
    expected = (length * torch.exp(-2 * length)).sum()  # d/dσ of 1 − exp(−σL)
    torch.testing.assert_close(renderer.geometry.density.grad, expected, rtol=0.03, atol=0)


def test_samples_shift_at_random_in_training_only():
    renderer = scene()
    rays = batch(size=9)
    depths = [renderer(**rays)["depth"] for _ in range(2)]
    assert not torch.equal(*depths)
    renderer.eval()
    depths = [renderer(**rays)["depth"] for _ in range(2)]
    assert torch.equal(*depths)
    assert not any(value.requires_grad for value in renderer(**rays).values())
    assert renderer.train().randomized


def test_chunks_do_not_change_the_picture():
    rays = batch(size=12)
    whole, pieces = scene().eval()(**rays), scene(eval_chunk_size=100).eval()(**rays)
    for key in whole:
        torch.testing.assert_close(whole[key], pieces[key], msg=key)


def test_nothing_there_is_all_background():
    renderer = scene(density=0.0).train()
    output = renderer(**batch(size=5))
    assert (output["comp_rgb"] == 1).all()
    assert output["weights"].tolist() == [[0.0]]
    assert output["t_points"].dtype == torch.float32
    output["comp_rgb"].sum().backward()
    assert torch.isfinite(renderer.geometry.density.grad)


def test_material_gets_the_light_of_its_own_picture_and_the_batch():
    # light at the camera: the nearest point faces it, so diffuse light alone gives full albedo in each picture's middle
    config = {"diffuse_prob": 1.0, "textureless_prob": 1.0, "ambient_light_color": [0] * 3}
    config |= {"ambient_only_steps": 0, "diffuse_light_color": [1] * 3}
    renderer = scene(material="diffuse-with-point-light-material", material_cfg=config).train()
    output = renderer(**batch())
    torch.testing.assert_close(output["comp_rgb"][:, 16, 16], torch.ones(2, 3), atol=0.01, rtol=0)
    outer = output["comp_rgb_fg"][0, 16, 7]  # near the rim the light comes in flat
    assert outer.max() < 0.8


def test_step_size_and_checkpoint_keys():
    renderer = scene(num_samples_per_ray=512)
    assert renderer.render_step_size == pytest.approx(0.006766, abs=1e-6)
    assert set(renderer.state_dict()) == {
        "bbox", "estimator.resolution", "estimator.aabbs", "estimator.occs", "estimator.binaries",
    }  # fmt: skip
