"""A density and colour field becomes one textured mesh file.

The story is `mesh_field`: sample the density, choose the isosurface level whose silhouettes agree best with the
field's own rendered opacity, clean and simplify the surface, unwrap it, bake the texture by short volume-rendering
rays, and pack everything as GLB or OBJ. Every step is a function of its own. World axes are those of `cameras`
(z up, front +x); only the packing turns them into glTF's (y up, front +z).
"""

import io
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import fast_simplification
import manifold3d
import numpy as np
import torch
import trimesh
import xatlas
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn import functional

from imagedream import cameras
from imagedream.files import atomic_path
from imagedream.rendering.meshes import to_gltf_axes
from imagedream.rendering.raycast import render

logger = logging.getLogger(__name__)

FORMATS = ("glb", "obj", "glb+obj")
"""What `fmt` may be."""

_POOR_IOU = 0.7
_POINTS_PER_CALL = 2**18
_RAYS_PER_CALL = 2**16
_AIR = 0.03  # density per unit length: 3% opacity over one unit

DensityFunction = Callable[[Tensor], Tensor]
"""World points (point, 3) -> density per unit length (point,)."""

ColourFunction = Callable[[Tensor], Tensor]
"""World points (point, 3) -> sRGB colour in [0, 1] (point, 3)."""


class EmptyFieldError(ValueError):
    """The field holds nothing that could be seen, so there is no surface to export."""


@dataclass(frozen=True)
class MeshSettings:
    """How a field is meshed and textured."""

    resolution: int = 128
    """Density samples along the longest side of the object's box."""
    radius: float = 1.0
    """Half side of the cube around the origin in which the field lives, in world units."""
    level: float | None = None
    """Isosurface density; None lets `choose_level` find it."""
    target_faces: int = 10000
    """Faces after simplification; 0 keeps all of them."""
    min_piece: float = 0.02
    """Separate pieces with less than this fraction of the largest one's area are dropped."""
    smoothing: int = 5
    """Taubin smoothing passes before simplification."""
    texture_size: int = 1024
    """Side of the square texture in texels."""

    def __post_init__(self) -> None:
        for name, low, high in (("resolution", 8, 512), ("texture_size", 16, 8192)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, must lie between {low} and {high}")
        if self.radius <= 0 or (self.level is not None and self.level <= 0):
            raise ValueError(f"radius ({self.radius}) and level ({self.level}) must be positive")
        if self.target_faces and self.target_faces < 4:
            raise ValueError(f"target_faces is {self.target_faces}, must be 0 (keep all) or at least 4")
        if not 0 <= self.min_piece <= 1 or self.smoothing < 0:
            raise ValueError(
                f"min_piece is {self.min_piece}, must lie in [0, 1]; smoothing is {self.smoothing}, must be 0 or more"
            )


@dataclass(frozen=True)
class DensityGrid:
    """Density sampled at the corners of cubic cells, read back by trilinear interpolation."""

    density: Float[Tensor, "x y z"]
    lower: Float[Tensor, "3"]
    """World position of the first sample."""
    spacing: float
    """Distance between neighbouring samples in world units."""

    @property
    def upper(self) -> Float[Tensor, "3"]:
        """World position of the last sample."""
        return self.lower + self.spacing * (self.lower.new_tensor(self.density.shape) - 1)

    def halved(self) -> "DensityGrid":
        """Every second sample of this grid."""
        return DensityGrid(self.density[::2, ::2, ::2].contiguous(), self.lower, 2 * self.spacing)

    def __call__(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
        """Density at world points; 0 outside the grid."""
        unit = (points - self.lower) / (self.upper - self.lower) * 2 - 1
        # grid_sample counts (x, y, z) from the last axis to the first
        values = functional.grid_sample(
            self.density[None, None],
            unit.flip(-1).reshape(1, -1, 1, 1, 3),
            align_corners=True,
            padding_mode="zeros",
        )
        return values.reshape(points.shape[:-1])


@dataclass(frozen=True)
class LevelChoice:
    """The isosurface level that won, with what every level that was tried scored."""

    level: float
    iou: float
    tried: dict[float, float]
    """Silhouette IoU by level."""


@dataclass(frozen=True)
class UnwrappedMesh:
    """A mesh cut open along the seams of its texture, in world axes."""

    vertices: Float[np.ndarray, "vertex 3"]
    normals: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    uv: Float[np.ndarray, "vertex 2"]
    """Texture coordinates in [0, 1]; v grows upwards."""


@dataclass(frozen=True)
class MeshStatistics:
    """What came out of `mesh_field`, in numbers."""

    level: float
    iou: float
    """Silhouette IoU of the final mesh with the field's rendered opacity, see `silhouette_iou`."""
    psnr_db: float
    """Renders of the textured mesh against renders of the field, both over white."""
    vertices: int
    faces: int
    pieces_removed: int
    """Floating pieces and cavities dropped inside the object's box."""
    watertight: bool
    texture_size: int
    seconds: float


@dataclass(frozen=True)
class MeshedField:
    """A textured mesh with its statistics."""

    mesh: UnwrappedMesh
    texture: UInt8[np.ndarray, "size size 3"]
    statistics: MeshStatistics
    choice: LevelChoice


def check_format(fmt: str) -> tuple[str, ...]:
    """The file kinds that `fmt` asks for.

    Raises:
        ValueError: unknown format; the message lists `FORMATS`.
    """
    if fmt not in FORMATS:
        raise ValueError(f"unknown mesh format {fmt!r}; allowed: {', '.join(FORMATS)}")
    return tuple(fmt.split("+"))


def visible_density(radius: float) -> float:
    """The density at which the longest axis-parallel ray through a cube of half side `radius` is half opaque."""
    return float(np.log(2) / (2 * radius))


@torch.no_grad()
def sample_density(
    density_fn: DensityFunction,
    resolution: int,
    radius: float,
    level: float | None = None,
    min_piece: float = 0.02,
    device: torch.device | str = "cpu",
) -> DensityGrid:
    """Sample a density field on a fine grid around the object in it.

    A coarse pass over the whole cube finds the box of the object, so that the resolution is not spent on air or haze.

    Args:
        density_fn: the field.
        resolution: samples along the longest side of that box.
        radius: half side of the cube around the origin, in world units.
        level: isosurface level of the object; None estimates it with `choose_level`.
        min_piece: as in `clean_surface`; pieces far below it do not widen the box.
        device: where the field wants its points; the grid itself stays on the CPU.

    Raises:
        EmptyFieldError: no density is large enough to be seen.
        ValueError: the density is not finite.
    """
    corner = torch.full((3,), float(radius))
    coarse = sample_box(density_fn, -corner, corner, min(64, resolution), device=device)
    highest, visible = float(coarse.density.max()), visible_density(radius)
    if highest <= visible:
        raise EmptyFieldError(
            f"the field is empty: its largest density is {highest:.3g} per unit length, but nothing is visible "
            f"below {visible:.3g} (half opacity through the whole cube of half side {radius})"
        )
    if level is None:
        camera_to_world, fov_y_deg = sphere_views(radius * 3**0.5, count=4)
        opacity = render_field(coarse, None, camera_to_world, fov_y_deg, 64)[:, 3]
        level = choose_level(coarse, opacity, camera_to_world, fov_y_deg, visible, candidates=6).level
    # thin parts are fainter and more broken on the coarse grid than they are: be generous
    surface, _ = clean_surface(extract_surface(coarse, min(level, highest) / 2), min_piece / 2)
    lower, upper = torch.tensor(surface.bounds, dtype=torch.float32)
    margin = 2 * coarse.spacing
    air = functional.max_pool3d(coarse.density[None, None], 3, stride=1, padding=1)[0, 0]
    return sample_box(
        density_fn,
        (lower - margin).clamp_min(-radius),
        (upper + margin).clamp_max(radius),
        resolution,
        DensityGrid(air, coarse.lower, coarse.spacing),
        device,
    )


def sample_box(
    density_fn: DensityFunction,
    lower: Float[Tensor, "3"],
    upper: Float[Tensor, "3"],
    resolution: int,
    bound: DensityGrid | None = None,
    device: torch.device | str = "cpu",
) -> DensityGrid:
    """Sample a density field in a box, `resolution` times along its longest side; see `sample_density`.

    Args:
        density_fn: the field.
        lower: first corner.
        upper: opposite corner.
        resolution: samples along the longest side.
        bound: a rough upper bound of the density; where it says air, the field is not asked and taken as 0.
        device: where the field wants its points.
    """
    spacing = float((upper - lower).max()) / (resolution - 1)
    counts = [int(n) for n in ((upper - lower) / spacing).round().long() + 1]
    axes = [lower[i] + spacing * torch.arange(counts[i]) for i in range(3)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    asked = torch.arange(len(points)) if bound is None else (bound(points) > _AIR).nonzero()[:, 0]
    values = torch.zeros(len(points))
    for part in asked.split(_POINTS_PER_CALL):
        values[part] = density_fn(points[part].to(device)).reshape(-1).float().cpu()
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"the density is not finite at {bad} of {len(values)} sampled points")
    return DensityGrid(values.reshape(*counts), lower, spacing)


def extract_surface(grid: DensityGrid, level: float) -> trimesh.Trimesh:
    """The isosurface of a density grid by marching cubes: closed, faces wound outwards.

    Raises:
        EmptyFieldError: the grid has no value on one side of `level`.
    """
    low, high = float(grid.density.min()), float(grid.density.max())
    if not 0 < level < high:
        raise EmptyFieldError(
            f"no surface at level {level:.3g}: densities lie between {low:.3g} and {high:.3g}"
        )
    # a shell of air closes surfaces that leave the grid
    padded = functional.pad(grid.density, (1,) * 6).numpy()
    vertices, faces, _, _ = marching_cubes(
        padded, level, spacing=(grid.spacing,) * 3, gradient_direction="ascent", allow_degenerate=False
    )
    return trimesh.Trimesh(vertices + grid.lower.numpy() - grid.spacing, faces)


def clean_surface(
    mesh: trimesh.Trimesh, min_piece: float = 0.02, smoothing: int = 0, target_faces: int = 0
) -> tuple[trimesh.Trimesh, int]:
    """Drop floating pieces and inner cavities, smooth, simplify, close small holes.

    Args:
        mesh: a surface wound outwards.
        min_piece: pieces with less than this fraction of the largest one's area are dropped.
        smoothing: Taubin passes (no shrinkage).
        target_faces: faces wanted at most; 0 keeps all.

    Returns:
        The clean mesh and how many pieces were dropped.
    """
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    triangles = mesh.triangles
    area = np.bincount(labels, mesh.area_faces)
    volume = np.bincount(
        labels, np.einsum("fi,fi->f", triangles[:, 0], np.cross(triangles[:, 1], triangles[:, 2]))
    )
    # a cavity is a closed piece wound inwards: its signed volume is negative, and nobody can see it
    kept = (area >= min_piece * area.max()) & (volume > 0)
    if not kept.any():
        kept = area == area.max()
    mesh = mesh.submesh([np.flatnonzero(kept[labels])], append=True)
    if smoothing:
        # Taubin's pair of factors: the second undoes the shrinkage of the first
        mesh = trimesh.smoothing.filter_taubin(mesh, lamb=0.5, nu=0.53, iterations=2 * smoothing)
    if 0 < target_faces < len(mesh.faces):
        mesh = _simplify(mesh, target_faces)
    if not mesh.is_watertight:
        mesh.fill_holes()
    return mesh, int((~kept).sum())


def _simplify(mesh: trimesh.Trimesh, target_faces: int) -> trimesh.Trimesh:
    # manifold keeps a closed surface closed, but takes a tolerance and not a number: search for it, up to
    # 1/256 of the size, as large tolerances eat whole parts
    solid = manifold3d.Manifold(
        manifold3d.Mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    )
    exponent, step, best = np.log2(mesh.scale) - 11, 2.0, None
    largest = exponent + 3
    while step > 0.1 and exponent <= largest and not solid.is_empty():
        simple = solid.simplify(2.0**exponent)
        if 0 < simple.num_tri() <= target_faces:
            best = simple
            if simple.num_tri() > 0.9 * target_faces:
                break
        exponent += step if simple.num_tri() > target_faces else -step
        step /= 2
    if best is not None:
        arrays = best.to_mesh()
        # not merged again: touching corners of a closed surface stay apart
        return trimesh.Trimesh(arrays.vert_properties[:, :3], arrays.tri_verts, process=False)
    # few faces asked for: collapse edges until their number is reached, though that may pinch some
    simple = trimesh.Trimesh(
        *fast_simplification.simplify(mesh.vertices, mesh.faces, target_count=target_faces)
    )
    # two faces back to back on the same corners enclose nothing
    _, group, members = np.unique(np.sort(simple.faces), axis=0, return_inverse=True, return_counts=True)
    simple.update_faces((members[group.reshape(-1)] == 1) & simple.nondegenerate_faces())
    simple.remove_unreferenced_vertices()
    return simple


def sphere_views(half_extent: float, count: int = 8, fov_y_deg: float = 40.0) -> tuple[Tensor, Tensor]:
    """Camera-to-world matrices (view, 4, 4) all around a sphere of radius `half_extent`, and their fields of view (view,)."""
    azimuth_deg = cameras.orthogonal_azimuths(0.0, count)
    elevation_deg = torch.tensor([10.0, 40.0, -25.0, 25.0]).repeat(count // 4 + 1)[:count]
    fov = torch.full((count,), fov_y_deg)
    distance = half_extent / torch.sin(torch.deg2rad(fov) / 2)
    return cameras.look_at_origin(elevation_deg, azimuth_deg, distance), fov


@torch.no_grad()
def render_field(
    grid: DensityGrid,
    colour_fn: ColourFunction | None,
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    size: int,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "view 4 {size} {size}"]:
    """Volume-render a field: premultiplied sRGB and opacity.

    Args:
        grid: the density.
        colour_fn: the colour; None leaves the colour channels black.
        camera_to_world: OpenGL cameras.
        fov_y_deg: vertical fields of view.
        size: side of the square views in pixels.
        device: where `colour_fn` wants its points.
    """
    views = []
    for origins, directions in zip(*cameras.rays(camera_to_world, fov_y_deg, size, size), strict=True):
        origins, directions = origins.reshape(-1, 3), directions.reshape(-1, 3)
        safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
        ends = torch.stack([(grid.lower - origins) / safe, (grid.upper - origins) / safe])
        near, far = ends.amin(0).amax(-1).clamp_min(0), ends.amax(0).amin(-1)
        hit = (far > near).nonzero()[:, 0]
        out = torch.zeros(len(origins), 4)
        for part in hit.split(_RAYS_PER_CALL):
            steps = int(((far - near)[part].max() / grid.spacing).ceil())
            out[part] = composite(
                grid, colour_fn, origins[part], directions[part], near[part], far[part], steps, device
            )
        views.append(out.T.reshape(4, size, size))
    return torch.stack(views)


def composite(
    grid: DensityGrid,
    colour_fn: ColourFunction | None,
    origins: Float[Tensor, "ray 3"],
    directions: Float[Tensor, "ray 3"],
    near: Float[Tensor, " ray"],
    far: Float[Tensor, " ray"],
    steps: int,
    device: torch.device | str = "cpu",
    colours_per_ray: int = 4,
) -> Float[Tensor, "ray 4"]:
    """Premultiplied colour and opacity of rays through a field, by the usual quadrature of emission and absorption.

    The colour is asked for only `colours_per_ray` times, at evenly spaced quantiles of where the light comes from.
    """
    delta = (far - near) / steps
    middles = near[:, None] + delta[:, None] * (torch.arange(steps) + 0.5)  # (ray, step)
    tau = grid(origins[:, None] + directions[:, None] * middles[..., None]) * delta[:, None]
    arrived = 1 - torch.exp(-tau.cumsum(-1))  # light stopped up to the end of each step
    out = torch.zeros(len(tau), 4)
    out[:, 3] = arrived[:, -1]
    lit = (out[:, 3] > 1e-4).nonzero()[:, 0]
    if colour_fn is None or len(lit) == 0:
        return out
    arrived = functional.pad(arrived[lit], (1, 0))  # (ray, step + 1)
    targets = arrived[:, -1:] * (torch.arange(colours_per_ray) + 0.5) / colours_per_ray
    step = torch.searchsorted(arrived, targets).clamp(1, steps) - 1
    before, after = arrived.gather(1, step), arrived.gather(1, step + 1)
    inside = ((targets - before) / (after - before).clamp_min(1e-12)).clamp(0, 1)
    depth = near[lit, None] + delta[lit, None] * (step + inside)
    points = (origins[lit, None] + directions[lit, None] * depth[..., None]).reshape(-1, 3)
    parts = points.split(_POINTS_PER_CALL)
    colours = torch.cat([colour_fn(part.to(device)).float().cpu() for part in parts]).clamp(0, 1)
    out[lit, :3] = colours.reshape(len(lit), -1, 3).mean(1) * out[lit, 3:]
    return out


def silhouette_iou(
    alpha: Float[Tensor, "view height width"], opacity: Float[Tensor, "view height width"]
) -> float:
    """Intersection over union of a mesh's silhouettes and a field's: where its rendered opacity exceeds ½.

    That outline is the opaque shape with the least squared error. A field that is never half opaque is cut at half
    of its largest opacity.
    """
    field, mesh = opacity > min(0.5, float(opacity.max()) / 2), alpha > 0.5
    return float((field & mesh).sum() / (field | mesh).sum().clamp_min(1))


def choose_level(
    grid: DensityGrid,
    opacity: Float[Tensor, "view height height"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
    lowest: float,
    min_piece: float = 0.02,
    candidates: int = 7,
) -> LevelChoice:
    """Find the isosurface level whose silhouettes agree best with the field's rendered opacity.

    Logarithmically spaced levels first, then the neighbourhood of the best one at a quarter of that spacing.

    Args:
        grid: the density.
        opacity: of the field, rendered from the cameras.
        camera_to_world: OpenGL cameras.
        fov_y_deg: vertical fields of view.
        lowest: lowest level worth trying, such as `visible_density`.
        min_piece: as in `clean_surface`, so that dropped pieces count as missing.
        candidates: levels in the first pass.

    Returns:
        The best level, its IoU, and the IoU of all levels tried.
    """
    while max(grid.density.shape) > 80:
        grid = grid.halved()  # silhouettes of a few dozen pixels need no more
    highest = 0.9 * float(grid.density.max())
    lowest = min(lowest, 0.5 * highest)
    tried: dict[float, float] = {}

    def score(level: float) -> None:
        surface, _ = clean_surface(extract_surface(grid, level), min_piece)
        silhouette = render(
            surface, camera_to_world, fov_y_deg, opacity.shape[-1], light=None, supersample=1
        ).rgba[:, 3]
        tried[level] = silhouette_iou(silhouette, opacity)

    levels = np.geomspace(lowest, highest, candidates)
    for level in levels:
        score(float(level))
    ratio = float(levels[1] / levels[0])
    best = max(tried, key=tried.__getitem__)
    for exponent in (-0.5, -0.25, 0.25, 0.5):
        if best * ratio**exponent < highest:
            score(best * ratio**exponent)
    best = max(tried, key=tried.__getitem__)
    for level in sorted(tried):
        logger.info(
            "level %8.3f: silhouette IoU %.3f%s", level, tried[level], "  <- chosen" if level == best else ""
        )
    return LevelChoice(best, tried[best], dict(sorted(tried.items())))


def unwrap(mesh: trimesh.Trimesh, texture_size: int, padding_px: int = 3) -> UnwrappedMesh:
    """Cut a mesh into charts and lay them out in one texture (xatlas).

    Args:
        mesh: best at most about 10,000 faces: the time grows faster than their number.
        texture_size: side of the texture in texels.
        padding_px: texels kept free between charts.
    """
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    chart, pack = xatlas.ChartOptions(), xatlas.PackOptions()
    # one pass instead of several: nearly as few charts in a fraction of the time
    chart.max_iterations = 1
    pack.resolution, pack.padding, pack.bilinear = texture_size, padding_px, True
    atlas.generate(chart, pack)
    mapping, faces, uv = atlas[0]
    return UnwrappedMesh(
        mesh.vertices[mapping].astype(np.float32),
        mesh.vertex_normals[mapping].astype(np.float32),
        faces.astype(np.int64),
        uv.astype(np.float32),
    )


def rasterize_uv(
    uv: Float[np.ndarray, "vertex 2"], faces: Int[np.ndarray, "face 3"], size: int, chunk: int = 2**21
) -> tuple[Int[np.ndarray, "{size} {size}"], Float[np.ndarray, "{size} {size} 3"]]:
    """Which triangle covers each texel centre, and where inside it.

    Row 0 is the top of the picture (v = 1); the centre of texel (row, column) is
    u = (column + ½) / size, v = 1 − (row + ½) / size.

    Returns:
        Face index, −1 where no triangle lies; barycentric coordinates, 0 there.
    """
    corners = np.stack([uv[:, 0] * size, (1 - uv[:, 1]) * size], axis=-1).astype(np.float64)[
        faces
    ]  # (face, 3, xy)
    first = np.clip(np.ceil(corners.min(1) - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.floor(corners.max(1) - 0.5), -1, size - 1).astype(np.int64)
    extent = np.maximum(last - first + 1, 0)
    candidates = extent.prod(1)  # texels in each triangle's box
    face_map = np.full(size * size, -1, dtype=np.int64)
    barycentric = np.zeros((size * size, 3), dtype=np.float32)
    groups = np.split(np.arange(len(faces)), np.flatnonzero(np.diff(np.cumsum(candidates) // chunk)) + 1)
    for group in groups:
        count = candidates[group]
        face = np.repeat(group, count)
        inside_box = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        column = first[face, 0] + inside_box % np.maximum(extent[face, 0], 1)
        row = first[face, 1] + inside_box // np.maximum(extent[face, 0], 1)
        a, b, c = corners[face, 0], corners[face, 1], corners[face, 2]
        point = np.stack([column, row], axis=-1) + 0.5
        double_area = _cross(b - a, c - a)
        with np.errstate(divide="ignore", invalid="ignore"):
            weight_b = _cross(point - a, c - a) / double_area
            weight_c = _cross(b - a, point - a) / double_area
        weights = np.stack([1 - weight_b - weight_c, weight_b, weight_c], axis=-1)
        covered = (weights >= -1e-9).all(-1) & np.isfinite(weights).all(-1)
        texel = (row * size + column)[covered]
        face_map[texel], barycentric[texel] = face[covered], weights[covered]
    return face_map.reshape(size, size), barycentric.reshape(size, size, 3)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@torch.no_grad()
def bake_texture(
    mesh: UnwrappedMesh,
    grid: DensityGrid,
    colour_fn: ColourFunction,
    level: float,
    size: int,
    device: torch.device | str = "cpu",
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Give every texel the colour that a viewer of the field sees there.

    The colour of a field at its isosurface is not the colour it shows: a viewer sees the mean over a depth. So each
    texel casts a short ray from just outside the surface inwards along its normal and composites what it meets.

    Args:
        mesh: the unwrapped surface.
        grid: the density.
        colour_fn: the colour.
        level: isosurface level; decides how deep a ray must go.
        size: side of the texture in texels.
        device: where `colour_fn` wants its points.

    Returns:
        sRGB texture; texels outside all charts repeat the nearest one inside, so that seams do not show.
    """
    face_map, barycentric = rasterize_uv(mesh.uv, mesh.faces, size)
    mask = face_map >= 0
    corners, weights = mesh.faces[face_map[mask]], barycentric[mask][..., None]
    positions = torch.from_numpy((mesh.vertices[corners] * weights).sum(1)).float()
    normals = functional.normalize(torch.from_numpy((mesh.normals[corners] * weights).sum(1)).float(), dim=-1)
    front = 2 * grid.spacing
    # e⁻³ of the light is left after the optical depth 3
    length = front + float(np.clip(3 / level, 3 * grid.spacing, 40 * grid.spacing))
    steps = int(np.ceil(length / grid.spacing))
    colours = torch.empty(len(positions), 3)
    for part in torch.arange(len(positions)).split(_RAYS_PER_CALL):
        near = torch.zeros(len(part))
        start = positions[part] + normals[part] * front
        rgba = composite(grid, colour_fn, start, -normals[part], near, near + length, steps, device)
        colours[part] = rgba[:, :3] / rgba[:, 3:].clamp_min(1e-8)
        blank = part[rgba[:, 3] <= 1e-4]
        if len(blank):
            colours[blank] = colour_fn(positions[blank].to(device)).float().cpu()
    texture = np.zeros((size, size, 3), dtype=np.uint8)
    texture[mask] = (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return fill_gaps(texture, mask)


def fill_gaps(
    texture: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Give texels outside `mask` the colour of the nearest texel inside."""
    if not mask.any():
        raise ValueError("no texel is covered by the mesh; the texture is too small or the mesh has no area")
    row, column = ndimage.distance_transform_edt(~mask, return_distances=False, return_indices=True)
    return texture[row, column]


def textured_trimesh(mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"]) -> trimesh.Trimesh:
    """The mesh as trimesh with one opaque, white-factor, rough, non-metallic material; world axes."""
    material = trimesh.visual.material.PBRMaterial(
        name="model",
        baseColorTexture=Image.fromarray(texture),
        baseColorFactor=[255, 255, 255, 255],
        metallicFactor=0.0,
        roughnessFactor=1.0,
        alphaMode="OPAQUE",
        doubleSided=False,
    )
    return trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=mesh.normals,
        visual=trimesh.visual.TextureVisuals(uv=mesh.uv, material=material),
        process=False,
    )


def _upright(mesh: UnwrappedMesh, texture: np.ndarray) -> trimesh.Trimesh:
    turned = UnwrappedMesh(
        np.asarray(to_gltf_axes(mesh.vertices)), np.asarray(to_gltf_axes(mesh.normals)), mesh.faces, mesh.uv
    )
    return textured_trimesh(turned, texture)


def to_glb_bytes(mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"]) -> bytes:
    """One binary glTF: y up, front +z, normals, PNG texture inside."""
    return trimesh.Scene({"model": _upright(mesh, texture)}).export(file_type="glb", include_normals=True)


def to_obj_files(
    mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"], name: str = "model"
) -> dict[str, bytes]:
    """Wavefront OBJ, MTL and PNG by file name, in the same axes as the GLB (y up, front +z)."""
    upright = _upright(mesh, texture)
    lines = [f"mtllib {name}.mtl", "o model", "usemtl model"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in upright.vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in mesh.uv]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in upright.vertex_normals]
    lines += [f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in mesh.faces + 1]
    material = f"newmtl model\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {name}.png\n"
    png = io.BytesIO()
    Image.fromarray(texture).save(png, format="PNG")
    return {
        f"{name}.obj": ("\n".join(lines) + "\n").encode(),
        f"{name}.mtl": material.encode(),
        f"{name}.png": png.getvalue(),
    }


def to_files(
    mesh: UnwrappedMesh, texture: UInt8[np.ndarray, "size size 3"], fmt: str = "glb", name: str = "model"
) -> dict[str, bytes]:
    """All files that `fmt` (one of `FORMATS`) asks for, by file name."""
    files: dict[str, bytes] = {}
    for kind in check_format(fmt):
        files |= (
            {f"{name}.glb": to_glb_bytes(mesh, texture)}
            if kind == "glb"
            else to_obj_files(mesh, texture, name)
        )
    return files


def save(files: dict[str, bytes], folder: str | Path) -> list[Path]:
    """Write files into a folder, each atomically: a file is there whole or not at all."""
    folder = Path(folder)
    for name, data in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(data)
    return [folder / name for name in files]


def mesh_field(
    density_fn: DensityFunction,
    colour_fn: ColourFunction,
    settings: MeshSettings | None = None,
    device: torch.device | str = "cpu",
) -> MeshedField:
    """Turn a density and colour field into a textured mesh.

    Args:
        density_fn: world points -> density per unit length.
        colour_fn: world points -> sRGB colour in [0, 1].
        settings: resolution, level, faces, texture; None for the defaults.
        device: where the two functions want their points.

    Raises:
        EmptyFieldError: there is nothing to see in the field.
    """
    settings = settings or MeshSettings()
    start = time.perf_counter()
    grid = sample_density(
        density_fn, settings.resolution, settings.radius, settings.level, settings.min_piece, device
    )
    half_extent = float(torch.stack([grid.lower, grid.upper]).abs().amax(0).norm())
    camera_to_world, fov_y_deg = sphere_views(half_extent)
    field_views = render_field(grid, colour_fn, camera_to_world, fov_y_deg, 64, device=device)
    if settings.level is None:
        choice = choose_level(
            grid,
            field_views[:, 3],
            camera_to_world,
            fov_y_deg,
            visible_density(settings.radius),
            settings.min_piece,
        )
    else:
        choice = LevelChoice(settings.level, float("nan"), {})
    surface, removed = clean_surface(
        extract_surface(grid, choice.level), settings.min_piece, settings.smoothing, settings.target_faces
    )
    mesh = unwrap(surface, settings.texture_size)
    texture = bake_texture(mesh, grid, colour_fn, choice.level, settings.texture_size, device)
    iou, psnr_db = compare(textured_trimesh(mesh, texture), field_views, camera_to_world, fov_y_deg)
    statistics = MeshStatistics(
        level=choice.level,
        iou=iou,
        psnr_db=psnr_db,
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        pieces_removed=removed,
        watertight=bool(surface.is_watertight),
        texture_size=settings.texture_size,
        seconds=time.perf_counter() - start,
    )
    logger.info(
        "meshed: %s",
        ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in asdict(statistics).items()
        ),
    )
    if iou < _POOR_IOU:
        logger.warning(
            "the mesh is a poor picture of the field: silhouette IoU %.2f (good is above %.2f), PSNR %.1f dB; "
            "the field is too soft to have one surface, longer optimisation makes it firmer",
            iou,
            _POOR_IOU,
            psnr_db,
        )
    return MeshedField(mesh, texture, statistics, choice)


def compare(
    mesh: trimesh.Trimesh,
    field_views: Float[Tensor, "view 4 size size"],
    camera_to_world: Float[Tensor, "view 4 4"],
    fov_y_deg: Float[Tensor, " view"],
) -> tuple[float, float]:
    """Silhouette IoU, and PSNR in dB over white, of an unlit mesh against premultiplied views of the field."""
    rgba = render(mesh, camera_to_world, fov_y_deg, field_views.shape[-1], light=None, supersample=2).rgba
    mesh_white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
    field_white = field_views[:, :3] + 1 - field_views[:, 3:]
    error = float((mesh_white - field_white).square().mean())
    return silhouette_iou(rgba[:, 3], field_views[:, 3]), -10 * float(np.log10(max(error, 1e-10)))
