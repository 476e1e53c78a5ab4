import io
import logging

import numpy as np
import pytest
import torch
import trimesh

from imagedream import cameras, meshing
from imagedream.rendering.meshes import load_mesh
from imagedream.rendering.raycast import render
from tests import arrow

SMALL = meshing.MeshSettings(resolution=72, texture_size=256, target_faces=4000)


def ball(radius, highest=100.0, centre=(0.0, 0.0, 0.0), sharpness=400.0):
    centre = torch.tensor(centre)
    return lambda points: highest * torch.sigmoid((radius - (points - centre).norm(dim=-1)) * sharpness)


def grey(points):
    return torch.full((len(points), 3), 0.5)


@pytest.fixture(scope="module")
def meshed_arrow():
    return meshing.mesh_field(arrow.density(), arrow.colour, SMALL)


@pytest.fixture(scope="module")
def glb_path(meshed_arrow, tmp_path_factory):
    files = meshing.to_files(meshed_arrow.mesh, meshed_arrow.texture)
    return meshing.save(files, tmp_path_factory.mktemp("export"))[0]


def texture_at(mesh, points):
    """The colour of the mesh's texture at the surface points nearest to `points`, 0 to 255."""
    _, _, face = trimesh.proximity.closest_point_naive(mesh, points)
    corners = mesh.triangles[face]
    weights = trimesh.triangles.points_to_barycentric(
        corners, trimesh.triangles.closest_point(corners, points)
    )
    uv = (mesh.visual.uv[mesh.faces[face]] * weights[..., None]).sum(1)
    image = np.asarray(mesh.visual.material.baseColorTexture)
    row = np.clip(((1 - uv[:, 1]) * len(image)).astype(int), 0, len(image) - 1)
    return image[row, np.clip((uv[:, 0] * len(image)).astype(int), 0, len(image) - 1)][:, :3].astype(float)


def test_glb_has_one_textured_material_and_stands_upright(glb_path):
    scene = trimesh.load_scene(glb_path)
    assert len(scene.geometry) == 1
    mesh = scene.to_mesh()
    material = mesh.visual.material
    assert material.baseColorTexture.size == (256, 256)
    assert b"\x89PNG" in glb_path.read_bytes()
    assert material.metallicFactor == 0
    assert material.roughnessFactor == 1
    assert material.baseColorFactor is None or np.all(np.asarray(material.baseColorFactor) == 255)
    assert not material.doubleSided
    assert mesh.volume > 0
    # the arrow's tip is the front: +z in glTF; its fin points up: +y, and sits at the rear
    np.testing.assert_allclose(mesh.bounds, [[-0.3, -0.3, -0.5], [0.3, 0.35, 0.5]], atol=0.03)
    top = mesh.vertices[mesh.vertices[:, 1] > 0.32]
    assert top[:, 2].max() < -0.25
    tip = mesh.vertices[mesh.vertices[:, 2] > 0.45]
    assert np.abs(tip[:, :2]).max() < 0.1


def test_glb_normals_point_outwards(glb_path):
    mesh = trimesh.load_scene(glb_path).to_mesh()
    assert "vertex_normals" in mesh._cache.cache or len(mesh.vertex_normals) == len(mesh.vertices)
    agreement = np.einsum("fcx,fx->fc", mesh.vertex_normals[mesh.faces], mesh.face_normals)
    assert (agreement > 0).mean() > 0.97


@pytest.mark.parametrize(
    ("point", "expected"),
    [  # glTF axes: x is the object's left (+y of the world), y up, z forward
        ((0.1, 0.0, -0.2), [0.1, 0.7, 0.1]),
        ((-0.1, 0.0, -0.2), [0.8, 0.1, 0.1]),
        ((0.0, 0.1, -0.1), [0.9, 0.9, 0.1]),
        ((0.0, -0.1, -0.1), [0.8, 0.8, 0.8]),
        ((0.0, 0.15, 0.3), [0.1, 0.2, 0.9]),
        ((0.0, 0.0, -0.5), [0.1, 0.1, 0.1]),
    ],
)
def test_colours_lie_on_the_right_sides(glb_path, point, expected):
    mesh = trimesh.load_scene(glb_path).to_mesh()
    np.testing.assert_allclose(texture_at(mesh, np.array([point]))[0] / 255, expected, atol=0.08)


def test_renders_of_the_glb_agree_with_the_analytic_object(glb_path):
    pose, fov = meshing.sphere_views(0.7, count=4)
    size = 48
    views = render(load_mesh(glb_path), pose, fov, size, light=None)
    origins, directions = cameras.rays(pose, fov, size, size)
    distance = pose[:, :3, 3].norm(dim=-1)[:, None, None, None]
    steps = distance + torch.linspace(-0.8, 0.8, 160)  # (view, 1, 1, step)
    points = origins[..., None, :] + directions[..., None, :] * steps[..., None]
    inside = arrow.distance(points.reshape(-1, 3)).reshape(points.shape[:-1]) < 0
    mask = inside.any(-1)
    first = points.gather(-2, inside.int().argmax(-1)[..., None, None].expand(*mask.shape, 1, 3))[..., 0, :]
    colours = torch.where(mask[..., None], arrow.colour(first.reshape(-1, 3)).reshape(first.shape), 1.0)
    alpha = views.rgba[:, 3]
    shown = (views.rgba[:, :3] * alpha[:, None] + 1 - alpha[:, None]).movedim(1, -1)
    iou = ((alpha > 0.5) & mask).sum() / ((alpha > 0.5) | mask).sum()
    psnr = -10 * (shown - colours).square().mean().log10()
    assert iou > 0.9
    assert psnr > 20


def test_statistics_of_a_sharp_field(meshed_arrow):
    statistics = meshed_arrow.statistics
    assert statistics.iou > 0.9
    assert statistics.psnr_db > 24
    assert statistics.faces == len(meshed_arrow.mesh.faces) <= 4000
    assert statistics.vertices == len(meshed_arrow.mesh.vertices)
    assert statistics.pieces_removed == 0
    assert statistics.watertight
    assert meshed_arrow.choice.level == statistics.level
    assert meshed_arrow.choice.iou == max(meshed_arrow.choice.tried.values())


def test_obj_holds_the_same_mesh(meshed_arrow, glb_path, tmp_path):
    paths = meshing.save(meshing.to_files(meshed_arrow.mesh, meshed_arrow.texture, "obj", "arrow"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arrow.mtl", "arrow.obj", "arrow.png"]
    from_obj, from_glb = (trimesh.load_scene(path).to_mesh() for path in (paths[0], glb_path))
    np.testing.assert_allclose(from_obj.bounds, from_glb.bounds, atol=1e-5)
    assert from_obj.volume == pytest.approx(from_glb.volume, rel=1e-4)
    assert from_obj.visual.material.image.size == (256, 256)
    left = np.array([[0.1, 0.0, -0.2]])
    from_obj.visual.material = from_obj.visual.material.to_pbr()
    np.testing.assert_allclose(texture_at(from_obj, left), texture_at(from_glb, left), atol=3)


def test_sphere_surface_has_the_analytic_size():
    grid = meshing.sample_density(ball(0.4), 64, radius=1.0)
    surface = meshing.extract_surface(grid, 50.0)
    assert surface.is_watertight
    # a polyhedron inscribed in the sphere: a little less than 4/3 π r³
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    np.testing.assert_allclose(np.linalg.norm(surface.vertices, axis=1), 0.4, atol=0.005)


def test_surface_that_leaves_the_box_is_closed():
    surface = meshing.extract_surface(meshing.sample_density(ball(1.2), 32, radius=1.0), 50.0)
    assert surface.is_watertight
    assert surface.volume > 0


def test_grid_is_spent_on_the_object_only():
    grid = meshing.sample_density(ball(0.2, centre=(0.3, 0.0, 0.0)), 64, radius=1.0)
    assert max(grid.density.shape) == 64
    assert grid.lower[0] == pytest.approx(0.1, abs=0.1)
    assert grid.upper[0] == pytest.approx(0.5, abs=0.1)
    inside = torch.tensor([[0.3, 0.05, 0.0], [0.9, 0.0, 0.0]])
    np.testing.assert_allclose(grid(inside).numpy(), [100.0, 0.0], atol=1e-3)


def test_far_specks_do_not_widen_the_box():
    corner = 1 - 2 * 3 / 63  # a sample of the coarse pass, which has 64 samples from -1 to 1

    def field(points):
        return ball(0.5)(points) + ball(0.02, centre=(corner, corner, corner))(points)

    assert meshing.sample_density(field, 64, radius=1.0, level=50.0).upper.max() < 0.65
    assert meshing.sample_density(field, 64, radius=1.0, level=50.0, min_piece=0.0).upper.max() > 0.9


def test_level_sweep_finds_the_middle_of_a_sharp_edge():
    # all levels between the two plateaus are the same surface; the outer haze (density 2) must not win
    def hazy(points):
        return ball(0.3)(points) + ball(0.45, highest=0.3)(points)

    grid = meshing.sample_density(hazy, 64, radius=1.0)
    pose, fov = meshing.sphere_views(0.8)
    opacity = meshing.render_field(grid, None, pose, fov, 64)[:, 3]
    choice = meshing.choose_level(grid, opacity, pose, fov, meshing.visible_density(1.0) / 4)
    surface = meshing.extract_surface(grid, choice.level)
    assert np.linalg.norm(surface.vertices, axis=1).mean() == pytest.approx(0.3, abs=0.01)
    assert choice.iou == max(choice.tried.values())
    assert len(choice.tried) > 7
    assert min(choice.tried.values()) < 0.7


def test_rendered_opacity_of_a_ball_is_analytic():
    # through the centre of a ball of radius 0.4 and density 2: 1 − exp(−2 · 0.8)
    grid = meshing.sample_density(ball(0.4, highest=2.0), 96, radius=1.0)
    pose, fov = meshing.sphere_views(0.8)
    rgba = meshing.render_field(grid, grey, pose, fov, 33)
    np.testing.assert_allclose(rgba[:, 3, 16, 16].numpy(), 1 - np.exp(-1.6), atol=0.01)
    np.testing.assert_allclose(rgba[:, :3], rgba[:, 3:].expand(-1, 3, -1, -1) * 0.5, atol=1e-4)
    assert rgba[:, 3, 0, 0].max() == 0


def test_silhouettes_are_cut_at_half_opacity():
    opacity = torch.tensor([[[0.9, 0.6, 0.4, 0.0]]])
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity) == 1
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 1.0, 1.0]]]), opacity) == 0.5
    # a faint field is cut at half of its largest opacity, here 0.09
    assert meshing.silhouette_iou(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), opacity * 0.2) == 1


def test_soft_field_is_reported(caplog):
    soft = meshing.MeshSettings(resolution=32, texture_size=64, target_faces=500, level=19.0)
    with caplog.at_level(logging.WARNING, "imagedream.meshing"):
        meshing.mesh_field(ball(0.3, highest=20.0, sharpness=20.0), grey, soft)
    assert "poor picture of the field: silhouette IoU" in caplog.text


def test_floating_pieces_and_cavities_are_removed():
    def field(points):
        shell = ball(0.4)(points) - ball(0.2)(points)
        return shell + ball(0.05, centre=(0.0, 0.0, 0.6))(points) + ball(0.04, centre=(0.6, 0.0, 0.0))(points)

    grid = meshing.sample_box(field, torch.full((3,), -0.7), torch.full((3,), 0.7), 96)
    surface, removed = meshing.clean_surface(meshing.extract_surface(grid, 50.0), min_piece=0.02)
    assert removed == 3
    assert surface.body_count == 1
    assert surface.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    both, _ = meshing.clean_surface(meshing.extract_surface(grid, 50.0), min_piece=0.005)
    assert both.body_count == 3


def test_simplification_keeps_shape_and_reaches_its_target():
    surface = meshing.extract_surface(meshing.sample_density(ball(0.4), 64, radius=1.0), 50.0)
    before = surface.vertices.copy()
    light, _ = meshing.clean_surface(surface, smoothing=5, target_faces=1000)
    assert len(light.faces) <= 1000
    assert light.is_watertight
    assert light.volume == pytest.approx(surface.volume, rel=0.02)
    np.testing.assert_array_equal(surface.vertices, before)


def test_uv_rasteriser_against_one_triangle():
    # texel centres at (½, ½)/4 ...; the triangle u, v ≥ 0, u + v ≤ 1 covers those with column ≤ row (row 0 on top)
    uv = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    face, weights = meshing.rasterize_uv(uv, np.array([[0, 1, 2]]), 4)
    row, column = np.mgrid[:4, :4]
    np.testing.assert_array_equal(face == 0, column <= row)
    u, v = (column + 0.5) / 4, 1 - (row + 0.5) / 4
    expected = np.stack([1 - u - v, u, v], axis=-1)
    np.testing.assert_allclose(weights[face == 0], expected[face == 0], atol=1e-6)
    assert (weights[face < 0] == 0).all()


def test_uv_rasteriser_does_not_depend_on_chunks():
    generator = np.random.default_rng(0)
    uv = generator.random((60, 2)).astype(np.float32)
    faces = np.arange(60).reshape(20, 3)
    for whole, parts in zip(
        meshing.rasterize_uv(uv, faces, 32), meshing.rasterize_uv(uv, faces, 32, chunk=50), strict=True
    ):
        np.testing.assert_array_equal(whole, parts)


def test_gaps_take_the_nearest_colour():
    texture = np.zeros((1, 6, 3), dtype=np.uint8)
    texture[0, 1], texture[0, 5] = 10, 200
    mask = np.array([[False, True, False, False, False, True]])
    assert meshing.fill_gaps(texture, mask)[0, :, 0].tolist() in (
        [10, 10, 10, 10, 200, 200],
        [10, 10, 10, 200, 200, 200],
    )
    with pytest.raises(ValueError, match="no texel"):
        meshing.fill_gaps(texture, np.zeros((1, 6), dtype=bool))


def test_texture_shows_what_a_viewer_sees_not_the_colour_at_the_surface():
    # a ball of soft density whose thin outermost layer is red and hardly opaque, the rest blue
    def layered(points):
        red = (points.norm(dim=-1) > 0.4 - np.log(2) / 20)[:, None].float()
        return red * torch.tensor([1.0, 0.0, 0.0]) + (1 - red) * torch.tensor([0.0, 0.0, 1.0])

    grid = meshing.sample_density(ball(0.4, highest=20.0), 64, radius=1.0)
    surface, _ = meshing.clean_surface(meshing.extract_surface(grid, 10.0), target_faces=1000)
    texture = meshing.bake_texture(meshing.unwrap(surface, 64), grid, layered, 10.0, 64)
    # opacity of the red layer is 1 − exp(−20 · ln 2 / 20) = ½
    red, _, blue = texture.reshape(-1, 3).mean(0) / 255
    assert red == pytest.approx(0.5, abs=0.06)
    assert blue == pytest.approx(0.5, abs=0.06)


def test_unknown_format_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'fbx'; allowed: glb, obj, glb\+obj"):
        meshing.check_format("fbx")


def test_empty_field_says_how_empty():
    with pytest.raises(meshing.EmptyFieldError, match=r"largest density is 0\.1"):
        meshing.mesh_field(lambda points: torch.full((len(points),), 0.1), grey, SMALL)
    grid = meshing.sample_density(ball(0.4), 16, radius=1.0)
    with pytest.raises(meshing.EmptyFieldError, match=r"level 200: densities lie between 0 and 1"):
        meshing.extract_surface(grid, 200.0)


def test_broken_density_is_reported():
    with pytest.raises(ValueError, match="not finite at 4096 of 4096"):
        meshing.sample_density(lambda points: points[:, 0] * float("nan"), 16, radius=1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resolution", 2),
        ("texture_size", 1),
        ("radius", 0.0),
        ("level", -1.0),
        ("target_faces", 2),
        ("min_piece", 2.0),
    ],
)
def test_settings_outside_their_range_are_errors(field, value):
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        meshing.MeshSettings(**{field: value})


def test_failed_save_leaves_no_file(tmp_path):
    (tmp_path / "model.glb").mkdir()  # a folder in the way
    with pytest.raises(OSError, match=r"model\.glb"):
        meshing.save({"model.glb": b"data"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.glb"]


def test_levels_are_logged(caplog):
    grid = meshing.sample_density(ball(0.4), 32, radius=1.0)
    pose, fov = meshing.sphere_views(0.8, count=4)
    opacity = meshing.render_field(grid, None, pose, fov, 24)[:, 3]
    with caplog.at_level(logging.INFO, "imagedream.meshing"):
        choice = meshing.choose_level(grid, opacity, pose, fov, 0.3, candidates=3)
    assert len(caplog.records) == len(choice.tried)
    assert sum("chosen" in record.message for record in caplog.records) == 1


def test_glb_is_a_single_self_contained_file(meshed_arrow):
    data = meshing.to_glb_bytes(meshed_arrow.mesh, meshed_arrow.texture)
    assert data[:4] == b"glTF"
    assert trimesh.load_scene(io.BytesIO(data), file_type="glb").geometry
