"""glTF files look as the specification says; what cannot be shown so is said; what does not hold together is one clear error."""

import base64
import json
import math
import re
import sys

import numpy as np
import pytest
import trimesh

from imagedream.mesh.materials import surface_of
from imagedream.mesh.raycast import Light, MeshError
from imagedream.workshop.mesh_files.reading import FileAxes, load_parts
from tests.workshop.mesh_files.squares import (
    BLUE,
    FACES,
    FOUR,
    GREEN,
    RED,
    SQUARE,
    TEXTURED,
    TYPES,
    UV,
    YELLOW,
    Scene,
    corners,
    picture,
)

LINEAR = np.float32([0.214, 0.05, 0.6])  # sRGB (127, 63, 203) by IEC 61966-2-1: 1.055 x^(1/2.4) - 0.055
VIOLET = (127, 63, 203)


@pytest.mark.parametrize("suffix", [".glb", ".gltf"])
@pytest.mark.parametrize("indices", [FACES, None])
def test_a_textured_square(suffix, indices, tmp_path):
    order = slice(None) if indices is not None else FACES.reshape(-1)
    scene = Scene(TEXTURED, indices, POSITION=SQUARE[order], TEXCOORD_0=UV[order])
    assert corners(scene.write(tmp_path / f"square{suffix}")) == FOUR


@pytest.mark.parametrize(
    ("mode", "indices"), [(5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])]
)  # a strip and a fan of the same square
def test_strips_and_fans_face_as_triangles_do(mode, indices, tmp_path):
    scene = Scene(TEXTURED, np.uint8(indices))
    scene.primitive["mode"] = mode
    path = scene.write(tmp_path / "square.glb")
    assert corners(path) == FOUR
    (part,) = load_parts(path, FileAxes("y", "+z"))
    assert (part.face_normals @ [1, 0, 0] > 0.99).all()


@pytest.mark.parametrize(
    "colours",
    [
        LINEAR,
        np.float32([*LINEAR, 1]),
        (np.uint16(np.round(LINEAR * 65535)), True),
        np.uint16(np.round([*(LINEAR * 65535), 65535])),  # some writers forget to say that it is normalised
    ],
)
@pytest.mark.parametrize(
    "material", [None, {}, {"pbrMetallicRoughness": {"metallicFactor": 0}}, {"emissiveFactor": [0, 0, 0]}]
)
def test_vertex_colours_are_linear_and_multiply_the_material(colours, material, tmp_path):
    values, normalised = colours if isinstance(colours, tuple) else (colours, False)
    scene = Scene(material, COLOR_0=(np.tile(values, (4, 1)), normalised))
    assert corners(scene.write(tmp_path / "square.glb")) == [VIOLET] * 4


def test_factor_vertex_colour_and_texture_are_multiplied_as_light(tmp_path):
    half = np.float32(0.5)
    material = {
        "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "baseColorFactor": [0.5, 0.5, 0.5, 1]}
    }
    scene = Scene(material, COLOR_0=np.full((4, 3), half), image=picture(colours=[[(188, 255, 0)]]))
    # 188 is 0.503 in linear light: 0.503/4 = 0.1257 is 99 in sRGB, and 1/4 is 137
    assert corners(scene.write(tmp_path / "square.glb")) == [(99, 137, 0)] * 4
    factor = Scene({"pbrMetallicRoughness": {"baseColorFactor": [*LINEAR.tolist(), 1]}})
    assert corners(factor.write(tmp_path / "factor.glb")) == [VIOLET] * 4
    glossy = {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [*LINEAR.tolist(), 1]}}
    assert corners(Scene({"extensions": glossy}).write(tmp_path / "glossy.glb")) == [VIOLET] * 4


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"scale": [0.4, 0.4], "offset": [0.55, 0.05]}, [GREEN] * 4),
        ({"scale": [-1, 1], "offset": [1, 0]}, [GREEN, RED, YELLOW, BLUE]),
        # the specification's example: the lower left quarter of the picture, turned
        ({"offset": [0, 1], "rotation": math.pi / 2, "scale": [0.5, 0.5]}, [BLUE] * 4),
        # a quarter turn of the coordinates turns the picture clockwise: blue comes up left
        ({"offset": [0, 1], "rotation": math.pi / 2}, [BLUE, RED, YELLOW, GREEN]),
    ],
)
def test_texture_transforms(transform, expected, tmp_path):
    info = {"index": 0, "extensions": {"KHR_texture_transform": transform}}
    scene = Scene({"pbrMetallicRoughness": {"baseColorTexture": info}})
    assert corners(scene.write(tmp_path / "square.glb")) == expected
    # the extension's set of coordinates counts, here of 16 bits, not the texture's own
    transform |= {"texCoord": 1}
    wide = (np.uint16(UV * 65535), True)
    scene = Scene({"pbrMetallicRoughness": {"baseColorTexture": info}}, TEXCOORD_0=UV * 0, TEXCOORD_1=wide)
    assert corners(scene.write(tmp_path / "other.glb")) == expected


def test_the_second_set_of_texture_coordinates(tmp_path):
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, "texCoord": 1}}}
    path = Scene(material, TEXCOORD_1=np.float32([[0.75, 0.75]] * 4)).write(tmp_path / "square.glb")
    assert corners(path) == [YELLOW] * 4
    said = []
    corners(Scene(material).write(path), warn=said.append)
    assert "square.glb: texture 0 lies by TEXCOORD_1, which is not there, shown without" in said


@pytest.mark.parametrize(
    ("positions", "uv", "scale", "offset"),
    [
        (np.int16(SQUARE * 32767), (np.uint16(UV * 65535), True), 1.0, None),
        (np.int8(SQUARE * 127), (np.uint8(UV * 255), True), 1.0, None),
        (np.uint8(SQUARE + 1), np.int16(UV * 512), 1.0, 1 / 512),  # plain whole numbers, moved by transforms
    ],
)
def test_quantised_coordinates(positions, uv, scale, offset, tmp_path):
    plain = offset is not None
    info = {
        "index": 0,
        **({"extensions": {"KHR_texture_transform": {"scale": [offset] * 2}}} if plain else {}),
    }
    pad = np.zeros((4, 1), positions.dtype)  # rows of a multiple of 4 bytes
    scene = Scene({"pbrMetallicRoughness": {"baseColorTexture": info}}, TEXCOORD_0=uv)
    scene.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    rows = np.hstack([positions, pad])
    view = scene.view(rows.tobytes(), byteStride=rows.shape[1] * rows.itemsize)
    position = scene.tree["accessors"][scene.primitive["attributes"]["POSITION"]]
    position |= {"bufferView": view, "componentType": TYPES[positions.dtype.str[1:]], "normalized": not plain}
    scene.tree["nodes"][0] |= {"translation": [-1, -1, -1]} if plain else {"scale": [scale] * 3}
    distance = 2.0 if plain else 3.0  # z of 0 became 1, and is moved back to 0
    assert corners(scene.write(tmp_path / "square.glb"), distance=3.0 if not plain else distance + 1) == FOUR


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (10497, [RED, GREEN, BLUE, YELLOW]),
        (33648, [GREEN, RED, YELLOW, BLUE]),  # mirrored
        (33071, [GREEN, GREEN, YELLOW, YELLOW]),  # clamped
    ],
)
def test_what_lies_beside_a_texture(wrap, expected, tmp_path):
    scene = Scene(TEXTURED, TEXCOORD_0=UV + np.float32([1, 0]))  # one to the right
    scene.tree["samplers"][0]["wrapS"] = wrap
    assert corners(scene.write(tmp_path / "square.glb")) == expected


def test_emission_and_unlit_surfaces_shine_without_light(tmp_path):
    black = {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}, "emissiveTexture": {"index": 0}}
    dark = Light(ambient=0.0, diffuse=0.0)
    path = tmp_path / "square.glb"
    assert corners(Scene(black | {"emissiveFactor": [1, 1, 1]}).write(path)) == FOUR
    assert corners(Scene(black | {"emissiveFactor": [1, 1, 1]}).write(path), dark) == FOUR
    assert corners(Scene(black).write(path)) == [(0, 0, 0)] * 4  # a factor of 0 unless it is given
    strength = {"extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 2.0}}}
    factor = {
        "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]},
        "emissiveFactor": (LINEAR / 2).tolist(),
    }
    assert corners(Scene(factor | strength).write(path), dark) == [VIOLET] * 4
    assert corners(Scene(TEXTURED).write(path), dark) == [(0, 0, 0)] * 4
    assert corners(Scene(TEXTURED | {"extensions": {"KHR_materials_unlit": {}}}).write(path), dark) == FOUR
    # light is added as light: 0.214 of white and 0.05 are 0.264, in sRGB 140
    both = {"pbrMetallicRoughness": {"baseColorFactor": [0.214] * 3 + [1]}, "emissiveFactor": [0.05] * 3}
    assert corners(Scene(both).write(path)) == [(140, 140, 140)] * 4


HALF = picture(colours=[[(*RED, 200), (*GREEN, 255)], [(*BLUE, 255), (*YELLOW, 0)]])  # with alpha
HOLE = (0, 0, 0)


@pytest.mark.parametrize(
    ("mode", "factor", "expected", "said"),
    [
        ("OPAQUE", 0.0, FOUR, []),
        ("MASK", 1.0, [RED, GREEN, BLUE, HOLE], []),
        ("MASK", 0.6, [HOLE, GREEN, BLUE, HOLE], []),  # 0.6 x 200 / 255 is below one half
        ("BLEND", 1.0, [RED, GREEN, BLUE, HOLE], []),
        ("BLEND", 0.3, FOUR, ["a see-through part is shown opaque"]),
    ],
)
def test_alpha_is_that_of_the_factor_times_that_of_the_texture(mode, factor, expected, said, tmp_path):
    base = {"baseColorTexture": {"index": 0}, "baseColorFactor": [1, 1, 1, factor]}
    scene = Scene({"pbrMetallicRoughness": base, "alphaMode": mode}, image=HALF)
    heard = []
    assert corners(scene.write(tmp_path / "square.glb"), warn=heard.append) == expected
    assert heard == [f"square.glb: {sentence}" for sentence in said]


@pytest.mark.parametrize(
    ("material", "colours"),
    [
        ({"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 0]}, "alphaMode": "BLEND"}, {}),
        ({"alphaMode": "MASK"}, {"COLOR_0": np.float32([[1, 1, 1, 0.4]] * 4)}),
        (TEXTURED | {"alphaMode": "MASK", "alphaCutoff": 1.1}, {}),
    ],
)
def test_what_is_wholly_transparent_is_not_shown(material, colours, tmp_path):
    scene, heard = Scene(material, **colours), []
    scene.tree["meshes"][0]["primitives"].append(
        {"attributes": {"POSITION": 0}, "indices": scene.primitive["indices"]}
    )
    assert corners(scene.write(tmp_path / "square.glb"), warn=heard.append) == [(255, 255, 255)] * 4
    assert "square.glb: a wholly transparent part is not shown" in heard


def test_skins_hold_the_vertices_whatever_their_node_says(tmp_path):
    joints, weights = np.uint8([[0, 1, 0, 0]] * 4), np.float32([[0.5, 0.5, 0, 0]] * 4)
    scene = Scene(TEXTURED, JOINTS_0=joints, WEIGHTS_0=weights)
    # bind poses that undo where the joints stand but for one, whose mean with the other moves the square by (0, 0, 0.5)
    bind = np.stack([np.eye(4), np.eye(4)]).astype(np.float32)
    bind[0, :3, 3], bind[1, :3, 3] = (-5, 0, 0), (0, -7, 1)
    matrices = scene.add(bind.transpose(0, 2, 1).reshape(2, 16))
    scene.tree["skins"] = [{"joints": [2, 3], "inverseBindMatrices": matrices}]
    turned = {"rotation": [0.7071068, 0, 0, 0.7071068], "translation": [9, 9, 9]}
    scene.tree["nodes"] = [{"mesh": 0, "skin": 0, **turned}, {"children": [2, 3]}]
    scene.tree["nodes"] += [{"translation": [5, 0, 0]}, {"translation": [0, 7, 0]}]
    scene.tree["scenes"][0]["nodes"] = [0, 1]
    path = scene.write(tmp_path / "square.glb")
    assert corners(path, distance=3.5) == FOUR
    (part,) = load_parts(path, FileAxes("y", "+z"))
    np.testing.assert_allclose(part.vertices[:, 0], 0.5, atol=1e-6)
    scene.tree["skins"][0]["joints"] = [2, 3, 3]
    with pytest.raises(MeshError, match="a skin has 3 joints and 2 inverseBindMatrices"):
        load_parts(scene.write(path))


def test_scene_transforms_instances_and_morph_targets(tmp_path):
    scene = Scene(TEXTURED)
    moved = {
        "POSITION": scene.add(np.float32([[0, 0, 4]] * 4)),
        "TEXCOORD_0": scene.add(np.float32([[2, 0]] * 4)),
    }
    scene.primitive["targets"] = [moved]
    scene.tree["meshes"][0]["weights"] = [0.25]
    places = {
        "TRANSLATION": scene.add(np.float32([[0, 0, 0], [0, 0, 3]])),
        "SCALE": scene.add(np.ones((2, 3), "f4")),
    }
    scene.tree["nodes"] = [
        {"scale": [2, 2, 2], "children": [1]},
        {"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {"attributes": places}}},
        {"mesh": 0, "translation": [0, 0, 100]},  # not part of the scene
    ]
    first, second = load_parts(scene.write(tmp_path / "square.glb"), FileAxes("y", "+z"))
    np.testing.assert_allclose(surface_of(first).texture.uv[0], [0.5, 0])  # 0 + 2/4
    np.testing.assert_allclose(first.bounds, [[2, -2, -2], [2, 2, 2]])  # 2 x (0 + 4/4)
    np.testing.assert_allclose(second.bounds, [[8, -2, -2], [8, 2, 2]])  # 2 x (3 + 4/4)
    del scene.tree["scenes"], scene.tree["scene"]
    assert len(load_parts(scene.write(tmp_path / "square.glb"))) == 3  # without scenes everything is shown


def test_exporters_take_what_they_know_of_a_surface(tmp_path):
    """As Blender gets it."""
    material = {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}
    scene = Scene(material, COLOR_0=np.tile(LINEAR, (4, 1)), image=picture(colours=[[(255, 255, 255)]]))
    parts = load_parts(scene.write(tmp_path / "square.glb"), FileAxes("z", "+x"))
    trimesh.Scene(parts).export(tmp_path / "again.glb")
    np.testing.assert_allclose(corners(tmp_path / "again.glb"), [VIOLET] * 4, atol=1)


def test_sparse_numbers(tmp_path):
    scene = Scene(TEXTURED)
    sparse = {"count": 3, "indices": {"bufferView": scene.view(bytes([1, 2, 3])), "componentType": 5121}}
    sparse["values"] = {"bufferView": scene.view(SQUARE[1:].tobytes())}
    first = scene.add(SQUARE[:1].repeat(4, axis=0))
    scene.primitive["attributes"]["POSITION"] = first
    scene.tree["accessors"][first]["sparse"] = sparse
    assert corners(scene.write(tmp_path / "square.glb")) == FOUR


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("a%20b.png", "a b.png"),
        ("a b.png", "a b.png"),
        ("Tex%C3%A9.PNG", "texé.png"),
        ("C:\\art\\t.png", "t.png"),
        ("Sub/T.PNG", "sub/t.png"),
        ("e\u0301.png", "\u00e9.png"),  # as macOS writes it
    ],
)
def test_textures_beside_the_file(uri, file, tmp_path):
    scene = Scene(TEXTURED)
    scene.tree["images"] = [{"uri": uri}]
    said = []
    corners(scene.write(tmp_path / "square.gltf"), warn=said.append)
    assert f"square.gltf: texture {uri} is not there, shown without" in said
    assert "square.gltf: nothing in it says a colour, shown in white" in said
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(picture())
    assert corners(tmp_path / "square.gltf") == FOUR
    packed = base64.b64encode(picture()).decode()
    for uri in (f"data:image/png;base64,{packed}", "DATA:;base64," + packed.rstrip("=").replace("+", "%2B")):
        scene.tree["images"] = [{"uri": uri}]
        assert corners(scene.write(tmp_path / "square.gltf")) == FOUR


@pytest.mark.parametrize(
    ("kind", "extension"), [("WEBP", "EXT_texture_webp"), ("AVIF", "EXT_texture_avif"), ("JPEG", None)]
)
def test_other_kinds_of_pictures(kind, extension, tmp_path):
    big = np.uint8([[RED, GREEN], [BLUE, YELLOW]]).repeat(16, axis=0).repeat(16, axis=1)
    scene = Scene(TEXTURED, image=picture(kind, big, quality=100))
    if extension:
        scene.tree["textures"] = [{"extensions": {extension: {"source": 0}}}]
    np.testing.assert_allclose(corners(scene.write(tmp_path / "square.glb")), FOUR, atol=6)
    if extension:  # the plain one is for readers who cannot read the other
        scene.tree["textures"] = [{"extensions": {extension: {"source": 1}}, "source": 0}]
        scene.tree["images"].append({"bufferView": scene.view(b"of the future")})
        seen = corners(scene.write(tmp_path / "square.glb"), warn=lambda sentence: None)
        np.testing.assert_allclose(seen, FOUR, atol=6)


@pytest.mark.parametrize(
    ("image", "textures", "message"),
    [
        (
            b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(80),
            [{"source": 0}],
            r"texture image 0 cannot be read \(KTX2\)",
        ),
        (b"", [{"extensions": {"KHR_texture_basisu": {"source": 0}}}], r"texture 0 cannot be read \(KTX2\)"),
        (picture()[:50], [{"source": 0}], "texture image 0 cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", [{"source": 0}], "none of PNG, JPEG"),
        (picture(), [{}], r"texture 0 cannot be read \(no source\)"),
    ],
)
def test_textures_that_cannot_be_read_are_named(image, textures, message, tmp_path):
    scene = Scene(TEXTURED, image=image)
    scene.tree["textures"] = textures
    said = []
    assert corners(scene.write(tmp_path / "square.glb"), warn=said.append) == [(255, 255, 255)] * 4
    assert len(said) == 2
    assert re.search(message, said[0])


def test_draco(tmp_path):
    DracoPy = pytest.importorskip("DracoPy", reason="the draco extra is not installed")
    scene = Scene(TEXTURED)
    packed = DracoPy.encode(SQUARE, FACES, tex_coord=UV.astype(np.float64), quantization_bits=14)
    ids = {one["attribute_type"]: one["unique_id"] for one in DracoPy.decode(packed).attributes}
    kinds = {"POSITION": DracoPy.AttributeType.POSITION, "TEXCOORD_0": DracoPy.AttributeType.TEX_COORD}
    extension = {"bufferView": scene.view(packed), "attributes": {name: ids[kinds[name]] for name in kinds}}
    for accessor in scene.tree["accessors"]:
        del accessor["bufferView"]
    scene.primitive["extensions"] = {"KHR_draco_mesh_compression": extension}
    scene.tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    assert corners(scene.write(tmp_path / "square.glb")) == FOUR
    extension["bufferView"] = 0
    with pytest.raises(MeshError, match=r"square\.glb: its Draco data cannot be read"):
        load_parts(scene.write(tmp_path / "square.glb"))


def test_compression_that_is_not_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "DracoPy", None)  # as where it is not installed
    scene = Scene(TEXTURED)
    scene.primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {}}}
    with pytest.raises(
        MeshError, match=r"square\.glb: it is compressed with Draco: pip install 'imagedream\[draco\]'"
    ):
        load_parts(scene.write(tmp_path / "square.glb"))
    scene = Scene(TEXTURED)
    for view in scene.tree["bufferViews"]:
        view |= {"buffer": 1, "extensions": {"EXT_meshopt_compression": {"buffer": 0}}}
    write = scene.write(tmp_path / "square.gltf")
    tree = json.loads(write.read_text())
    tree["buffers"].append({"byteLength": 999, "extensions": {"EXT_meshopt_compression": {"fallback": True}}})
    write.write_text(json.dumps(tree))
    with pytest.raises(
        MeshError, match=r"square\.gltf: it is compressed with meshopt \(EXT_meshopt_compression\)"
    ):
        load_parts(write)
    scene.tree["extensionsRequired"] = ["EXT_future_shapes"]
    with pytest.raises(MeshError, match="it needs the extension EXT_future_shapes"):
        load_parts(scene.write(tmp_path / "square.glb"))


def change(**changes):
    def apply(scene):
        for path, value in changes.items():
            *way, last = (int(step) if step.isdecimal() else step for step in path.split("__"))
            entry = scene.tree
            for step in way:
                entry = entry[step]
            entry[last] = value

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change(accessors__0__bufferView=-1), r"POSITION names bufferViews\[-1\], there are 4"),
        (change(accessors__0__bufferView=True), r"POSITION names bufferViews\[True\]"),
        (
            change(accessors__0__count=5_000_000),
            "claims 5,000,000 values of 12 bytes every 12, to byte 60,000,000",
        ),
        (change(accessors__0__count=-1), "count is -1, must be a whole number from 0"),
        (change(accessors__0__count="4"), "count is '4', must be a whole number"),
        (change(accessors__0__byteOffset=-12), "byteOffset is -12"),
        (change(accessors__0__componentType=7), "mesh 0, primitive 0: KeyError 7"),
        (change(bufferViews__0__byteLength=10**9), "bytes 0 to 1,000,000,000 of a buffer of"),
        (change(bufferViews__0__byteStride=4), "values of 12 bytes every 4"),
        (
            change(meshes__0__primitives__0__attributes__POSITION=9),
            r"POSITION names accessors\[9\], there are 3",
        ),
        (change(meshes__0__primitives__0__material=-1), r"names materials\[-1\]"),
        (
            change(accessors__2__componentType=5123, bufferViews__2__byteOffset=0),
            "a face has vertex 49024, there are only 4 vertices",
        ),
        (
            change(accessors__2__componentType=5126, bufferViews__2__byteOffset=0),
            "indices holds SCALAR of float32, must hold 1 unsigned",
        ),
        (change(accessors__0__type="VEC2"), "POSITION holds VEC2 of float32, must hold 3 numbers each"),
        (change(nodes__0__mesh=5), r"node 0 names meshes\[5\], there are 1"),
        (change(nodes__0__children=[0]), "node 0 hangs in a circle"),
        (change(nodes=[{"mesh": 0, "children": [1, 1]}, {}]), "node 1 hangs in two places"),
        (change(scene=3), r"the file names scenes\[3\], there are 1"),
        (change(nodes__0__rotation=[0, 0, 0, 0]), "cannot be read as GLB"),
        (change(nodes__0__translation=[float("nan"), 0, 0]), "the transform of node 0 has NaN"),
        (change(asset={"version": "1.0"}), "glTF 1.0 is not read, only 2.0 is"),
        (change(asset={"version": "2.1", "minVersion": "2.1"}), "glTF 2.1 is not read"),
        (change(bufferViews=7), "mesh 0, primitive 0: TypeError"),
        (change(meshes__0__primitives="no"), "mesh 0, primitive 0: AttributeError"),
    ],
)
def test_what_does_not_hold_together_is_one_line(damage, message, tmp_path):
    scene = Scene(TEXTURED)
    damage(scene)
    with pytest.raises(MeshError, match=message) as caught:
        load_parts(scene.write(tmp_path / "square.glb"), warn=lambda sentence: None)
    assert "square.glb" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_without_data_and_too_many_instances_are_refused_before_they_are_made(tmp_path, monkeypatch):
    scene = Scene()
    del scene.tree["accessors"][0]["bufferView"]
    with pytest.raises(MeshError, match="POSITION has no data"):
        load_parts(scene.write(tmp_path / "square.glb"))
    scene = Scene()
    scene.tree["accessors"].append({"count": 20_000_000, "componentType": 5126, "type": "VEC3", "sparse": {}})
    scene.tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": 3}}}
    with pytest.raises(MeshError, match="claims 60,000,000 vertices"):
        load_parts(scene.write(tmp_path / "square.glb"))
    scene = Scene()
    scene.tree["nodes"] *= 3
    scene.tree["scenes"] = [{"nodes": [0, 1, 2]}]
    monkeypatch.setattr("imagedream.workshop.mesh_files.source.MAX_PARTS", 2)
    with pytest.raises(MeshError, match="more than 2 parts"):
        load_parts(scene.write(tmp_path / "square.glb"))
