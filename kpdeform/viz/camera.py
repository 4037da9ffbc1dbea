"""A pinhole camera, and the choice of a side from which a kernel can be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; z is up in the picture.

    Attributes:
        eye: ``(3,)`` where it stands, in the cloud's unit.
        target: ``(3,)`` what it looks at, seen in the middle of the picture.
        field_of_view: Vertical opening angle in degrees.
    """

    eye: Array
    target: Array
    field_of_view: float = 35.0

    @property
    def rotation(self) -> Array:
        """``(3, 3)``, world to camera; rows point right, down and forward."""
        forward = (self.target - self.eye) / np.linalg.norm(self.target - self.eye)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        if np.linalg.norm(right) < 1e-6:  # straight down or up
            right = np.array([1.0, 0.0, 0.0])
        right /= np.linalg.norm(right)
        return np.stack([right, np.cross(forward, right), forward])

    def focal_length(self, height: int) -> float:
        """Focal length in pixels.

        Args:
            height: Picture height in pixels.
        """
        return 0.5 * height / np.tan(np.radians(self.field_of_view) / 2)

    def project(self, points: ArrayLike, size: tuple[int, int]) -> Array:
        """Where points appear.

        Args:
            points: ``(N, 3)`` in the world.
            size: Width and height of the picture in pixels.

        Returns:
            ``(N, 3)``: pixels from the left edge, pixels from the top edge, distance along the view axis.

        Example:
            >>> camera = Camera(np.array([3.0, 0.0, 0.0]), np.zeros(3))
            >>> camera.project([[0, 0, 0]], (200, 100)).tolist()
            [[100.0, 50.0, 3.0]]
        """
        width, height = size
        x, y, depth = ((np.asarray(points, np.float64) - self.eye) @ self.rotation.T).T
        scale = self.focal_length(height) / depth
        return np.stack([width / 2 + scale * x, height / 2 + scale * y, depth], axis=-1)


def look_at_kernel(center: Array, rigid: Array, deformed: Array, cloud: Array) -> Camera:
    """Places a camera on the open side: from there the cloud hides few kernel points and offsets look long.

    Args:
        center: ``(3,)`` query point.
        rigid: ``(K, 3)`` relative to ``center``.
        deformed: ``(K, 3)`` relative to ``center``.
        cloud: ``(N, 3)``, what may stand in the way.

    Returns:
        The camera; the kernel fills most of the picture's height.
    """
    kernel = np.vstack([rigid, deformed])
    middle = (kernel.max(0) + kernel.min(0)) / 2
    radius = max(float(np.linalg.norm(kernel - middle, axis=1).max()), 1e-6)
    distance = 1.4 * radius / np.sin(np.radians(Camera.field_of_view) / 2)
    target = center + middle
    near = _thin(cloud[np.linalg.norm(cloud - target, axis=1) < distance])
    best = max(
        _directions(),
        key=lambda u: _view_score(u, target + distance * u, center, rigid, deformed, near, radius),
    )
    return Camera(target + distance * best, target)


def _thin(points: Array, limit: int = 4000) -> Array:
    """At most ``limit`` points, evenly spaced through the list; enough to know what hides what."""
    return points[np.linspace(0, len(points) - 1, min(limit, len(points))).astype(np.int64)]


def _directions() -> list[Array]:
    """Unit vectors from the target to the candidate eyes: 16 around at each of five heights."""
    return [
        np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        for e in np.radians([-25, 10, 25, 40, 60])
        for a in np.radians(np.arange(0, 360, 22.5) + 10)
    ]


def _view_score(
    direction: Array,
    eye: Array,
    center: Array,
    rigid: Array,
    deformed: Array,
    cloud: Array,
    radius: float,
) -> float:
    offsets = deformed - rigid
    across = offsets - np.outer(offsets @ direction, direction)
    seen_length = np.linalg.norm(across, axis=1).sum() / (
        np.linalg.norm(offsets, axis=1).sum() + 1e-12
    )
    seen_deformed = _visible(center + deformed, eye, cloud, 0.12 * radius).mean()
    seen_rigid = _visible(center + rigid, eye, cloud, 0.12 * radius).mean()
    obliqueness = 1 - abs(direction[2] - 0.5)  # 30 degrees above the horizon reads best
    return 2 * seen_deformed + 0.5 * seen_rigid + seen_length + obliqueness


def _visible(points: Array, eye: Array, cloud: Array, width: float) -> NDArray[np.bool_]:
    """Whether no cloud point lies in the tube of radius ``width`` from each point to the eye."""
    ray = eye - points  # (K, 3)
    length = np.linalg.norm(ray, axis=1, keepdims=True)  # (K, 1)
    ray = ray / length
    relative = cloud[None] - points[:, None]  # (K, N, 3)
    along = np.einsum("knd,kd->kn", relative, ray)
    beside = np.einsum("knd,knd->kn", relative, relative) - along**2
    hides = (along > 1.5 * width) & (along < length) & (beside < width**2)
    return ~hides.any(axis=1)
