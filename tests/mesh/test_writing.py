"""Files as other programs read them: trimesh's readers, and the bytes."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from imagedream.mesh.export import load_exported
from imagedream.mesh.writing import FORMATS, TexturedMesh, check_format, save, to_files, upward
from imagedream.workshop.mesh_files.gltf import gltf_json


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
    agreement = np.einsum("fcx,fx->fc", mesh.vertex_normals[mesh.faces], mesh.face_normals)
    assert (agreement > 0).mean() > 0.97


def test_colours_lie_on_the_right_sides(glb_path):
    mesh = trimesh.load_scene(glb_path).to_mesh()
    expected = {  # glTF axes: x is the object's left (+y of the world), y up, z forward
        (0.1, 0.0, -0.2): [0.1, 0.7, 0.1],
        (-0.1, 0.0, -0.2): [0.8, 0.1, 0.1],
        (0.0, 0.1, -0.1): [0.9, 0.9, 0.1],
        (0.0, -0.1, -0.1): [0.8, 0.8, 0.8],
        (0.0, 0.15, 0.3): [0.1, 0.2, 0.9],
        (0.0, 0.0, -0.5): [0.1, 0.1, 0.1],
    }
    found = texture_at(mesh, np.array(list(expected))) / 255
    np.testing.assert_allclose(found, list(expected.values()), atol=0.08)


@pytest.mark.parametrize("with_normal_map", [True, False])
def test_glb_holds_the_textures_exactly_and_tangents_with_the_normal_map(
    meshed_arrow, tmp_path, with_normal_map
):
    model = meshed_arrow.model
    model = model if with_normal_map else TexturedMesh(model.mesh, model.base_colour)
    path = save(to_files(model), tmp_path)[0]
    tree, data = gltf_json(path), path.read_bytes()
    binary = data[28 + int.from_bytes(data[12:16], "little") :]
    (primitive,) = tree["meshes"][0]["primitives"]
    tangent = {"TANGENT"} if with_normal_map else set()
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"} | tangent
    assert ("normalTexture" in tree["materials"][0]) == with_normal_map
    assert [texture["sampler"] for texture in tree["textures"]] == [0] * len(tree["images"])
    assert tree["asset"]["generator"].startswith("imagedream ")
    pictures = [picture for picture in model.pictures if picture is not None]
    for image, expected in zip(tree["images"], pictures, strict=True):
        view = tree["bufferViews"][image["bufferView"]]
        start = view["byteOffset"]
        picture = Image.open(io.BytesIO(binary[start : start + view["byteLength"]]))
        np.testing.assert_array_equal(np.asarray(picture), expected)
        assert "gamma" not in picture.info


@pytest.mark.parametrize("up", ["+y", "+z"])
@pytest.mark.parametrize("kind", ["obj", "ply", "stl"])
def test_up_is_where_it_was_asked_for(meshed_arrow, tmp_path, kind, up):
    paths = save(to_files(meshed_arrow.model, kind, "arrow", up), tmp_path)
    mesh = trimesh.load_scene(paths[0]).to_mesh()
    assert mesh.volume > 0
    # up is the arrow's fin, at 0.35; the tip, at 0.5, is the front: +z of y up, +x of z up
    expected = [0.3, 0.35, 0.5] if up == "+y" else [0.5, 0.3, 0.35]
    np.testing.assert_allclose(mesh.bounds[1], expected, atol=0.03)
    again = load_exported(paths[0], up)
    np.testing.assert_allclose(again.bounds[1], [0.5, 0.3, 0.35], atol=0.03)


def test_up_without_being_asked():
    up = {"glb": "+y", "obj": "+y", "ply": "+z", "stl": "+z", "usdz": "+y"}
    assert {kind: upward(kind) for kind in FORMATS} == up
    assert upward("glb", "+z") == "+y"  # glTF leaves no choice
    with pytest.raises(ValueError, match=r"up is '-z', must be auto, \+y or \+z"):
        upward("stl", "-z")


def test_obj_holds_the_same_mesh(meshed_arrow, glb_path, tmp_path):
    paths = save(to_files(meshed_arrow.model, "obj", "arrow"), tmp_path)
    assert {path.name for path in paths} == {"arrow.obj", "arrow.mtl", "arrow.png", "arrow_normal.png"}
    from_obj, from_glb = (trimesh.load_scene(path).to_mesh() for path in (paths[0], glb_path))
    np.testing.assert_allclose(from_obj.bounds, from_glb.bounds, atol=1e-5)
    assert from_obj.volume == pytest.approx(from_glb.volume, rel=1e-4)
    assert from_obj.visual.material.image.size == (256, 256)
    left = np.array([[0.1, 0.0, -0.2]])
    from_obj.visual.material = from_obj.visual.material.to_pbr()
    np.testing.assert_allclose(texture_at(from_obj, left), texture_at(from_glb, left), atol=3)


def test_obj_is_closed_though_its_texture_has_seams(meshed_arrow):
    text = to_files(meshed_arrow.model, "obj")["model.obj"].decode()
    faces = [line.split()[1:] for line in text.splitlines() if line.startswith("f ")]
    corners = np.array([[[int(i) for i in corner.split("/")] for corner in face] for face in faces])
    edges = np.sort(corners[:, :, 0][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2))
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert corners[:, :, 1].max() > corners[:, :, 0].max()  # more texture coordinates than points
    assert (corners.max((0, 1)) == [text.count("\nv "), text.count("\nvt "), text.count("\nvn ")]).all()


def test_ply_has_the_colours_of_the_sides(meshed_arrow, tmp_path):
    path = save(to_files(meshed_arrow.model, "ply"), tmp_path)[0]
    mesh = trimesh.load_scene(path).to_mesh()
    assert mesh.is_watertight
    left = mesh.vertices[:, 1] > 0.095
    left &= np.abs(mesh.vertices[:, 0] + 0.2) < 0.2
    colours = mesh.visual.vertex_colors[left, :3] / 255
    assert np.median(np.abs(colours - [0.1, 0.7, 0.1]), axis=0).max() < 0.08


def test_stl_is_the_shape_alone(meshed_arrow, tmp_path):
    path = save(to_files(meshed_arrow.model, "stl"), tmp_path)[0]
    assert path.stat().st_size == 84 + 50 * len(
        meshed_arrow.model.mesh.faces
    )  # binary STL: 50 bytes a triangle
    assert trimesh.load_scene(path).to_mesh().is_watertight


def test_several_formats_and_none_twice(meshed_arrow):
    files = to_files(meshed_arrow.model, "stl+glb+stl+ply", "toy")
    assert list(files) == ["toy.stl", "toy.glb", "toy.ply"]


def test_unknown_format_lists_the_known_ones():
    with pytest.raises(ValueError, match="'fbx'; allowed: glb, obj, ply, stl, usdz, or several joined by"):
        check_format("fbx")
    with pytest.raises(ValueError, match="'glb,obj'"):
        check_format("glb,obj")


@pytest.mark.parametrize("name", ["../model", "/tmp/model", "a/b", "a\\b", "..", ".", "", ".hidden"])
def test_names_cannot_leave_the_folder(meshed_arrow, tmp_path, name):
    with pytest.raises(ValueError, match="must be a plain file name"):
        to_files(meshed_arrow.model, "glb", name)
    folder = tmp_path / "export"
    with pytest.raises(ValueError, match="must be a plain file name"):
        save({name: b"data"}, folder)
    assert not list(tmp_path.rglob("*model*"))


def test_failed_save_leaves_no_file(tmp_path):
    (tmp_path / "model.glb").mkdir()  # a folder in the way
    with pytest.raises(OSError, match=r"model\.glb"):
        save({"model.glb": b"data"}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.glb"]
