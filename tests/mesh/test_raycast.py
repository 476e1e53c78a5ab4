import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from imagedream import cameras
from imagedream.mesh.raycast import Light, Raycaster
from imagedream.workshop.mesh_files.reading import FileAxes, load_parts


def poses(azimuths_deg, elevation_deg=0.0, distance=3.0):
    azimuths = torch.tensor([float(azimuth) for azimuth in azimuths_deg])
    return cameras.look_at_origin(
        torch.full_like(azimuths, elevation_deg), azimuths, torch.full_like(azimuths, distance)
    )


def fovs(count, fov_y_deg=40.0):
    return torch.full((count,), fov_y_deg)


def coloured(mesh, colour):
    mesh.visual = trimesh.visual.ColorVisuals(
        mesh, face_colors=np.tile(np.uint8([*colour, 255]), (len(mesh.faces), 1))
    )
    return mesh


def test_sphere_against_analytic_values():
    radius, distance, size = 0.5, 3.0, 65
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    views = Raycaster(sphere).render(poses([30.0], 20.0, distance), fovs(1), size, supersample=1)
    # ray-sphere intersection, by hand
    origins, directions = cameras.rays(poses([30.0], 20.0, distance), fovs(1), size, size)
    along = -(origins * directions).sum(-1)
    discriminant = along**2 - distance**2 + radius**2
    inside, outside = discriminant > 5e-3, discriminant < -5e-3
    travelled = along - discriminant.clamp(min=0).sqrt()
    normal = (origins + travelled[..., None] * directions) / radius
    forward = -poses([30.0], 20.0, distance)[0, :3, 2]
    assert inside.sum() > 400
    assert (views.rgba[:, 3][inside] == 1).all()
    assert (views.rgba[:, 3][outside] == 0).all()
    assert (views.depth[outside] == math.inf).all()
    assert (views.normal.movedim(1, -1)[outside] == 0).all()
    torch.testing.assert_close(
        views.depth[inside], (travelled * (directions @ forward))[inside], atol=2e-3, rtol=0
    )
    assert torch.equal(Raycaster(sphere).depth(poses([30.0], 20.0, distance), fovs(1), size), views.depth)
    torch.testing.assert_close(views.normal.movedim(1, -1)[inside], normal[inside], atol=2e-2, rtol=0)
    # silhouette: half angle asin(r/d), so radius tan(asin(r/d)) / tan(fov/2) of half the frame
    silhouette_px = math.tan(math.asin(radius / distance)) / math.tan(math.radians(20)) * size / 2
    area = float(
        Raycaster(sphere).render(poses([30.0], 20.0, distance), fovs(1), size, supersample=4).rgba[:, 3].sum()
    )
    assert area == pytest.approx(math.pi * silhouette_px**2, rel=0.01)


def test_marker_appears_where_the_camera_convention_says():
    centre = torch.tensor([0.4, 0.15, 0.3])  # different along all axes: no mirrored or swapped axis passes
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.05).apply_translation(centre.numpy())
    pose = poses([0, 90, 180, 270], 15.0)
    alpha = Raycaster(ball).render(pose, fovs(4), 64, supersample=4).rgba[:, 3]
    middles = torch.arange(64) + 0.5
    found = torch.stack([(alpha * middles).sum((1, 2)), (alpha * middles[:, None]).sum((1, 2))], dim=-1)
    expected, _ = cameras.project(centre.expand(4, 1, 3), pose, fovs(4), 64, 64)
    torch.testing.assert_close(found / alpha.sum((1, 2))[:, None], expected[:, 0], atol=0.1, rtol=0)


def test_edges_have_straight_alpha():
    ball = coloured(trimesh.creation.icosphere(), (51, 102, 204))
    views = Raycaster(ball).render(poses([0]), fovs(1), 32, light=None)
    alpha = views.rgba[:, 3]
    partly = (alpha > 0) & (alpha < 1)
    assert partly.sum() > 20
    assert set(alpha.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    colour = views.rgba[:, :3].movedim(1, -1)
    torch.testing.assert_close(colour[partly], torch.tensor([0.2, 0.4, 0.8]).expand_as(colour[partly]))
    assert (colour[alpha == 0] == 0).all()


def test_views_do_not_depend_on_those_beside_them_nor_on_chunks(monkeypatch):
    mesh = coloured(trimesh.creation.cone(0.4, 0.8), (200, 100, 50))
    camera_to_world, fov = poses([0, 50, 200], 10.0), torch.tensor([35.0, 40.0, 50.0])
    together = Raycaster(mesh).render(camera_to_world, fov, 24)
    monkeypatch.setattr("imagedream.mesh.raycast._RAYS_PER_CALL", 1)
    in_chunks = Raycaster(mesh).render(camera_to_world, fov, 24)
    alone = Raycaster(mesh).render(camera_to_world[2:], fov[2:], 24)
    for name in ("rgba", "depth", "normal"):
        assert torch.equal(getattr(together, name), getattr(in_chunks, name))
        assert torch.equal(getattr(together, name)[2:], getattr(alone, name))


def quad():
    """A square in the plane x = 0 that faces +x: its left edge, seen from the front, is at -y."""
    vertices = [[0, -0.5, -0.5], [0, 0.5, -0.5], [0, 0.5, 0.5], [0, -0.5, 0.5]]
    return trimesh.Trimesh(vertices, [[0, 1, 2], [0, 2, 3]], process=False)


def textured_quad(pixels, repeats=1.0, x=0.0, **material):
    mesh = quad()
    mesh.apply_translation([x, 0, 0])
    picture = Image.fromarray(np.uint8(pixels)).resize((64, 64), Image.Resampling.NEAREST)
    mesh.visual = trimesh.visual.TextureVisuals(
        uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * repeats,
        material=trimesh.visual.material.PBRMaterial(baseColorTexture=picture, **material),
    )
    return mesh


FILLED = torch.tensor([math.degrees(2 * math.atan(0.5 / 3.0))])  # the quad fills the frame from distance 3


def test_texture_is_right_side_up_and_repeats():
    pixels = np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]])
    mesh = textured_quad(pixels)
    mesh.visual.uv = mesh.visual.uv + 3.0
    # the back of an open surface is seen too
    front, back = (
        Raycaster(mesh).render(poses([0, 180]), FILLED.expand(2), 8, light=None).rgba[:, :3, 2::4, 2::4]
    )
    expected = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    torch.testing.assert_close(front, expected)
    torch.testing.assert_close(back, expected.flip(-1))


@pytest.mark.parametrize("kind", ["texture", "vertex"])
def test_colours_between_texels_and_vertices_are_blended(kind):
    mesh = quad()
    if kind == "texture":
        image = Image.fromarray(np.uint8([[[0, 0, 0], [200, 200, 200]]]))
        uv = np.array(
            [[0.25, 0.5], [0.75, 0.5], [0.75, 0.5], [0.25, 0.5]]
        )  # from texel centre to texel centre
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
        mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    else:
        colours = np.uint8([[c, c, c, 255] for c in (0, 200, 200, 0)])
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    row = Raycaster(mesh).render(poses([0]), FILLED, 4, light=None, supersample=1).rgba[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([1, 3, 5, 7]) / 8 * 200 / 255, atol=1e-4, rtol=0)


def test_a_colour_function_is_asked_at_the_points_that_are_seen():
    caster = Raycaster(quad(), lambda points: points + 0.5)
    rgba = caster.render(poses([0]), FILLED, 4, light=None, supersample=1).rgba[0]
    middles = (torch.arange(4) + 0.5) / 4  # from the front, +y is on the right and +z on top
    expected = torch.stack(
        [torch.full((4, 4), 0.5), middles.expand(4, 4), middles.flip(0)[:, None].expand(4, 4)]
    )
    torch.testing.assert_close(rgba[:3], expected, atol=1e-4, rtol=0)


def test_parts_keep_their_own_tiled_textures(tmp_path):
    striped = [[[200, 0, 0], [0, 200, 0]]]
    scene = trimesh.Scene([textured_quad(striped, repeats=2.0), textured_quad([[[0, 0, 250]]], x=-2.0)])
    scene.export(tmp_path / "two.glb")
    # trimesh writes vertices as they are: this file has the world's axes
    parts = load_parts(tmp_path / "two.glb", FileAxes("z", "+x"))
    rgba = Raycaster(parts).render(poses([0, 180]), FILLED.expand(2), 8, light=None).rgba
    row = (rgba[0, :2, 4] * 255).round().int()
    assert row[0].tolist() == [200, 200, 0, 0, 200, 200, 0, 0]  # red and green, twice
    assert row[1].tolist() == [0, 0, 200, 200, 0, 0, 200, 200]
    assert torch.allclose(rgba[1, :3, 4, 4], torch.tensor([0, 0, 250 / 255]))  # from behind, the blue one


@pytest.mark.parametrize(("mode", "seen"), [("MASK", 0.0), ("BLEND", 0.0), ("OPAQUE", 1.0), (None, 1.0)])
def test_holes_in_a_texture_are_looked_through(mode, seen):
    half = [[[255, 0, 0, 255], [255, 0, 0, 0]]]  # its right half is transparent
    cut = textured_quad(half, alphaMode=mode)
    behind = textured_quad([[[0, 0, 255]]], x=-0.5)
    views = Raycaster([cut, behind]).render(poses([0]), FILLED, 8, light=None, supersample=1)
    left, right = views.rgba[0, :3, 4, 1], views.rgba[0, :3, 4, 6]
    assert left.tolist() == [1, 0, 0]
    assert right.tolist() == [seen, 0, 1 - seen]
    assert views.depth[0, 4, 6] == pytest.approx(3.0 if seen else 3.5, abs=1e-3)
    assert torch.equal(Raycaster([cut, behind]).depth(poses([0]), FILLED, 8), views.depth)
    glass = textured_quad([[[255, 0, 0, 40]]], alphaMode=mode)  # transparent everywhere: shown all the same
    assert (Raycaster(glass).render(poses([0]), FILLED, 4, light=None).rgba[0, 3] == 1).all()
    alone = Raycaster([cut]).render(poses([0]), FILLED, 8, light=None, supersample=1).rgba[0, 3]
    assert (alone[:, :4] == 1).all()
    assert (alone[:, 4:] == seen).all()


def test_plain_mesh_is_grey_and_material_factor_is_linear():
    mesh = quad()
    assert torch.allclose(
        Raycaster(mesh).render(poses([0]), fovs(1), 3, light=None).rgba[0, :3, 1, 1], torch.tensor(0.7)
    )
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=[1.0, 0.0, 0.2176, 1.0])
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    colour = Raycaster(mesh).render(poses([0]), fovs(1), 3, light=None).rgba[0, :3, 1, 1]
    # 0.2176^(1/2.2) = 0.5; the factor is stored in 8 bits
    torch.testing.assert_close(colour, torch.tensor([1.0, 0.0, 0.5]), atol=5e-3, rtol=0)


def test_hard_edges_stay_hard_and_round_ones_become_smooth():
    box = Raycaster(trimesh.creation.box((1, 1, 1))).render(poses([45]), fovs(1), 33, supersample=1)
    # at azimuth 45 the edge between the +x (left half) and +y (right half) faces is in the middle
    torch.testing.assert_close(box.normal[0, :, 16, 12], torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(box.normal[0, :, 16, 20], torch.tensor([0.0, 1.0, 0.0]))
    cylinder = trimesh.creation.cylinder(0.5, 1.0, sections=16)  # neighbours meet at 22.5 degrees
    normal = Raycaster(cylinder).render(poses([0]), fovs(1), 33, supersample=1).normal[0, :, 16, 11:22]
    steps = torch.rad2deg(torch.arccos((normal[:, 1:] * normal[:, :-1]).sum(0)))
    # a pixel is 3 * 2 tan(20 deg) / 33 = 0.066 wide, so about 0.066 / 0.5 rad = 7.6 degrees; flat faces: 0 or 22.5
    assert steps.min() > 5
    assert steps.max() < 10


def test_light_by_hand_and_at_random():
    light = Light(ambient=0.4, diffuse=0.4, direction=(2.0, 0.0, 0.0))
    grey = coloured(trimesh.creation.box((1, 1, 1)), (204, 204, 204))
    front, left, back, _ = (
        Raycaster(grey).render(poses([0, 90, 180, 270]), fovs(4), 3, light).rgba[:, 0, 1, 1].tolist()
    )
    # 0.8 * (0.4 + 0.4 * (1 + cos) / 2) for cos = 1, 0, -1
    assert (front, left, back) == pytest.approx((0.64, 0.48, 0.32), abs=1e-5)
    lights = [Light.random(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert lights[0] == lights[1] != lights[2]
    assert lights[0].direction[2] > 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="ambient -1"):
        Light(ambient=-1.0)
    with pytest.raises(ValueError, match="direction is"):
        Light(direction=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="size is 0"):
        Raycaster(trimesh.creation.box((1, 1, 1))).render(poses([0]), fovs(1), 0)
    with pytest.raises(ValueError, match="no faces"):
        Raycaster(trimesh.Trimesh(np.eye(3))).render(poses([0]), fovs(1), 8)
