"""Pictures of whole clouds with NumPy alone: every point is a dot, and the nearest one is seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kpdeform.viz.camera import Camera
from kpdeform.viz.offscreen import Image, eye_dome_shading, reduced
from kpdeform.viz.scene_data import Array

MAX_POINTS = 1_500_000
_OVERSAMPLING = 2
_LARGEST_DOT = 9.0  # radius in pixels before the picture is made smaller


class View(NamedTuple):
    """Where points appear: pixels from the left and from the top, depth, and pixels per unit."""

    x: Array
    y: Array
    depth: Array
    scale: Array


def draw_from_above(points: Array, colors: Array, size: tuple[int, int]) -> tuple[Image, float]:
    """Draws a cloud from above; north (y) is up.

    Args:
        points: ``(N, 3)``.
        colors: ``(N, 3)`` in [0, 1].
        size: Width and height of the picture in pixels.

    Returns:
        ``(height, width, 3)`` uint8, and the pixels per unit.
    """
    width, height = (_OVERSAMPLING * length for length in size)
    low, high = points.min(axis=0), points.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    scale = 0.97 * min(width / extent[0], height / extent[1])
    middle = (low + high) / 2
    view = View(
        width / 2 + scale * (points[:, 0] - middle[0]),
        height / 2 - scale * (points[:, 1] - middle[1]),
        high[2] - points[:, 2] + np.linalg.norm(extent) + 1e-6,
        np.full(len(points), scale),
    )
    return _draw(view, colors, (width, height)), scale / _OVERSAMPLING


def draw_in_perspective(
    points: Array, colors: Array, camera: Camera, size: tuple[int, int]
) -> Image:
    """Draws a cloud as a camera sees it.

    Args:
        points: ``(N, 3)``.
        colors: ``(N, 3)`` in [0, 1].
        camera: Where it is seen from.
        size: Width and height of the picture in pixels.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    width, height = (_OVERSAMPLING * length for length in size)
    x, y, depth = camera.project(points, (width, height)).T
    seen = depth > max(camera.near, 1e-6)
    focal = camera.focal_length(height)
    view = View(x[seen], y[seen], depth[seen], focal / depth[seen])
    return _draw(view, colors[seen], (width, height))


def camera_above(points: Array, *, turn: float = -60.0, elevation: float = 45.0) -> Camera:
    """A camera that sees a whole cloud from its side and above, in a picture of 4 : 3.

    Args:
        points: ``(N, 3)``.
        turn: Degrees from east, counterclockwise.
        elevation: Degrees above the horizon.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    a, e = np.radians([turn, elevation])
    direction = np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    camera = Camera(direction, np.zeros(3))
    sample = points[:: max(1, len(points) // 5000)] - (low + high) / 2
    right, down, forward = camera.rotation @ sample.T
    # A point is seen if it lies within the opening angle, whatever the distance of the camera is.
    opening = np.tan(np.radians(Camera.field_of_view) / 2)
    distance = float((np.maximum(np.abs(right) * 3 / 4, np.abs(down)) / opening - forward).max())
    target = (low + high) / 2
    return Camera(target + max(1.03 * distance, 1e-6) * direction, target)


def below_ceiling(points: Array) -> NDArray[np.bool_]:
    """``(N,)``, False for the ceiling of a room, which would hide all that is in it.

    A cloud has a ceiling if most columns of a grid hold points near its bottom and near its top.
    """
    everything = np.ones(len(points), np.bool_)
    bottom, top = np.quantile(points[:, 2], [0.005, 0.995])
    span = top - bottom
    if span <= 0:
        return everything
    low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    cells = (40 * (points[:, :2] - low) / np.maximum(high - low, 1e-9)).astype(np.int64).clip(0, 39)
    key = 40 * cells[:, 0] + cells[:, 1]
    highest, lowest = np.full(1600, -np.inf), np.full(1600, np.inf)
    np.maximum.at(highest, key, points[:, 2])
    np.minimum.at(lowest, key, points[:, 2])
    used = highest > -np.inf
    roofed = (highest > top - 0.1 * span) & (lowest < bottom + 0.2 * span)
    if roofed[used].mean() < 0.5:
        return everything
    return points[:, 2] < top - 0.1 * span


def _draw(view: View, colors: Array, size: tuple[int, int]) -> Image:
    """Dots of about the gap between points, shaded so that steps in depth are seen."""
    width, height = size
    dots = np.column_stack([view.x, view.y]).round().astype(np.int64)
    inside = ((dots >= -8) & (dots < np.array(size) + 8)).all(axis=1)
    dots, depth, colors = dots[inside], view.depth[inside].astype(np.float32), colors[inside]
    radius = _dot_radius(dots, view.scale[inside])
    order = np.argsort(-depth, kind="stable")  # the nearest is written last
    dots, depth, colors, radius = dots[order], depth[order], colors[order], radius[order]
    nearest = np.full(height * width, np.inf, np.float32)
    row = np.full(height * width, -1, np.int64)
    last = np.empty(height * width, np.int64)  # written at a pixel by the present offset
    reach = int(np.ceil(radius.max(initial=0)))
    for dx in range(-reach, reach + 1):
        for dy in range(-reach, reach + 1):
            rows = np.flatnonzero(radius >= np.hypot(dx, dy))
            x, y = dots[rows, 0] + dx, dots[rows, 1] + dy
            kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            rows, at = rows[kept], y[kept] * width + x[kept]
            last[at] = rows
            rows, at = (array[last[at] == rows] for array in (rows, at))
            closer = depth[rows] < nearest[at]
            rows, at = rows[closer], at[closer]
            row[at], nearest[at] = rows, depth[rows]
    picture = np.ones((height * width, 3), np.float32)
    picture[row >= 0] = colors[row[row >= 0]]
    depths = np.where(row >= 0, nearest, 0).reshape(height, width)
    picture = picture.reshape(height, width, 3) * eye_dome_shading(depths, 1.2)[..., None]
    return reduced(picture, _OVERSAMPLING)


def _dot_radius(dots: NDArray[np.int64], scale: Array) -> Array:
    """Radii ``(N,)`` in pixels that about close the gaps; points that are nearer get more."""
    if not len(dots):
        return np.zeros(0)
    block, points_per_block = 4, 0.0
    while points_per_block < 4 and block < 128:  # else gaps would count as empty
        block *= 2
        blocks = len(np.unique((dots[:, 0] // block) * 100_000 + dots[:, 1] // block))
        points_per_block = len(dots) / blocks
    radius = block / np.sqrt(points_per_block)
    return (radius * scale / np.median(scale)).clip(0.5, _LARGEST_DOT)
