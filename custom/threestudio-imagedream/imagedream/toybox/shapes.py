"""Closed primitives with outward normals.

A shape is read-only vertices and triangles around the origin, of size 1 unless its function says otherwise; those
that come back often are cached. They are built here and not by `trimesh.creation`, whose `revolve` and `torus` put
vertices and triangles in another order: the small model was trained on these meshes to the bit.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import trimesh

Number = int | float
Vector = Sequence[Number] | np.ndarray
Outline = tuple[tuple[Number, Number], ...]


class Shape(NamedTuple):
    """Read-only vertices (vertex, 3) and triangles (face, 3), counter-clockwise seen from outside."""

    vertices: np.ndarray
    faces: np.ndarray


def _shape(vertices: np.ndarray, faces: np.ndarray) -> Shape:
    vertices, faces = np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int64)
    vertices.flags.writeable = faces.flags.writeable = False
    return Shape(vertices, faces)


def _grid_faces(index: np.ndarray) -> np.ndarray:
    """Two triangles a cell of a grid of vertex indices whose columns wrap around; collapsed ones are dropped."""
    a, d = index[:-1], index[1:]
    b, c = np.roll(a, -1, axis=1), np.roll(d, -1, axis=1)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    collapsed = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    return faces[~collapsed]


def _skin(rings: Sequence[np.ndarray], loop: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and triangles of a tube through rings of equally many points; a ring of one point is a tip."""
    corner = np.arange(max(len(ring) for ring in rings))
    starts = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
    rows = np.stack([start + corner % len(ring) for start, ring in zip(starts, rings, strict=True)])
    return np.concatenate(rings), _grid_faces(np.concatenate([rows, rows[:1]]) if loop else rows)


@lru_cache(maxsize=512)
def lathe(profile: Outline, sections: int = 20, loop: bool = False) -> Shape:
    """Turns a profile around the z axis.

    Args:
        profile: (radius, height) points from bottom to top along the outside; a hollow vessel comes back down inside.
        sections: corners of the round.
        loop: join the last point to the first (a ring) where otherwise flat caps reach to the axis.

    Returns:
        The closed shape, in the profile's own units.
    """
    points = list(profile)
    if not loop:
        points = [(0.0, points[0][1]), *points] if points[0][0] > 0 else points
        points = [*points, (0.0, points[-1][1])] if points[-1][0] > 0 else points
    angles = np.arange(sections) * (2 * math.pi / sections)
    rings = []
    for radius, height in points:
        ring = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(sections, height)], -1)
        rings.append(ring if radius > 0 else np.array([[0.0, 0.0, height]]))
    return _shape(*_skin(rings, loop))


def arc(profile: Outline, start_deg: Number, end_deg: Number, steps: int = 10) -> Shape:
    """Turns a convex profile part of the way around the z axis: a label on a round wall.

    Args:
        profile: (radius, height) corners, all with positive radius, counter-clockwise with radius to the right.
        start_deg: azimuth of one end in degrees, from +x towards +y.
        end_deg: azimuth of the other end, larger.
        steps: straight pieces between the ends.

    Returns:
        The closed shape, in the profile's own units.
    """
    radius, height = np.array(profile, np.float64).T
    angles = np.radians(np.linspace(start_deg, end_deg, steps + 1))
    x, y = np.outer(np.cos(angles), radius), np.outer(np.sin(angles), radius)
    vertices = np.stack([x, y, np.tile(height, (steps + 1, 1))], -1).reshape(-1, 3)
    rows = np.arange(len(vertices)).reshape(x.shape)
    corner = np.arange(1, len(radius) - 1)
    start_cap = np.stack([np.zeros_like(corner), corner, corner + 1], -1)
    end_cap = start_cap[:, ::-1] + rows[-1, 0]
    return _shape(vertices, np.concatenate([_grid_faces(rows)[:, ::-1], start_cap, end_cap]))


def cylinder(sections: int = 20, top: Number = 1.0) -> Shape:
    """Cylinder along z, diameter and height 1; `top` is the upper diameter."""
    return lathe(((0.5, -0.5), (0.5 * top, 0.5)), sections)


def cone(sections: int = 20) -> Shape:
    """Cone along z, diameter and height 1."""
    return cylinder(sections, 0.0)


@lru_cache(maxsize=8)
def sphere(subdivisions: int = 2) -> Shape:
    """Icosphere of diameter 1."""
    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.5)
    return _shape(mesh.vertices, mesh.faces)


def dome(sections: int = 20, rings: int = 5) -> Shape:
    """Upper half of a sphere of diameter 1, its flat side at z = 0."""
    angles = [math.pi / 2 * ring / rings for ring in range(rings)]
    profile = (*((0.5 * math.cos(angle), 0.5 * math.sin(angle)) for angle in angles), (0.0, 0.5))
    return lathe(profile, sections)


def ring(thickness: Number = 0.2, sections: int = 20, corners: int = 8) -> Shape:
    """Torus around z of outer diameter 1 whose tube has diameter `thickness`."""
    angles = [2 * math.pi * corner / corners for corner in range(corners)]
    middle, tube_radius = 0.5 - thickness / 2, thickness / 2
    profile = tuple((middle + tube_radius * math.cos(a), tube_radius * math.sin(a)) for a in angles)
    return lathe(profile, sections, loop=True)


@lru_cache(maxsize=16)
def rounded_box(exponent: Number = 4.0, cells: int = 5) -> Shape:
    """Superellipsoid of size 1: exponent 2 is a sphere, larger is boxier."""
    steps = np.tan(np.linspace(-math.pi / 4, math.pi / 4, cells + 1))
    side, up = np.meshgrid(steps, steps, indexing="ij")
    corner = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]
    quads = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    face = np.stack([side.ravel(), up.ravel(), np.ones(side.size)], -1)  # seen from outside at +z
    turned = [np.roll(face, shift, axis=1) for shift in range(3)]
    vertices = np.concatenate(turned + [-points for points in turned])
    faces = [quads + k * len(face) for k in range(3)] + [quads[:, ::-1] + k * len(face) for k in range(3, 6)]
    mesh = trimesh.Trimesh(vertices, np.concatenate(faces), process=False)
    mesh.merge_vertices()
    scale = (np.abs(mesh.vertices) ** exponent).sum(axis=1, keepdims=True) ** (1 / exponent)
    return _shape(0.5 * mesh.vertices / scale, mesh.faces)


@lru_cache(maxsize=512)
def tapered_box(top: tuple[Number, Number] = (1.0, 1.0), shift: tuple[Number, Number] = (0.0, 0.0)) -> Shape:
    """Box of size 1 whose upper side is scaled by `top` and moved by `shift` along x and y."""
    square = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    lower = np.column_stack([square, np.full(4, -0.5)])
    upper = np.column_stack([square * np.array(top) + np.array(shift), np.full(4, 0.5)])
    vertices, sides = _skin([lower, upper])
    return _shape(vertices, np.concatenate([sides, [[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7]]]))


def box() -> Shape:
    """Cube of side 1."""
    return tapered_box()


@lru_cache(maxsize=256)
def prism(outline: Outline, axis: Literal["x", "y", "z"] = "z") -> Shape:
    """Extrudes a polygon by 1 along an axis.

    Args:
        outline: corners of a polygon that its centroid sees whole, either way round; in (y, z), (x, z) or (x, y).
        axis: direction of the extrusion.

    Returns:
        The closed shape: outline in its own units, extrusion from −0.5 to 0.5.
    """
    points = np.array(outline, np.float64)
    following = np.roll(points, -1, axis=0)
    if (points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum() < 0:
        points = points[::-1]
    centre = points.mean(axis=0, keepdims=True)
    layers = ((centre, -0.5), (points, -0.5), (points, 0.5), (centre, 0.5))
    vertices, faces = _skin([np.column_stack([flat, np.full(len(flat), z)]) for flat, z in layers])
    if axis == "x":
        vertices = vertices[:, [2, 0, 1]]
    elif axis == "y":
        vertices, faces = vertices[:, [0, 2, 1]], faces[:, ::-1]
    return _shape(vertices, faces)


def hull(outline: Outline, bottom: Number, shift: Number = 0.0) -> Shape:
    """Prism along z of height 1 whose lower side is scaled by `bottom` and moved by `shift` along x."""
    shape = prism(outline)
    lower = shape.vertices[:, 2:] < 0
    narrow = shape.vertices * np.array([bottom, bottom, 1.0]) + np.array([shift, 0.0, 0.0])
    return _shape(np.where(lower, narrow, shape.vertices), shape.faces)


def star() -> Shape:
    """Star of diameter 1 in the yz plane, extruded along x: a decal that faces the front."""
    angles = [math.pi / 2 + math.pi * k / 5 for k in range(10)]
    radii = [0.5 if k % 2 == 0 else 0.5 * 0.45 for k in range(10)]
    return prism(tuple((r * math.cos(a), r * math.sin(a)) for a, r in zip(angles, radii, strict=True)), "x")


def disc(sections: int = 20) -> Shape:
    """Disc of diameter 1 in the yz plane, extruded along x."""
    angles = [2 * math.pi * k / sections for k in range(sections)]
    return prism(tuple((0.5 * math.cos(a), 0.5 * math.sin(a)) for a in angles), "x")


def tube(
    path: Sequence[Vector], radius: Number, end_radius: Number | None = None, corners: int = 10
) -> Shape:
    """Round tube along a polyline, in the path's own units.

    Args:
        path: at least two points.
        radius: at the start.
        end_radius: at the end; the same when not given.
        corners: of the round.

    Returns:
        The closed shape, its ends flat.
    """
    points = np.array(path, np.float64)
    radii = np.linspace(radius, radius if end_radius is None else end_radius, len(points))
    steps = np.diff(points, axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    tangents = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    side = np.eye(3)[np.abs(tangents[0]).argmin()]
    angles = (np.arange(corners) * (2 * math.pi / corners))[:, None]
    rings = []
    for point, tangent, r in zip(points, tangents, radii, strict=True):
        # carry the frame along the path, so the tube does not twist
        side = side - tangent * (side @ tangent)
        side = side / np.linalg.norm(side)
        rings.append(point + r * (np.cos(angles) * side + np.sin(angles) * np.cross(tangent, side)))
    return _shape(*_skin([points[:1], *rings, points[-1:]]))


def limb(start: Vector, end: Vector, radius: Number) -> Shape:
    """Capsule from one point to another."""
    first, last = np.array(start, np.float64), np.array(end, np.float64)
    axis = last - first
    length = float(np.linalg.norm(axis))
    ball = _seam_sphere()
    vertices = ball.vertices * (2 * radius)
    vertices[len(vertices) // 2 :, 2] += length
    up = axis / length
    side = np.eye(3)[np.abs(up).argmin()]
    side = side - up * (side @ up)
    side /= np.linalg.norm(side)
    return _shape(vertices @ np.stack([side, np.cross(up, side), up]) + first, ball.faces)


def _seam_sphere(sections: int = 10, rings: int = 3) -> Shape:
    """Sphere of diameter 1 with its equator doubled: pulled apart there it is a capsule."""
    angles = [math.pi / 2 * k / rings for k in range(rings)]
    half = [(0.5 * math.cos(a), 0.5 * math.sin(a)) for a in angles] + [(0.0, 0.5)]
    return lathe((*((r, -z) for r, z in reversed(half)), *half), sections)


def rotation(turn_deg: Vector) -> np.ndarray:
    """The matrix (3, 3) that turns about x, then y, then z."""
    (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in turn_deg)
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )
