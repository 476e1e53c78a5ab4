import json

import numpy as np
import pytest
import trimesh

from imagedream.mesh.gltf_axes import to_gltf_axes
from imagedream.mesh.raycast import MeshError, bounds
from imagedream.workshop.mesh_files.gltf import gltf_json
from imagedream.workshop.mesh_files.reading import FileAxes, load_parts, normalise_parts


def box(colour=(255, 0, 0, 255), extents=(3.0, 2.0, 1.0)):
    mesh = trimesh.creation.box(extents)
    mesh.visual = trimesh.visual.ColorVisuals(
        mesh, face_colors=np.tile(np.uint8(colour), (len(mesh.faces), 1))
    )
    return mesh


@pytest.mark.parametrize(("suffix", "y_up"), [("glb", True), ("obj", True), ("ply", False), ("stl", False)])
def test_load_parts_gives_world_axes(tmp_path, suffix, y_up):
    mesh = box()
    if y_up:
        mesh.vertices = to_gltf_axes(mesh.vertices)
    mesh.export(tmp_path / f"box.{suffix}")
    (loaded,) = load_parts(tmp_path / f"box.{suffix}")
    np.testing.assert_allclose(loaded.extents, [3, 2, 1], atol=1e-6)
    np.testing.assert_allclose(loaded.volume, 6, atol=1e-5)  # positive: the change of axes mirrors nothing


def test_axes_of_a_file_are_front_left_up():
    # glTF: front +z, up +y, hence the left at +x; this project: front +x, left +y, up +z
    assert FileAxes.of("a.glb").rotation().tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert FileAxes.of("a.ply").rotation().tolist() == np.eye(3).tolist()
    # Blender's own axes, as OBJ files "exported without conversion" have them: up z, front -y, hence left +x
    assert FileAxes.of("a.obj", "z", "-y").rotation().tolist() == [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    for axes in (FileAxes("x", "-z"), FileAxes("y", "-x"), FileAxes("z", "+y")):
        np.testing.assert_allclose(np.linalg.det(axes.rotation()), 1)  # never mirrored


@pytest.mark.parametrize(("up", "front"), [("y", "+y"), ("z", "-z"), ("w", "+x"), ("y", "z")])
def test_axes_say_what_is_wrong(up, front):
    with pytest.raises(ValueError, match="must be one of"):
        FileAxes(up, front)


def test_the_same_object_in_any_axes_is_the_same_object(tmp_path):
    wedge = trimesh.Trimesh(
        [[0, 0, 0], [3, 0, 0], [0, 2, 0], [0, 0, 1]], [[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]
    )
    for up, front in (("y", "+z"), ("y", "-x"), ("z", "+x"), ("z", "-y"), ("x", "+y")):
        axes = FileAxes(up, front)
        turned = trimesh.Trimesh(wedge.vertices @ axes.rotation(), wedge.faces, process=False)
        turned.export(tmp_path / "wedge.glb")
        (loaded,) = load_parts(tmp_path / "wedge.glb", axes)
        np.testing.assert_allclose(loaded.vertices, wedge.vertices, atol=1e-6)


def test_a_scene_keeps_its_transforms_and_is_normalised_as_one(tmp_path):
    scene = trimesh.Scene()
    for place in ([0, 0, 0], [0, 4, 0]):
        transform = trimesh.transformations.translation_matrix(place)
        scene.add_geometry(box(extents=(1, 1, 1)), transform=transform)
    scene.export(tmp_path / "two.glb")
    as_they_are = bounds(load_parts(tmp_path / "two.glb"))
    np.testing.assert_allclose(as_they_are, [[-0.5, -0.5, -0.5], [0.5, 0.5, 4.5]], atol=1e-6)
    parts = sorted(normalise_parts(load_parts(tmp_path / "two.glb")), key=lambda part: part.bounds[0, 2])
    # 5 high, so each is a fifth, the lower one from -0.5
    np.testing.assert_allclose(parts[0].bounds, [[-0.1, -0.1, -0.5], [0.1, 0.1, -0.3]], atol=1e-6)
    np.testing.assert_allclose(parts[1].bounds, [[-0.1, -0.1, 0.3], [0.1, 0.1, 0.5]], atol=1e-6)


@pytest.mark.parametrize("unit", [1, 1e-9])
def test_normalise_fills_the_unit_cube_and_leaves_its_argument(unit):
    mesh = box()
    mesh.apply_translation([5, 6, 7])
    small = mesh.copy()
    small.vertices *= unit
    normalised = normalise_parts([small])[0]
    np.testing.assert_allclose(
        normalised.bounds, [[-1 / 2, -1 / 3, -1 / 6], [1 / 2, 1 / 3, 1 / 6]], atol=1e-9
    )
    np.testing.assert_allclose(mesh.extents, [3, 2, 1])


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.glb does not exist"):
        load_parts(tmp_path / "nothing.glb")
    (tmp_path / "picture.png").write_bytes(b"")
    with pytest.raises(MeshError, match=r"'\.png'.*\.glb, \.gltf, \.obj, \.ply, \.stl"):
        load_parts(tmp_path / "picture.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("broken.glb", b"not a mesh"), ("empty.glb", b"")],
        *[("empty.obj", b""), ("points.obj", b"v 0 0 0\nv 1 0 0\n")],
    ],
)
def test_files_without_a_mesh(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshError, match=name):
        load_parts(tmp_path / name)


def test_the_tree_of_a_gltf_file(tmp_path):
    box().export(tmp_path / "box.glb")
    tree = gltf_json(tmp_path / "box.glb")
    assert tree["asset"]["version"] == "2.0"
    (tmp_path / "box.gltf").write_text(json.dumps(tree))
    assert gltf_json(tmp_path / "box.gltf") == tree
    for content in (b"glTF nonsense", b"[1, 2]", b"[" * 100_000):
        (tmp_path / "broken.gltf").write_bytes(content)
        with pytest.raises(MeshError, match=r"broken\.gltf is no glTF file"):
            gltf_json(tmp_path / "broken.gltf")


def test_broken_meshes():
    broken, corners = np.eye(3), np.eye(3)
    broken[1, 1] = np.nan
    for vertices, faces, message in (
        (corners, np.zeros((0, 3), int), "no faces"),
        (broken, [[0, 1, 2]], "1 of 3 vertices"),
        (np.ones((3, 3)), [[0, 1, 2]], "one point"),
        (corners, [[0, 1, 7]], "vertex 7, there are only 3 vertices"),
    ):
        with pytest.raises(MeshError, match=message):
            normalise_parts([trimesh.Trimesh(vertices, faces, process=False)])
