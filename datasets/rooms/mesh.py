"""Triangle meshes of simple solids, all made by joining rings of points or a grid of points.

Every solid is centred in x and y and stands on z = 0. Lengths are metres.
"""

from functools import cache
from typing import NamedTuple

import numpy as np


class Mesh(NamedTuple):
    """Vertices ``(V, 3)`` float64 and triangles ``(T, 3)`` int32 (rows of ``vertices``)."""

    vertices: np.ndarray
    triangles: np.ndarray


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation matrix: first ``roll`` about y, then ``pitch`` about x, then ``yaw`` about z."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    return about_z @ about_x @ about_y


@cache
def _grid_triangles(rows: int, columns: int, closed: bool, capped: bool) -> np.ndarray:
    """Triangles of a rows x columns grid; ``closed`` joins the last column to the first."""
    row, column = np.mgrid[0 : rows - 1, 0 : columns if closed else columns - 1]
    a = (row * columns + column).ravel()
    b = (row * columns + (column + 1) % columns).ravel()
    faces = [np.stack([a, b, b + columns], 1), np.stack([a, b + columns, a + columns], 1)]
    if capped:
        fan = np.arange(1, columns - 1)
        cap = np.stack([np.zeros_like(fan), fan + 1, fan], 1)
        faces += [cap, cap[:, ::-1] + (rows - 1) * columns]
    return np.concatenate(faces).astype(np.int32)


def loft(rings: np.ndarray, capped: bool = True) -> Mesh:
    """Solid through ``rings`` (R, S, 3), each a convex closed outline with S corners."""
    rings = np.asarray(rings, np.float64)
    return Mesh(rings.reshape(-1, 3), _grid_triangles(*rings.shape[:2], True, capped))


def sheet(points: np.ndarray) -> Mesh:
    """Open surface through a grid of points ``(A, B, 3)``; seen from both sides."""
    points = np.asarray(points, np.float64)
    return Mesh(points.reshape(-1, 3), _grid_triangles(*points.shape[:2], False, False))


def _stack(outlines: np.ndarray, heights: np.ndarray) -> Mesh:
    """Solid whose outline at ``heights[r]`` is ``outlines[r]`` (S, 2)."""
    outlines = np.asarray(outlines, np.float64)
    z = np.broadcast_to(np.asarray(heights, np.float64)[:, None, None], (*outlines.shape[:2], 1))
    return loft(np.concatenate([outlines, z], 2))


@cache
def _circle(sides: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(sides) / sides
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def _rectangle(width: float, depth: float) -> np.ndarray:
    return np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, depth / 2]


def _rounded_rectangle(width: float, depth: float, radius: float) -> np.ndarray:
    """Twelve corners: every corner of the rectangle becomes an arc of three points."""
    quarter = np.pi / 2 * (np.arange(4)[:, None] + np.array([0.0, 0.5, 1.0]))
    centre = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [
        width / 2 - radius,
        depth / 2 - radius,
    ]
    arc = radius * np.stack([np.cos(quarter), np.sin(quarter)], 2)
    return (centre[:, None] + arc).reshape(-1, 2)


def box(width: float, depth: float, height: float) -> Mesh:
    """Box with sharp edges."""
    outline = _rectangle(width, depth)
    return _stack([outline, outline], [0.0, height])


def taper(bottom: tuple[float, float], top: tuple[float, float], height: float) -> Mesh:
    """Box whose bottom and top rectangles differ."""
    return _stack([_rectangle(*bottom), _rectangle(*top)], [0.0, height])


def slab(width: float, depth: float, height: float, bevel: float = 0.01) -> Mesh:
    """Box with rounded vertical edges and bevelled rims."""
    bevel = min(bevel, 0.45 * min(width, depth, height))
    outer = _rounded_rectangle(
        width, depth, 1.5 * bevel if 3.2 * bevel < min(width, depth) else bevel
    )
    inner = outer * [1 - 2 * bevel / width, 1 - 2 * bevel / depth]
    return _stack([inner, outer, outer, inner], [0.0, bevel, height - bevel, height])


def cylinder(
    radius: float, height: float, top_radius: float | None = None, sides: int = 16
) -> Mesh:
    """Cylinder, or a frustum when ``top_radius`` is given."""
    return lathe([(radius, 0.0), (radius if top_radius is None else top_radius, height)], sides)


def lathe(profile: list[tuple[float, float]], sides: int = 20, capped: bool = True) -> Mesh:
    """Solid of revolution about z through ``(radius, height)`` pairs."""
    radius, z = np.asarray(profile, np.float64).T
    rings = np.empty((len(z), sides, 3))
    rings[..., :2] = radius[:, None, None] * _circle(sides)
    rings[..., 2] = z[:, None]
    return loft(rings, capped)


def tube(path: np.ndarray, radius: float, sides: int = 8) -> Mesh:
    """Round bar along a path ``(P, 3)``."""
    path = np.asarray(path, np.float64)
    tangent = np.gradient(path, axis=0)
    side = np.cross(tangent, [0.31, 0.52, 0.79])  # any direction no bar runs along
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    up = np.cross(side, tangent)
    up /= np.linalg.norm(up, axis=1, keepdims=True)
    circle = radius * _circle(sides)
    return loft(path[:, None] + circle[:, :1] * side[:, None] + circle[:, 1:] * up[:, None])


def cushion(width: float, depth: float, height: float, power: float = 4.0, rows: int = 9) -> Mesh:
    """Superellipsoid: a ball for ``power`` 2, ever closer to a box above."""

    def bend(values: np.ndarray) -> np.ndarray:
        return np.sign(values) * np.abs(values) ** (2 / power)

    latitude = np.linspace(-np.pi / 2, np.pi / 2, rows)
    outline = bend(_circle(28)) * [width / 2, depth / 2]
    # the poles keep a little width, so that no triangle has zero area
    radius = np.maximum(bend(np.cos(latitude)), 0.02)
    return _stack(radius[:, None, None] * outline, height / 2 * (1 + bend(np.sin(latitude))))
