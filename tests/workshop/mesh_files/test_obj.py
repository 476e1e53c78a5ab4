"""OBJ and PLY files with what exporters write into them: names, options, colours beside the vertices."""

import re
import struct

import numpy as np
import pytest
from PIL import Image

from imagedream.mesh.materials import surface_of
from imagedream.mesh.raycast import MeshError
from imagedream.workshop.mesh_files.reading import load_parts
from tests.workshop.mesh_files.squares import BLUE, FOUR, GREEN, RED, YELLOW, corners, picture

SHAPE = """v -1 -1 0{0}
v 1 -1 0{0}
v 1 1 0{0}
v -1 1 0{0}
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl {1}
f 1/1 2/2 3/3 4/4
"""


def write(folder, material="", colours="", name="m", library="mtllib some.mtl", file="some.mtl"):
    # texels as large as a quarter: blending does not reach their middles
    big = np.uint8([[RED, GREEN], [BLUE, YELLOW]]).repeat(8, axis=0).repeat(8, axis=1)
    (folder / "My Tex.png").write_bytes(picture(colours=big))
    (folder / file).write_text(f"newmtl {name}\n{material}\n")
    (folder / "square.obj").write_text(f"{library}\n{SHAPE.format(colours, name)}")
    return folder / "square.obj"


@pytest.mark.parametrize(
    "line",
    [
        "map_Kd My Tex.png",
        "\tMAP_KD My Tex.png",
        "map_Kd C:\\Users\\me\\Textures\\my tex.PNG",
        "map_Kd ./textures/My%20Tex.png",
        "Kd 0.1 0.1 0.1\nmap_Kd -blendu on -s 1 1 1 -o 0 0 0 -mm 0 1 My Tex.png",
        "map_Kd -s 1 My Tex.png",
        'map_Kd "My Tex.png" # a comment',
        "map_Kd Maps/my tex.png",
    ],
)
def test_textures_are_found_as_their_writers_meant(line, tmp_path):
    assert corners(write(tmp_path, line)) == FOUR


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("-o 0.5 0", [GREEN, RED, YELLOW, BLUE]),
        ("-o 0.5 0 0 -clamp ON", [GREEN, GREEN, YELLOW, YELLOW]),
        ("-s 0.5 0.5 -o 0.5 0.5 0", [GREEN] * 4),
    ],
)
def test_textures_are_moved_and_scaled(options, expected, tmp_path):
    assert corners(write(tmp_path, f"map_Kd {options} My Tex.png")) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r"),
        lambda text: re.sub("^", "  ", text, flags=re.MULTILINE).replace(" -", "\t-"),
        lambda text: text.replace("4/4", "\\\n4/4 # the last").replace(
            "mtllib some.mtl", 'MTLLIB "some.mtl" # a'
        ),
        lambda text: text.replace("f 1/1 2/2 3/3 4/4", "f 1/1 2/2 3/3\nf -4/-4 -2/-2 -1/-1"),
        lambda text: text.replace("usemtl m", "usemtl m # the only one"),
    ],
)
def test_lines_as_exporters_write_them(change, tmp_path):
    path = write(tmp_path, "map_Kd My Tex.png")
    path.write_bytes(change(path.read_text()).encode())
    assert corners(path) == FOUR


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "gb18030"])
def test_files_in_other_encodings(encoding, tmp_path):
    name = "贴图.png" if encoding == "gb18030" else "texé.png"
    path = write(tmp_path, f"map_Kd {name}")
    (tmp_path / "My Tex.png").rename(tmp_path / name)
    for file in (path, tmp_path / "some.mtl"):
        file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert corners(path) == FOUR


def test_faces_without_coordinates_or_material_beside_others(tmp_path):
    path, said = write(tmp_path, "map_Kd My Tex.png"), []
    shape = path.read_text()
    path.write_text(shape.replace("f 1/1 2/2 3/3 4/4", "f 1 3 4\nf 1/1 2/2 3/3\ng more\nf 1/1 2/2 3/3"))
    assert (
        corners(path, warn=said.append)[3] == YELLOW
    )  # below on the right, the upper left has no coordinates
    assert said == ["square.obj: texture My Tex.png has no coordinates to lie by, shown without"]
    path.write_text(shape.replace("usemtl m\n", ""))
    assert corners(path, warn=said.append) == [(178, 178, 178)] * 4
    assert said[1:] == ["square.obj: nothing in it says a colour, shown in grey"]


@pytest.mark.parametrize(
    ("material", "sentence"),
    [
        ("map_Kd -mm 0.5 0.5 My Tex.png", "texture My Tex.png: -mm of its material is not known here"),
        ("map_Kd My Tex.png\nd 0.3", "material m is see-through (d or Tr), shown opaque"),
        ("map_Kd My Tex.png\nTr 1", "material m is see-through (d or Tr), shown opaque"),
    ],
)
def test_what_is_shown_otherwise_than_written_is_said(material, sentence, tmp_path):
    said = []
    assert corners(write(tmp_path, material), warn=said.append) == FOUR
    assert said == [f"square.obj: {sentence}"]


def test_colours_beside_the_vertices_count_with_every_material(tmp_path):
    assert corners(write(tmp_path, "Kd 1 1 1", " 0.2 0.5 0.8")) == [(51, 128, 204)] * 4
    assert corners(write(tmp_path, "Kd 0.5 1 1", " 0.2 0.5 0.8")) == [(26, 128, 204)] * 4
    assert corners(write(tmp_path, "", " 51 128 204")) == [(51, 128, 204)] * 4  # some write bytes
    half = [tuple(round(value / 2) for value in colour) for colour in FOUR]
    np.testing.assert_allclose(corners(write(tmp_path, "map_Kd My Tex.png", " 0.5 0.5 0.5")), half, atol=1)


def test_materials_of_several_files_and_names_with_spaces(tmp_path):
    path = write(tmp_path, "Kd 1 0 0", name="red one", library="mtllib other.mtl some.mtl", file="some.mtl")
    (tmp_path / "other.mtl").write_text("newmtl other\nKd 0 1 0\n")
    assert corners(path) == [(255, 0, 0)] * 4
    assert (
        corners(write(tmp_path, "Kd 0 1 1", library="mtllib my file.mtl", file="my file.mtl"))
        == [(0, 255, 255)] * 4
    )
    spaced = write(tmp_path, "Kd 0 1 1", name="two  words # 1")
    spaced.write_text("\ufeff" + spaced.read_text().replace("usemtl ", "usemtl\t").replace("\n", "\r\n"))
    assert corners(spaced) == [(0, 255, 255)] * 4
    assert corners(write(tmp_path, "Kd 0 0 0\nKe 1 0 0")) == [(255, 0, 0)] * 4


def test_a_picture_of_the_opacity_cuts_holes(tmp_path):
    Image.fromarray(np.uint8([[0, 255], [255, 255]])).resize((16, 16), 0).save(tmp_path / "holes.png")
    (part,) = load_parts(write(tmp_path, "map_Kd My Tex.png\nmap_d holes.png"))
    surface = surface_of(part)
    assert surface.alpha_cutoff == 0.5
    assert np.asarray(surface.texture.picture)[::8, ::8, 3].tolist() == [[0, 255], [255, 255]]
    plain = write(tmp_path, "Kd 1 0 0\nmap_d holes.png")
    assert corners(plain) == [(0, 0, 0)] + [(255, 0, 0)] * 3


@pytest.mark.parametrize(
    ("material", "options", "said"),
    [
        (
            "map_Kd gone.png",
            {},
            ["texture gone.png is not there, shown without", "nothing in it says a colour, shown in grey"],
        ),
        (
            "Kd 1 0 0",
            {"library": "mtllib gone.mtl"},
            ["material file gone.mtl is not there", "material m is not there, shown without"],
        ),
        ("Kd 1 0 0", {"library": ""}, ["material m is not there, shown without"]),
        ("Ks 1 1 1", {}, ["nothing in it says a colour, shown in grey"]),
        ("map_Kd some.mtl", {}, ["texture some.mtl cannot be read (none of PNG"]),
        ("map_Kd", {}, ["nothing in it says a colour, shown in grey"]),
    ],
)
def test_what_is_not_there_is_named(material, options, said, tmp_path):
    heard = []
    assert corners(write(tmp_path, material, **options), warn=heard.append) == [(178, 178, 178)] * 4
    for sentence in said:
        assert any(f"square.obj: {sentence}" in one for one in heard), heard


def test_a_texture_as_ambient_colour_alone_is_the_colour_and_named(tmp_path):
    said = []
    assert corners(write(tmp_path, "map_Ka My Tex.png"), warn=said.append) == FOUR
    assert "(map_Ka), shown as its colour" in said[0]


def test_a_texture_without_coordinates_is_named(tmp_path):
    path, said = write(tmp_path, "Kd 1 0 0\nmap_Kd My Tex.png"), []
    path.write_text(re.sub(r"/\d|vt .*\n", "", path.read_text()))
    assert corners(path, warn=said.append) == [(255, 0, 0)] * 4
    assert said == ["square.obj: texture My Tex.png has no coordinates to lie by, shown without"]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("uchar", (51, 128, 204)),
        ("ushort", (13107, 32896, 52428)),
        ("float", (0.2, 0.5, 0.8)),
        ("float", (51, 128, 204)),
    ],
)
def test_colours_of_ply_files_in_any_numbers(kind, values, tmp_path):
    write(tmp_path)
    header = ["ply", "format ascii 1.0", "comment TextureFile My Tex.png", "element vertex 4"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [*(f"property {kind} {name}" for name in ("red", "green", "blue")), "element face 2"]
    header += ["property list uchar int vertex_indices", "end_header"]
    points = [f"{x} {y} 0 {' '.join(map(str, values))}" for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    (tmp_path / "square.ply").write_text("\n".join([*header, *points, "3 0 1 2", "3 0 2 3", ""]))
    said = []
    assert corners(tmp_path / "square.ply", warn=said.append) == [(51, 128, 204)] * 4
    assert said == ["square.ply: its texture has no coordinates to lie by, shown without"]


@pytest.mark.parametrize("name", ["My Tex.png", "trap.png"])
def test_a_ply_file_with_a_texture(name, tmp_path):
    write(tmp_path)
    (tmp_path / "trap.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    header = ["ply", "format ascii 1.0", f"comment TextureFile {name}", "element vertex 4"]
    header += [f"property float {axis}" for axis in ("x", "y", "z", "s", "t")]
    header += ["element face 2", "property list uchar int vertex_indices", "end_header"]
    points = ["-1 -1 0 0 0", "1 -1 0 1 0", "1 1 0 1 1", "-1 1 0 0 1"]
    (tmp_path / "square.ply").write_text("\n".join([*header, *points, "3 0 1 2", "3 0 2 3", ""]))
    said = []
    seen = corners(tmp_path / "square.ply", warn=said.append)
    if name == "My Tex.png":
        assert (seen, said) == (FOUR, [])
    else:
        assert "square.ply: texture trap.png cannot be read (none of PNG" in said[0]


NUMBERS = "property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize("names", [("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")])
@pytest.mark.parametrize(("order", "letter"), [("little", "<"), ("big", ">")])
def test_binary_ply_files_with_faces_of_any_corners(names, order, letter, tmp_path):
    head = f"ply\nformat binary_{order}_endian 1.0\nelement vertex 4\n{NUMBERS}"
    head += "".join(f"property uchar {name}\n" for name in names)
    head += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
    points = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    body = b"".join(struct.pack(f"{letter}3f3B", *point, 0, 51, 128, 204) for point in points)
    body += struct.pack(f"{letter}B4iB3i", 4, 0, 1, 2, 3, 3, 0, 1, 2)
    path = tmp_path / "square.ply"
    path.write_bytes(head.encode() + body)
    assert corners(path) == [(51, 128, 204)] * 4
    path.write_bytes(head.encode() + body[:-3])
    with pytest.raises(MeshError, match="it ends before its numbers do, after 87 bytes"):
        load_parts(path)


@pytest.mark.parametrize(
    ("words", "header", "expected"),
    [
        (
            (0x8000 | 31 << 10, 0x8000 | 31),
            b"",
            [(255, 0, 0), (0, 0, 255)],
        ),  # VisCAM: blue in the lowest bits
        ((31, 31 << 10), b"COLOR=\xff\xff\0\xff", [(255, 0, 0), (0, 0, 255)]),  # Magics: red there
        ((0x8000, 0x8000), b"solid COLOR=\xff\xff\0\xff", [(255, 255, 0)] * 2),
    ],
)
def test_colours_of_stl_files(words, header, expected, tmp_path):
    path, data = tmp_path / "square.stl", header.ljust(80, b"\0") + struct.pack("<I", 2)
    for word, points in zip(words, ([(-1, -1), (1, -1), (1, 1)], [(-1, -1), (1, 1), (-1, 1)]), strict=True):
        data += struct.pack("<12fH", 0, 0, 1, *(value for point in points for value in (*point, 0)), word)
    path.write_bytes(data)
    seen = corners(path)
    assert [seen[3], seen[0]] == expected  # below on the right, above on the left
    path.write_bytes(data[:-3])
    with pytest.raises(MeshError, match="it claims 2 triangles, which are 184 bytes, and has 181"):
        load_parts(path)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("a.obj", b"PK\3\4", "ZIP"), ("a.glb", b"<html>", "XML or HTML"), ("a.ply", b"\x1f\x8b", "gzip")],
)
def test_other_files_with_such_an_ending_are_named(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MeshError, match=rf"\(by its first bytes it is {kind}\)$"):
        load_parts(tmp_path / name)


CORNERS = "0 0 0\n1 0 0\n0 1 0\n"
PLY = f"ply\nformat ascii 1.0\nelement vertex 3\n{NUMBERS}element face 1\n"
PLY += f"property list uchar int vertex_indices\nend_header\n{CORNERS}3 0 1 2\n"
LOOP = CORNERS.replace("\n", "\nvertex ", 2)
STL = f"solid a\nfacet normal 0 0 1\nouter loop\nvertex {LOOP}endloop\nendfacet\nendsolid a\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "a face has vertex 0, OBJ counts from 1"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/1 0/1\n", "a face has vertex 0"),
        ("a.ply", PLY.removesuffix("3 0 1 2\n"), "it has fewer lines than the 4 that its header names"),
        ("a.ply", PLY.replace("format ascii 1.0\n", ""), "its header names no format: ascii, "),
        ("a.ply", PLY.replace("element face", "element tristrips"), "in strips .*, which are not read"),
        ("a.stl", STL.removesuffix("endsolid a\n"), "it has no endsolid, its end is missing"),
    ],
)
def test_shapes_that_are_cut_off_or_counted_otherwise(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(MeshError, match=rf"{name}: .*{message}"):
        load_parts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ply", PLY),
        ("a.ply", PLY.replace("format", "comment by hand\nformat").replace("\n", "\r\n")),
        ("a.stl", STL + STL),
        ("a.stl", STL.upper()),
    ],
)
def test_headers_and_solids_as_others_write_them(name, content, tmp_path):
    (tmp_path / name).write_bytes(content.encode())
    (part,) = load_parts(tmp_path / name)
    assert part.area == pytest.approx(0.5 * content.count("endsolid") or 0.5)


def test_a_shape_of_too_many_vertices_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("imagedream.workshop.mesh_files.source.MAX_ELEMENTS", 6)
    with pytest.raises(MeshError, match="claims 7 vertices and indices, the limit is 6"):
        load_parts(write(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr("imagedream.workshop.mesh_files.source.MAX_PARTS", 0)
    with pytest.raises(MeshError, match="more than 0 parts"):
        load_parts(write(tmp_path))
