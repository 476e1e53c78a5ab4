"""OBJ files as parts with surfaces: trimesh reads the shapes; the materials are read here, as exporters really write them."""

import io
import re
from collections import defaultdict

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import load_obj as read_shapes

from imagedream.mesh.materials import PLAIN_GREY, Surface, Texture, guessed_range, to_linear
from imagedream.mesh.raycast import MeshError
from imagedream.workshop.mesh_files.source import MeshSource, decoded

_OPTIONS = {"-s": 3, "-o": 3, "-t": 3, "-mm": 2}
_OPTIONS |= dict.fromkeys(
    ("-blendu", "-blendv", "-bm", "-boost", "-cc", "-clamp", "-imfchan", "-texres", "-type"), 1
)
"""Of the pictures in MTL files, with the most values that each takes."""

_SAME = {
    "-mm": [["0", "1"], ["0.0", "1.0"]],
    "-t": [["0"] * 3, ["0.0"] * 3],
    "-boost": [["0"], ["0.0"]],
    "-cc": [["off"]],
}
"""Values of options that change nothing; others would change the picture, in ways that are not shown."""

_UNTEXTURED = "\t"
"""Added to the name of a material for its faces without texture coordinates; no name ends so."""

_LINES = re.MULTILINE | re.IGNORECASE


def load_obj(source: MeshSource) -> list[trimesh.Trimesh]:
    """The triangles of an OBJ file, a part a material; its colours are sRGB, those of vertices multiply the material's.

    Raises:
        MeshError: too many vertices and faces, or a face that counts them from 0.
    """
    text = _tidied(decoded(source.path.read_bytes()))
    source.claim(sum(len(re.findall(rf"^{line}\s", text, re.MULTILINE)) for line in ("v", "f", "f", "f")))
    source.claim(0, len(re.findall(r"^usemtl\s", text, _LINES)))
    if re.search(r"^f (?:.* )?0+(?:[/ ]|$)", text, re.MULTILINE):
        raise MeshError("a face has vertex 0, OBJ counts from 1")
    materials = _Materials(source)
    for line in re.findall(r"^mtllib +(.+)", text, _LINES):
        materials.read(line.strip())
    # trimesh is told numbers for names and nothing else: it would open pictures of any kind, and lose colours beside a material
    used: dict[str, str] = {}
    text = re.sub(
        r"^usemtl(?: (.*))?$",
        lambda line: f"usemtl {used.setdefault((line[1] or '').strip(' '), str(len(used)))}",
        text,
        flags=_LINES,
    )
    names = "".join(f"newmtl {number}\n" for number in used.values()).encode()
    name_of = {number: name for name, number in used.items()}
    shapes = read_shapes(io.StringIO(f"mtllib names\n{text}"), resolver=defaultdict(lambda: names))
    parts = []
    for shape in shapes.get("geometry", {}).values():
        visual, colours = shape["visual"], shape.get("vertex_colors")
        number = None if visual is None else visual.material.name
        surface = materials.surface(
            name_of.get(number, "").removesuffix(_UNTEXTURED),
            None
            if visual is None or np.ndim(visual.uv) != 2 or visual.uv.shape[1] < 2
            else np.asarray(visual.uv),
            None if colours is None else guessed_range(colours),
        )
        parts.append(trimesh.Trimesh(shape["vertices"], shape["faces"], visual=surface, process=False))
    return parts


def _tidied(text: str) -> str:
    """Lines as trimesh expects them: ended by a line feed, not indented, with single blanks, numbers without a comment behind."""
    text = re.sub(r"\r\n?", "\n", text)
    text = text.replace("\\\n", " ").replace("\t", " ")
    text = re.sub(r"^ +", "", text, flags=re.MULTILINE)
    text = re.sub(r"^((?:v|vt|vn|f) [^#\n]*)#.*", r"\1", text, flags=re.MULTILINE)
    textured = re.compile(r"f +-?\d+/-?\d")
    if not re.search(rf"^{textured.pattern}", text, re.MULTILINE) or not re.search(
        r"^f +-?\d+(?: |//)", text, re.MULTILINE
    ):
        return text
    # of faces with and without texture coordinates trimesh loses the coordinates, unless their materials differ
    lines, name, split = [], "", False
    for line in text.split("\n"):
        if line.lower().startswith("usemtl"):
            name, split = line[6:].strip(), False
        elif line.startswith("f ") and split == bool(textured.match(line)):
            split = not split
            lines.append(f"usemtl {name}{_UNTEXTURED if split else ''}")
        lines.append(line)
    return "\n".join(lines)


class _Materials:
    def __init__(self, source: MeshSource):
        self._source = source
        self._lines: dict[str, dict[str, str]] = {}  # by material and keyword
        self._pictures: dict[str, Image.Image | None] = {}

    def read(self, names: str) -> None:
        """The file of this name, which may have spaces, or the files of these names."""
        for name in dict.fromkeys((names, *names.split())):
            try:
                text = decoded(self._source.read(name))
            except FileNotFoundError as error:
                if name != names or " " not in names:
                    self._source.warn(f"material file {error}")
                continue
            material: dict[str, str] = {}
            for keyword, *rest in (row.strip().split(None, 1) for row in text.splitlines() if row.strip()):
                if keyword.lower() == "newmtl":
                    material = self._lines.setdefault("".join(rest), {})
                else:
                    material[keyword.lower()] = "".join(rest)
            if name == names:
                return

    def surface(self, name: str, uv: np.ndarray | None, colours: np.ndarray | None) -> Surface:
        """A material on the vertices of a part."""
        if name not in self._lines:
            name = re.sub(r"\s+#.*", "", name)
        if name and name not in self._lines:
            self._source.warn(f"material {name} is not there, shown without")
        lines = self._lines.get(name, {})
        if lines.get("map_ka") and not lines.get("map_kd"):
            self._source.warn(
                f"material {name} has a texture as its ambient colour only (map_Ka), shown as its colour"
            )
            lines["map_kd"] = lines["map_ka"]
        base, holes, shining = (self._texture(lines.get(f"map_{what}"), uv) for what in ("kd", "d", "ke"))
        factor, emission = _colour(lines.get("kd")), _colour(lines.get("ke"))
        if holes is not None:
            alpha = (
                holes.picture.getchannel("A") if holes.picture.mode == "RGBA" else holes.picture.convert("L")
            )
            both = f"{lines.get('map_kd')}\n{lines['map_d']}\n{factor}"
            if both not in self._pictures:
                size = holes.picture.size if base is None else base.picture.size
                self._source.claim_pixels(size[0] * size[1])
                paint = tuple(round(255 * value) for value in factor or (PLAIN_GREY,) * 3)
                picture = Image.new("RGB", size, paint) if base is None else base.picture.convert("RGB")
                picture.putalpha(alpha.resize(size))
                self._pictures[both] = picture
            base = Texture(self._pictures[both], (base or holes).uv, (base or holes).wrap)
        elif _opacity(lines) < 1:
            self._source.warn(f"material {name} is see-through (d or Tr), shown opaque")
        if "map_ke" in lines:
            emission = None if shining is None else (1.0, 1.0, 1.0) if emission is None else emission
        plain = factor is None and colours is None and base is None
        return Surface(
            # Kd beside a picture is what the exporter's viewport showed; seldom is the product meant
            (1.0, 1.0, 1.0)
            if base is not None
            else (PLAIN_GREY,) * 3
            if plain
            else factor or (1.0, 1.0, 1.0),
            colours,
            base,
            to_linear(np.array(emission or (0.0, 0.0, 0.0))).tolist(),
            shining,
            None if holes is None else 0.5,
            linear=False,
            plain=plain and not emission,
        )

    def _texture(self, line: str | None, uv: np.ndarray | None) -> Texture | None:
        if not line:
            return None
        options: dict[str, list[str]] = {}
        while (option := line.split(None, 1)[0].lower()) in _OPTIONS and " " in line:
            values, line = [], line.split(None, 1)[1]
            while len(values) < _OPTIONS[option] and len(line.split()) > 1:
                if values and not re.fullmatch(r"[-+.\deE]+", line.split()[0]):
                    break
                value, line = line.split(None, 1)
                values.append(value)
            options[option] = values
        ignored = [option for option, values in options.items() if values not in _SAME.get(option, [values])]
        if ignored:
            self._source.warn(f"texture {line}: {', '.join(ignored)} of its material is not known here")
        if line not in self._pictures:
            self._pictures[line] = self._source.picture(line)
        picture = self._pictures[line]
        if picture is None:
            return None
        if uv is None:
            return self._source.warn(f"texture {line} has no coordinates to lie by, shown without")
        for option, apply in (("-s", np.multiply), ("-o", np.add)):
            values = np.array(options.get(option, ())[:2], np.float64)
            uv = np.concatenate([apply(uv[:, : len(values)], values), uv[:, len(values) :]], axis=1)
        wrap = "clamp" if [value.lower() for value in options.get("-clamp", ())] == ["on"] else "repeat"
        return Texture(picture, uv, (wrap, wrap))


def _colour(line: str | None) -> tuple[float, ...] | None:
    """Three numbers, or one for all; None where there are none."""
    try:
        values = [min(max(0.0, float(value)), 1.0) for value in (line or "").split()[:3]]
    except ValueError:  # spectral, or damaged
        return None
    return tuple(values * (3 // len(values))) if len(values) in (1, 3) else None


def _opacity(lines: dict[str, str]) -> float:
    """`d`, or what `Tr` leaves of 1; 1 where neither is a number."""
    try:
        return float(lines["d"]) if "d" in lines else 1 - float(lines.get("tr", 0))
    except ValueError:
        return 1.0
