import math

import pytest
import torch
from omegaconf import OmegaConf

import threestudio
from imagedream import cameras
from threestudio.models.background.base import BaseBackground
from threestudio.models.geometry.base import BaseImplicitGeometry

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
    material_cfg = material_cfg or {"color_activation": "none", "requires_normal": True}
    renderer = threestudio.find("nerf-volume-renderer")(
        OmegaConf.create({"num_samples_per_ray": 256} | renderer_cfg),
        geometry=Ball({}, density),
        material=threestudio.find(material)(OmegaConf.create(material_cfg)),
        background=White({}),
    )
    if density > 0:  # the cells that the ball touches
        centers = (torch.arange(32) + 0.5) / 16 - 1
        distance = torch.stack(torch.meshgrid(centers, centers, centers, indexing="ij")).norm(dim=0)
        grid = renderer.estimator
        grid.binaries[0] = distance < RADIUS + 3**0.5 / 32
        grid.occs[:] = grid.binaries.flatten() * density * renderer.render_step_size
    return renderer


def batch(azimuths=(0.0, 90.0), size=33):
    count = len(azimuths)
    distance = torch.full((count,), DISTANCE)
    camera_to_world = cameras.look_at_origin(torch.zeros(count), torch.tensor(azimuths), distance)
    rays_o, rays_d = cameras.rays(camera_to_world, torch.full((count,), FOV), size, size)
    return {"rays_o": rays_o, "rays_d": rays_d, "light_positions": camera_to_world[:, :3, 3]}


def chords(rays_o, rays_d, **_):
    """Entry distance and length of the rays' way through the ball; length 0 for those that miss."""
    along = -(rays_o * rays_d).sum(dim=-1)
    off_axis = (rays_o + along[..., None] * rays_d).norm(dim=-1)
    half = (RADIUS**2 - off_axis**2).clamp(min=0).sqrt()
    return along - half, 2 * half


def test_opaque_ball_has_its_silhouette_depth_and_normals():
    renderer, rays = scene().eval(), batch()
    output = renderer(**rays)
    entry, length = chords(**rays)
    thick, missed = length > 0.2, length == 0
    assert (output["opacity"][..., 0][thick] > 0.999).all()
    assert (output["opacity"][..., 0][missed] == 0).all()
    # light dies off over 1/density; a step's samples are at its midpoint
    depth_error = output["depth"][..., 0][thick] - entry[thick]
    assert depth_error.abs().max() < 1 / 100 + renderer.render_step_size
    surface = rays["rays_o"] + entry[..., None] * rays["rays_d"]
    cosine = ((output["comp_normal"] * 2 - 1) * surface / RADIUS).sum(dim=-1)[thick]
    assert cosine.min() > 0.99
    # the middle of the first picture looks along −x at azimuth 0: the surface point (0.5, 0, 0)
    middle = torch.tensor([[RADIUS, 0.0, 0.0], [0.0, RADIUS, 0.0]])
    torch.testing.assert_close(output["comp_rgb"][:, 16, 16], middle, atol=0.02, rtol=0)
    assert (output["comp_rgb"][missed] == 1).all()


def test_thin_ball_dims_by_the_length_of_the_way_through_it_and_can_be_learned():
    rays = batch(azimuths=(30.0,))
    _, length = chords(**rays)
    renderer = scene(density=2.0, num_samples_per_ray=512, randomized=False).train()
    renderer.estimator.occs.zero_()  # so that no sample is too transparent to be kept
    opacity = renderer(**rays)["opacity"][..., 0]
    wanted = 1 - torch.exp(-2 * length)
    torch.testing.assert_close(opacity, wanted, atol=2 * 2 * renderer.render_step_size, rtol=0)
    opacity.sum().backward()
    slope = (length * torch.exp(-2 * length)).sum()  # d/dσ of 1 − exp(−σL)
    torch.testing.assert_close(renderer.geometry.density.grad, slope, rtol=0.03, atol=0)


def test_depth_variance_of_a_uniform_slab():
    renderer = scene(density=1.0, num_samples_per_ray=1024).eval()
    renderer.estimator.occs.zero_()
    output = renderer(**batch(azimuths=(0.0,)))
    t = torch.linspace(0, 1, 100_000)  # along the unit chord
    weight = torch.exp(-t) / (1 - math.exp(-1))
    expected = (weight * (t - (weight * t).mean()) ** 2).mean()
    torch.testing.assert_close(output["z_variance"][0, 16, 16, 0], expected, atol=2e-3, rtol=0)
    assert output["z_variance"][0, 0, 0] == 0  # masked where the opacity is below ½


def test_neither_empty_space_nor_chunks_change_the_picture():
    rays = batch(size=24)
    skipping, chunked, full = scene().eval(), scene(eval_chunk_size=100).eval(), scene().eval()
    full.estimator.binaries.fill_(True)
    assert skipping.estimator.binaries.float().mean() < 0.2
    expected = full(**rays)
    for renderer in (skipping, chunked):
        for key, value in renderer(**rays).items():
            torch.testing.assert_close(value, expected[key], atol=2e-4, rtol=0, msg=key)


def test_the_grid_finds_the_ball_by_itself():
    torch.manual_seed(0)
    exact, learned = scene().estimator, scene()
    grid = learned.estimator
    grid.binaries.fill_(False)
    for step in range(0, 480, 16):
        learned.update_step(0, step)
    assert grid.binaries.sum() > 0.95 * exact.binaries.sum()
    assert not (grid.binaries & ~exact.binaries).any()
    grid.binaries.fill_(False)
    learned.update_step(0, 480, on_load_weights=True)
    learned.eval().update_step(0, 496)
    assert not grid.binaries.any()


def test_training_tells_what_the_samples_were():
    torch.manual_seed(0)
    renderer, rays = scene(return_comp_normal=True).train(), batch(size=9)
    output = renderer(**rays, elevation=torch.zeros(2), height=9)
    samples = len(output["weights"])
    shapes = {key: tuple(value.shape) for key, value in output.items()}
    colors = ("comp_rgb", "comp_rgb_fg", "comp_rgb_bg", "comp_normal")
    expected = dict.fromkeys(colors, (2, 9, 9, 3))
    expected |= dict.fromkeys(("opacity", "depth", "z_variance"), (2, 9, 9, 1))
    expected |= dict.fromkeys(("weights", "t_points", "t_intervals", "density"), (samples, 1))
    vectors = ("t_dirs", "points", "features", "normal", "shading_normal")
    expected |= dict.fromkeys(vectors, (samples, 3)) | {"ray_indices": (samples,)}
    assert shapes == expected
    opacity = torch.zeros(162).index_add(0, output["ray_indices"], output["weights"][:, 0])
    torch.testing.assert_close(opacity.view(2, 9, 9, 1), output["opacity"])
    points = rays["rays_o"].reshape(-1, 3)[output["ray_indices"]] + output["t_dirs"] * output["t_points"]
    torch.testing.assert_close(points, output["points"])


def test_samples_shift_at_random_in_training_only():
    renderer, rays = scene(), batch(size=9)
    assert not torch.equal(renderer(**rays)["depth"], renderer(**rays)["depth"])
    renderer.eval()
    assert torch.equal(renderer(**rays)["depth"], renderer(**rays)["depth"])
    assert not any(value.requires_grad for value in renderer(**rays).values())
    renderer.training = True  # as Lightning restores the mode after a validation
    assert not torch.equal(renderer(**rays)["depth"], renderer(**rays)["depth"])


def test_nothing_there_is_all_background():
    renderer = scene(density=0.0).train()
    output = renderer(**batch(size=5))
    assert (output["comp_rgb"] == 1).all()
    assert output["weights"].tolist() == [[0.0]]
    assert output["t_points"].dtype == torch.float32
    output["comp_rgb"].sum().backward()
    assert torch.isfinite(renderer.geometry.density.grad)


def test_material_gets_the_light_of_its_own_picture():
    # light at the camera: the nearest point faces it, so diffuse light alone gives full albedo in each picture's middle
    config = {"diffuse_prob": 1.0, "textureless_prob": 1.0, "ambient_only_steps": 0}
    config |= {"ambient_light_color": [0] * 3, "diffuse_light_color": [1] * 3}
    output = scene(material="diffuse-with-point-light-material", material_cfg=config).train()(**batch())
    torch.testing.assert_close(output["comp_rgb"][:, 16, 16], torch.ones(2, 3), atol=0.01, rtol=0)
    assert output["comp_rgb_fg"][0, 16, 7].max() < 0.8  # near the rim the light comes in flat


def test_step_size_and_checkpoint_keys():
    renderer = scene(num_samples_per_ray=512)
    assert renderer.render_step_size == pytest.approx(0.006766, abs=1e-6)
    grid = {"resolution": (3,), "aabbs": (1, 6), "occs": (32768,), "binaries": (1, 32, 32, 32)}  # nerfacc's
    expected = {"bbox": (2, 3)} | {f"estimator.{name}": shape for name, shape in grid.items()}
    assert {name: tuple(value.shape) for name, value in renderer.state_dict().items()} == expected
    with pytest.raises(TypeError, match=r"unknown key estimator; allowed: .*num_samples_per_ray"):
        scene(estimator="proposal")
