"""The colour of any point of a mesh's surface: textures, vertex and face colours, and holes cut by a texture's alpha."""

from collections.abc import Sequence

import numpy as np
import trimesh
from jaxtyping import Bool, Float, Int

_PLAIN_GREY = 0.7


class SurfaceColours:
    """The sRGB colour of any point of an object's surface, and where its textures have holes."""

    def __init__(self, parts: Sequence[trimesh.Trimesh]):
        self._textures: list[_Texture] = []
        known: dict[tuple, int] = {}  # parts often share a picture
        corners, uvs, textures = [], [], []
        for part in parts:
            corner, picture, uv, alpha_cutoff = _surface(part)
            key = (id(picture), alpha_cutoff)
            if picture is not None and key not in known:
                known[key] = len(self._textures)
                self._textures.append(_Texture(picture, alpha_cutoff))
            corners.append(corner)
            uvs.append(np.zeros((len(corner), 3, 2), np.float32) if uv is None else uv)
            textures.append(np.full(len(corner), -1 if picture is None else known[key]))
        self._corner, self._corner_uv = np.concatenate(corners), np.concatenate(uvs)
        self._texture_of_face = np.concatenate(textures)

    @property
    def has_holes(self) -> bool:
        """Whether any texture can be looked through somewhere."""
        return any(texture.alpha is not None for texture in self._textures)

    def __call__(
        self, face: Int[np.ndarray, " hit"], weights: Float[np.ndarray, "hit 3"]
    ) -> Float[np.ndarray, "hit 3"]:
        """Colours in [0, 1] of points given by their face and barycentric coordinates."""
        colour = np.einsum("hc,hcx->hx", weights, self._corner[face])
        for texture, which, uv in self._by_texture(face, weights):
            colour[which] *= _bilinear(texture.rgb, uv)
        return colour

    def is_hole(
        self, face: Int[np.ndarray, " hit"], weights: Float[np.ndarray, "hit 3"]
    ) -> Bool[np.ndarray, " hit"]:
        """Which points are transparent."""
        hole = np.zeros(len(face), dtype=bool)
        for texture, which, uv in self._by_texture(face, weights):
            if texture.alpha is not None:
                hole[which] = _bilinear(texture.alpha, uv)[:, 0] < texture.alpha_cutoff
        return hole

    def _by_texture(self, face, weights):
        of_hit = self._texture_of_face[face]
        for index, texture in enumerate(self._textures):
            which = np.flatnonzero(of_hit == index)
            if len(which):
                uv = np.einsum("hc,hcx->hx", weights[which], self._corner_uv[face[which]])
                yield texture, which, uv


class _Texture:
    """A picture of 8 bits a channel; its alpha only where it cuts holes but not everything."""

    def __init__(self, picture, alpha_cutoff: float | None):
        self.alpha, self.alpha_cutoff = None, alpha_cutoff
        if alpha_cutoff is not None and ("A" in picture.mode or "transparency" in picture.info):
            alpha = np.asarray(picture.convert("RGBA"))[..., 3:]
            if alpha.min() < 255 * alpha_cutoff <= alpha.max():
                self.alpha = alpha
        self.rgb = np.asarray(picture.convert("RGB"))


def _surface(part: trimesh.Trimesh) -> tuple:
    """Corner colours (face, 3, rgb), texture picture, its coordinates (face, 3, uv) and alpha cutoff, or None each."""
    faces, visual = np.asarray(part.faces), part.visual
    corner = np.full((len(faces), 3, 3), _PLAIN_GREY, dtype=np.float32)
    if isinstance(visual, trimesh.visual.TextureVisuals):
        picture, factor, alpha_cutoff = _material(visual.material)
        corner[:] = factor
        colours = visual.vertex_attributes.get("color")
        if colours is not None:
            corner *= _unit_range(colours)[faces]
        if picture is not None and visual.uv is not None and len(visual.uv) == len(part.vertices):
            uv = np.nan_to_num(np.asarray(visual.uv, dtype=np.float32), posinf=0, neginf=0)
            return corner, picture, uv[faces], alpha_cutoff
    elif visual.kind == "face":
        corner[:] = _unit_range(visual.face_colors)[:, None]
    elif visual.kind == "vertex":
        corner = _unit_range(visual.vertex_colors)[faces]
    return corner, None, None, None


def _unit_range(colours: np.ndarray) -> np.ndarray:
    colours = np.asarray(colours)[:, :3]
    return (colours / 255 if colours.dtype == np.uint8 else colours).astype(np.float32)


def _material(material) -> tuple:
    """Base colour picture (or None), factor, and the alpha below which the picture has holes (or None).

    glTF's factor is linear, so it goes through the sRGB curve (power 1/2.2).
    """
    if isinstance(material, trimesh.visual.material.PBRMaterial):
        factor = material.baseColorFactor
        factor = np.ones(3) if factor is None else _unit_range(np.asarray(factor)[None])[0] ** (1 / 2.2)
        cutoff = {"MASK": 0.5 if material.alphaCutoff is None else float(material.alphaCutoff), "BLEND": 0.5}
        return material.baseColorTexture, factor, cutoff.get(material.alphaMode)
    picture, diffuse = getattr(material, "image", None), getattr(material, "diffuse", None)
    if picture is not None or diffuse is None:
        return picture, np.ones(3), None
    return None, _unit_range(np.asarray(diffuse)[None])[0], None


def _bilinear(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Values in [0, 1] of an 8-bit picture at uv (0, 0 = bottom left corner, repeating), between the four nearest pixel centres."""
    height, width = image.shape[:2]
    column, row = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    right_weight, bottom_weight = (column - left)[:, None], (row - top)[:, None]
    columns, rows = (left % width, (left + 1) % width), (top % height, (top + 1) % height)
    upper = image[rows[0], columns[0]] * (1 - right_weight) + image[rows[0], columns[1]] * right_weight
    lower = image[rows[1], columns[0]] * (1 - right_weight) + image[rows[1], columns[1]] * right_weight
    return (upper * (1 - bottom_weight) + lower * bottom_weight) / 255
