"""Files as other programs read them: trimesh's readers, and the bytes."""

import io
import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from imagedream import cameras
from imagedream import mesh as meshing
from imagedream.mesh.raycast import render
from imagedream.mesh.reading import load_mesh
from tests import arrow


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


def glb_parts(data):
    """The scene of a GLB file and its binary chunk."""
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def test_glb_has_one_textured_material_and_stands_upright(glb_path):
    scene = trimesh.load_scene(glb_path)
    assert len(scene.geometry) == 1
    mesh = scene.to_mesh()
    material = mesh.visual.material
    assert material.baseColorTexture.size == (256, 256)
    assert material.normalTexture.size == (256, 256)
    assert material.metallicFactor == 0
    assert material.roughnessFactor == 1
    assert material.baseColorFactor is None or np.all(np.asarray(material.baseColorFactor) == 255)
    assert not material.doubleSided
    assert material.alphaMode in (None, "OPAQUE")
    assert mesh.volume > 0
    # the arrow's tip is the front: +z in glTF; its fin points up: +y, and sits at the rear
    np.testing.assert_allclose(mesh.bounds, [[-0.3, -0.3, -0.5], [0.3, 0.35, 0.5]], atol=0.03)
    top = mesh.vertices[mesh.vertices[:, 1] > 0.32]
    assert top[:, 2].max() < -0.25
    tip = mesh.vertices[mesh.vertices[:, 2] > 0.45]
    assert np.abs(tip[:, :2]).max() < 0.1


def test_glb_normals_point_outwards(glb_path):
    mesh = trimesh.load_scene(glb_path).to_mesh()
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
    import torch

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


def test_glb_holds_the_texture_exactly(meshed_arrow):
    scene, binary = glb_parts(meshing.to_files(meshed_arrow.model)["model.glb"])
    pictures = (meshed_arrow.model.base_colour, meshed_arrow.model.normal_map)
    for image, expected in zip(scene["images"], pictures, strict=True):
        view = scene["bufferViews"][image["bufferView"]]
        start = view["byteOffset"]
        picture = Image.open(io.BytesIO(binary[start : start + view["byteLength"]]))
        np.testing.assert_array_equal(np.asarray(picture), expected)
        assert "gamma" not in picture.info


def test_tangents_go_with_the_normal_map_only(meshed_arrow):
    model = meshed_arrow.model
    without = meshing.TexturedMesh(model.mesh, model.base_colour)
    for given, attributes in ((model, {"TANGENT"}), (without, set())):
        scene, _ = glb_parts(meshing.to_files(given)["model.glb"])
        primitive = scene["meshes"][0]["primitives"][0]
        assert set(primitive["attributes"]) - {"POSITION", "NORMAL", "TEXCOORD_0"} == attributes
        assert ("normalTexture" in scene["materials"][0]) == bool(attributes)
        assert len(scene["images"]) == 1 + len(attributes)


@pytest.mark.parametrize("up", ["+y", "+z"])
@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_up_is_where_it_was_asked_for(meshed_arrow, tmp_path, kind, up):
    paths = meshing.save(meshing.to_files(meshed_arrow.model, kind, "arrow", up), tmp_path)
    mesh = trimesh.load_scene(paths[0]).to_mesh()
    assert mesh.volume > 0
    # up is the arrow's fin, at 0.35; the tip, at 0.5, is the front: +z of y up, +x of z up
    expected = [0.3, 0.35, 0.5] if up == "+y" else [0.5, 0.3, 0.35]
    np.testing.assert_allclose(mesh.bounds[1], expected, atol=0.03)
    again = meshing.load(paths[0], up)
    np.testing.assert_allclose(again.bounds[1], [0.5, 0.3, 0.35], atol=0.03)


def test_up_without_being_asked():
    assert {kind: meshing.upward(kind) for kind in meshing.FORMATS} == {
        "glb": "+y",
        "obj": "+y",
        "ply": "+z",
        "stl": "+z",
        "usdz": "+y",
    }
    assert meshing.upward("glb", "+z") == "+y"  # glTF leaves no choice
    with pytest.raises(ValueError, match=r"up is '-z', must be auto, \+y or \+z"):
        meshing.upward("stl", "-z")


def test_obj_holds_the_same_mesh(meshed_arrow, glb_path, tmp_path):
    paths = meshing.save(meshing.to_files(meshed_arrow.model, "obj", "arrow"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "arrow.mtl",
        "arrow.obj",
        "arrow.png",
        "arrow_normal.png",
    ]
    from_obj, from_glb = (trimesh.load_scene(path).to_mesh() for path in (paths[0], glb_path))
    np.testing.assert_allclose(from_obj.bounds, from_glb.bounds, atol=1e-5)
    assert from_obj.volume == pytest.approx(from_glb.volume, rel=1e-4)
    assert from_obj.visual.material.image.size == (256, 256)
    left = np.array([[0.1, 0.0, -0.2]])
    from_obj.visual.material = from_obj.visual.material.to_pbr()
    np.testing.assert_allclose(texture_at(from_obj, left), texture_at(from_glb, left), atol=3)


def test_obj_is_closed_though_its_texture_has_seams(meshed_arrow):
    text = meshing.to_files(meshed_arrow.model, "obj")["model.obj"].decode()
    faces = [line.split()[1:] for line in text.splitlines() if line.startswith("f ")]
    corners = np.array([[[int(i) for i in corner.split("/")] for corner in face] for face in faces])
    edges = np.sort(corners[:, :, 0][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2))
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert corners[:, :, 1].max() > corners[:, :, 0].max()  # more texture coordinates than points
    assert (corners.max((0, 1)) == [text.count("\nv "), text.count("\nvt "), text.count("\nvn ")]).all()


def test_ply_has_the_colours_of_the_sides(meshed_arrow, tmp_path):
    path = meshing.save(meshing.to_files(meshed_arrow.model, "ply"), tmp_path)[0]
    mesh = trimesh.load_scene(path).to_mesh()
    assert mesh.is_watertight
    left = mesh.vertices[:, 1] > 0.095
    left &= np.abs(mesh.vertices[:, 0] + 0.2) < 0.2
    colours = mesh.visual.vertex_colors[left, :3] / 255
    assert np.median(np.abs(colours - [0.1, 0.7, 0.1]), axis=0).max() < 0.08


def test_stl_is_the_shape_alone(meshed_arrow, tmp_path):
    path = meshing.save(meshing.to_files(meshed_arrow.model, "stl"), tmp_path)[0]
    assert path.stat().st_size == 84 + 50 * len(
        meshed_arrow.model.mesh.faces
    )  # binary STL: 50 bytes a triangle
    assert trimesh.load_scene(path).to_mesh().is_watertight


def test_several_formats_and_none_twice(meshed_arrow):
    files = meshing.to_files(meshed_arrow.model, "stl+glb+stl+ply", "toy")
    assert list(files) == ["toy.stl", "toy.glb", "toy.ply"]


def test_unknown_format_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fbx'; allowed: glb, obj, ply, stl, usdz, or several joined by"):
        meshing.check_format("fbx")
    with pytest.raises(ValueError, match="'glb,obj'"):
        meshing.check_format("glb,obj")


@pytest.mark.parametrize("name", ["../model", "/tmp/model", "a/b", "a\\b", "..", ".", "", ".hidden"])
def test_names_cannot_leave_the_folder(meshed_arrow, tmp_path, name):
    with pytest.raises(ValueError, match="must be a plain file name"):
        meshing.to_files(meshed_arrow.model, "glb", name)
    folder = tmp_path / "export"
    with pytest.raises(ValueError, match="must be a plain file name"):
        meshing.save({name: b"data"}, folder)
    assert not list(tmp_path.rglob("*model*"))


def test_failed_save_leaves_no_file(tmp_path):
    (tmp_path / "model.glb").mkdir()  # a folder in the way
    with pytest.raises(OSError, match=r"model\.glb"):
        meshing.save({"model.glb": b"data"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.glb"]
