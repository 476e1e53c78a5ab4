"""How a mesh's surface looks at any point: textures, vertex and face colours, light of its own, and holes cut by a texture's alpha."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.Image
import trimesh
from jaxtyping import Bool, Float, Int
from trimesh.visual.material import PBRMaterial

PLAIN_GREY = 0.7
"""Of what says no colour."""

Wrap = Literal["repeat", "mirror", "clamp"]
"""What a texture shows beside itself."""


@dataclass(frozen=True, eq=False)
class Texture:
    """A picture on the vertices of a part."""

    picture: PIL.Image.Image
    """RGB or RGBA, sRGB."""
    uv: Float[np.ndarray, "vertex 2"]
    """(0, 0) is the picture's bottom left corner, (1, 1) its top right."""
    wrap: tuple[Wrap, Wrap] = ("repeat", "repeat")
    """Along u and v."""
    nearest: bool = False
    """Texels as squares instead of blended."""


class Surface(trimesh.visual.TextureVisuals):
    """A part's look in glTF's terms: factor x vertex colours x texture, plus emission.

    trimesh's own visuals lose vertex colours beside a material when they are copied, and know no wrapping or second set of
    texture coordinates.

    Args:
        factor: colour of the whole.
        colours: of the vertices, or of the corners of each face.
        texture: colours and holes.
        emission: colour that the surface shows without any light, linear; may be above 1.
        emission_texture: multiplies `emission`.
        alpha_cutoff: the texture has holes where its alpha is below; None: none.
        linear: factor and colours are linear, as glTF's; otherwise sRGB.
        unlit: factor, colours and texture are shown as they are under any light.
        plain: nothing in the file says a colour.
    """

    def __init__(
        self,
        factor: Sequence[float] = (1.0, 1.0, 1.0),
        colours: Float[np.ndarray, "vertex 3"] | Float[np.ndarray, "face 3 3"] | None = None,
        texture: Texture | None = None,
        emission: Sequence[float] = (0.0, 0.0, 0.0),
        emission_texture: Texture | None = None,
        alpha_cutoff: float | None = None,
        linear: bool = True,
        unlit: bool = False,
        plain: bool = False,
    ):
        material = PBRMaterial(  # what trimesh's exporters take of it
            baseColorTexture=None if texture is None else texture.picture,
            baseColorFactor=[*(factor if linear else to_linear(np.array(factor))), 1.0],
            emissiveFactor=np.clip(emission, 0, 1),
            emissiveTexture=None if emission_texture is None else emission_texture.picture,
            alphaMode=None if alpha_cutoff is None else "MASK",
            alphaCutoff=alpha_cutoff,
        )
        super().__init__(uv=None if texture is None else texture.uv, material=material)
        if colours is not None and colours.ndim == 2:
            shown = np.insert(colours if linear else to_linear(colours), 3, 1, axis=1)
            self.vertex_attributes["color"] = (shown * 255).round().astype(np.uint8)
        self.factor = np.asarray(factor, np.float32)
        self.colours, self.texture = colours, texture
        self.emission, self.emission_texture = np.asarray(emission, np.float32), emission_texture
        self.alpha_cutoff, self.linear, self.unlit, self.plain = alpha_cutoff, linear, unlit, plain

    def copy(self, uv=None) -> "Surface":  # noqa: D102  of trimesh's class; nothing in it is ever changed
        return copy.copy(self)


class SurfaceColours:
    """The sRGB colour of any point of an object's surface, and where its textures have holes."""

    def __init__(self, parts: Sequence[trimesh.Trimesh]):
        pixels: dict[int, np.ndarray] = {}
        base, emission, unlit = _Layer(pixels), _Layer(pixels), []
        for part in parts:
            faces, surface = np.asarray(part.faces), surface_of(part)
            one = np.ones((len(faces), 3, 3), np.float32)
            corner = surface.colours
            corner = one if corner is None else corner if corner.ndim == 3 else corner[faces]
            corner = corner * surface.factor
            linear = surface.linear and not np.isin(corner, (0, 1)).all()  # where both scales agree
            base.add(faces, corner, surface.texture, linear, surface.alpha_cutoff)
            emission.add(faces, one * surface.emission, surface.emission_texture, True)
            unlit.append(np.full(len(faces), surface.unlit))
        self._base, self._unlit = base.complete(), np.concatenate(unlit)
        self._emission = emission.complete() if any(corner.any() for corner in emission.corners) else None

    @property
    def has_holes(self) -> bool:
        """Whether any texture can be looked through somewhere."""
        return any(picture.alpha is not None for picture in self._base.pictures)

    def __call__(
        self,
        face: Int[np.ndarray, " hit"],
        weights: Float[np.ndarray, "hit 3"],
        shade: Float[np.ndarray, " hit"] | None = None,
    ) -> Float[np.ndarray, "hit 3"]:
        """Colours in [0, 1] of points given by their face and barycentric coordinates.

        Args:
            face: of each point.
            weights: of the face's corners.
            shade: factor that the light makes of the colours; None shows them as they are.
        """
        colour, linear = self._base(face, weights)
        colour[linear] = to_srgb(colour[linear])
        if shade is not None:
            colour = (colour * np.where(self._unlit[face], 1, shade)[:, None]).clip(0, 1)
        if self._emission is not None:
            light = self._emission(face, weights)[0]
            shining = light.any(axis=1)
            colour[shining] = to_srgb(to_linear(colour[shining]) + light[shining])
        return colour

    def is_hole(
        self, face: Int[np.ndarray, " hit"], weights: Float[np.ndarray, "hit 3"]
    ) -> Bool[np.ndarray, " hit"]:
        """Which points are transparent."""
        hole = np.zeros(len(face), dtype=bool)
        for picture, which, uv in self._base.by_picture(face, weights):
            if picture.alpha is not None:
                hole[which] = picture.sample(picture.alpha, uv)[:, 0] < picture.alpha_cutoff
        return hole


class _Layer:
    """Corner colours times textures for the faces of all parts."""

    def __init__(self, pixels: dict[int, np.ndarray]):
        self._pixels = pixels  # by the identity of the picture
        self.pictures: list[_Picture] = []
        self.corners, self._uvs, self._indices, self._linear = [], [], [], []
        self._known: dict[tuple, int] = {}  # parts often share a picture

    def add(self, faces, corner, texture: Texture | None, linear: bool, alpha_cutoff=None) -> None:
        """Append a part's faces."""
        index, uv = -1, np.zeros((len(faces), 3, 2), np.float32)
        if texture is not None:
            key = (id(texture.picture), texture.wrap, texture.nearest, alpha_cutoff)
            if key not in self._known:
                self._known[key] = len(self.pictures)
                self.pictures.append(_Picture(texture, alpha_cutoff, self._pixels))
            index = self._known[key]
            uv = np.nan_to_num(np.asarray(texture.uv, np.float32), posinf=0, neginf=0).clip(-1e6, 1e6)[faces]
        self.corners.append(corner.astype(np.float32))
        self._uvs.append(uv)
        self._indices.append(np.full(len(faces), index))
        self._linear.append(np.full(len(faces), linear))

    def complete(self) -> "_Layer":
        """To be called after the last part."""
        self._corner, self._uv = np.concatenate(self.corners), np.concatenate(self._uvs)
        self._index, self._is_linear = np.concatenate(self._indices), np.concatenate(self._linear)
        return self

    def __call__(self, face, weights) -> tuple[np.ndarray, np.ndarray]:
        """Colours (hit, 3), and which of them are linear."""
        colour, linear = np.einsum("hc,hcx->hx", weights, self._corner[face]), self._is_linear[face]
        for picture, which, uv in self.by_picture(face, weights):
            texel, decoded = picture.sample(picture.rgb, uv), linear[which]
            texel[decoded] = to_linear(texel[decoded])
            colour[which] *= texel
        return colour, linear

    def by_picture(self, face, weights):
        """For each picture that is hit: it, the hits, and where in it they are."""
        of_hit = self._index[face]
        for index, picture in enumerate(self.pictures):
            which = np.flatnonzero(of_hit == index)
            if len(which):
                yield picture, which, np.einsum("hc,hcx->hx", weights[which], self._uv[face[which]])


class _Picture:
    """A texture's pixels of 8 bits a channel; its alpha only where it cuts holes but not everything."""

    def __init__(self, texture: Texture, alpha_cutoff: float | None, pixels: dict[int, np.ndarray]):
        picture, self._wrap, self._nearest = texture.picture, texture.wrap, texture.nearest
        if id(picture) not in pixels:
            clear = "A" in picture.mode or "transparency" in picture.info
            pixels[id(picture)] = np.asarray(picture.convert("RGBA" if clear else "RGB"))
        self.rgb, alpha = np.split(pixels[id(picture)], [3], axis=2)
        self.alpha, self.alpha_cutoff = None, alpha_cutoff
        if alpha_cutoff is not None and alpha.size and alpha.min() < 255 * alpha_cutoff <= alpha.max():
            self.alpha = alpha

    def sample(self, image: np.ndarray, uv: np.ndarray) -> np.ndarray:
        """Values in [0, 1] of `rgb` or `alpha` at uv, between the four nearest pixel centres."""
        height, width = image.shape[:2]
        column, row = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
        if self._nearest:
            column, row = np.round(column), np.round(row)
        left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
        right_weight, bottom_weight = (column - left)[:, None], (row - top)[:, None]
        columns = [_wrapped(index, width, self._wrap[0]) for index in (left, left + 1)]
        rows = [_wrapped(index, height, self._wrap[1]) for index in (top, top + 1)]
        upper = image[rows[0], columns[0]] * (1 - right_weight) + image[rows[0], columns[1]] * right_weight
        lower = image[rows[1], columns[0]] * (1 - right_weight) + image[rows[1], columns[1]] * right_weight
        return (upper * (1 - bottom_weight) + lower * bottom_weight) / 255


def _wrapped(index: np.ndarray, size: int, wrap: Wrap) -> np.ndarray:
    if wrap == "clamp":
        return index.clip(0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return np.minimum(index, 2 * size - 1 - index)
    return index % size


def surface_of(part: trimesh.Trimesh) -> Surface:
    """A part's own surface, or what trimesh's visuals say."""
    visual = part.visual
    if isinstance(visual, Surface):
        return visual
    if isinstance(visual, trimesh.visual.TextureVisuals):
        material, uv, pbr = visual.material, visual.uv, isinstance(visual.material, PBRMaterial)
        picture = material.baseColorTexture if pbr else getattr(material, "image", None)
        factor = material.baseColorFactor if pbr else getattr(material, "diffuse", None)
        colours = visual.vertex_attributes.get("color")
        usable = picture is not None and uv is not None and len(uv) == len(part.vertices)
        plain = factor is None or (
            picture is not None and not pbr
        )  # an MTL file's Kd beside a picture is seldom meant
        cutoff = {"MASK": 0.5, "BLEND": 0.5}.get(material.alphaMode) if pbr else None
        if cutoff and material.alphaMode == "MASK" and material.alphaCutoff is not None:
            cutoff = float(material.alphaCutoff)
        return Surface(
            (1.0, 1.0, 1.0) if plain else unit_range(factor)[:3].tolist(),
            None if colours is None else unit_range(colours)[:, :3],
            Texture(picture, np.asarray(uv)) if usable else None,
            alpha_cutoff=cutoff,
            linear=pbr,
            plain=plain and colours is None and not usable,
        )
    if visual.kind == "face":
        corner = np.repeat(unit_range(visual.face_colors)[:, None, :3], 3, axis=1)
        return Surface(colours=corner, linear=False)
    if visual.kind == "vertex":
        return Surface(colours=unit_range(visual.vertex_colors)[:, :3], linear=False)
    return Surface((PLAIN_GREY,) * 3, linear=False, plain=True)


def unit_range(colours: np.ndarray | Sequence[float]) -> Float[np.ndarray, "..."]:
    """Colours of any number type as float32 in [0, 1]: whole numbers by the largest of their type."""
    colours = np.asarray(colours)
    top = np.iinfo(colours.dtype).max if colours.dtype.kind in "iu" else 1
    return np.nan_to_num(colours / np.float32(top)).astype(np.float32).clip(0, 1)


def guessed_range(colours: np.ndarray) -> Float[np.ndarray, "..."]:
    """Colours of files that do not say what stands for full: 1 of fractions, otherwise 255 or 65535."""
    colours = np.asarray(colours)
    tops = (255, 65535) if colours.dtype.kind in "iu" else (1, 255, 65535)
    top = next((top for top in tops if colours.max(initial=0) <= top), 65535)
    return unit_range(colours / np.float32(top))


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """SRGB in [0, 1] to linear light (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to [0, 1], to sRGB (IEC 61966-2-1)."""
    linear = linear.clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
