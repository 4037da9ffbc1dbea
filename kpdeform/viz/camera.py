"""A pinhole camera, and the choice of a side from which a kernel can be seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_CUT = 1.5  # the cloud is cut away this many radii before the kernel, so that walls do not hide it
_STEEPEST = np.radians(85)  # a camera that is turned rises and sinks no further


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; z is up in the picture.

    Attributes:
        eye: ``(3,)`` where it stands, in the cloud's unit.
        target: ``(3,)`` what it looks at, seen in the middle of the picture.
        field_of_view: Vertical opening angle in degrees.
        near: Distance along the view axis at which scenes begin; what is nearer is cut away.
    """

    eye: Array
    target: Array
    field_of_view: float = 35.0
    near: float = 0.0

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
            ``(N, 3)``: pixels from the left edge, pixels from the top edge, distance along the view
            axis.

        Example:
            >>> camera = Camera(np.array([3.0, 0.0, 0.0]), np.zeros(3))
            >>> camera.project([[0, 0, 0]], (200, 100)).tolist()
            [[100.0, 50.0, 3.0]]
        """
        width, height = size
        x, y, depth = ((np.asarray(points, np.float64) - self.eye) @ self.rotation.T).T
        scale = self.focal_length(height) / depth
        return np.stack([width / 2 + scale * x, height / 2 + scale * y, depth], axis=-1)

    def turned(self, around: ArrayLike, turn: float, rise: float = 0.0) -> Camera:
        """The camera turned about a point, at the same distance from it.

        Args:
            around: ``(3,)``.
            turn: Angle about the vertical in radians, counterclockwise seen from above.
            rise: Angle in radians by which the camera goes higher; it stops before it looks
                straight down or up.

        Example:
            >>> camera = Camera(np.array([3.0, 0.0, 0.0]), np.zeros(3)).turned([0, 0, 0], np.pi / 2)
            >>> camera.eye.round(6).tolist()
            [0.0, 3.0, 0.0]
        """
        right, _, forward = self.rotation
        height = -np.arcsin(forward[2].clip(-1, 1))
        angle = height - np.clip(height + rise, min(height, -_STEEPEST), max(height, _STEEPEST))
        matrix = _rotation(np.array([0.0, 0.0, 1.0]), turn) @ _rotation(right, angle)
        center = np.asarray(around, np.float64)
        eye, target = (center + matrix @ (place - center) for place in (self.eye, self.target))
        return replace(self, eye=eye, target=target)

    def moved(self, right: float, down: float) -> Camera:
        """The camera shifted along the picture by two lengths in the cloud's unit."""
        shift = right * self.rotation[0] + down * self.rotation[1]
        return replace(self, eye=self.eye + shift, target=self.target + shift)

    def approached(self, factor: float) -> Camera:
        """The camera at ``factor`` times the distance from its target, > 0.

        What is cut away before the target stays the same.
        """
        way = self.eye - self.target
        near = self.near + (factor - 1) * float(np.linalg.norm(way))
        return replace(self, eye=self.target + factor * way, near=max(near, 0.0))


def _rotation(axis: Array, angle: float) -> Array:
    """``(3, 3)``, by ``angle`` radians about ``axis`` ``(3,)`` of length 1."""
    cross = np.cross(np.eye(3), axis)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def look_at_kernel(center: Array, rigid: Array, deformed: Array, cloud: Array) -> Camera:
    """Places a camera where the cloud hides few kernel points and offsets look long.

    Of views that show as much, the one from the middle of the cloud is taken: indoors the back of
    a wall is a poor sight.

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
    target = center + middle
    near = _thin(cloud[np.linalg.norm(cloud - target, axis=1) < 3 * radius])
    inwards = _inwards(target, cloud)

    hidden_deformed = _Hiding(deformed - middle, near - target, radius)
    hidden_rigid = _Hiding(rigid - middle, near - target, radius)

    def score(direction: Array) -> float:
        offsets = deformed - rigid
        across = np.linalg.norm(np.cross(offsets, direction), axis=1).sum()
        length = np.linalg.norm(offsets, axis=1).sum()
        return (
            -2 * hidden_deformed.share(direction)
            - 0.5 * hidden_rigid.share(direction)
            + across / max(length, 1e-12)
            - 0.5 * abs(direction[2] - 0.5)  # 30 degrees above the horizon reads best
            + 0.7 * direction @ inwards
        )

    direction = max(_directions(), key=score)
    distance = 1.4 * radius / np.sin(np.radians(Camera.field_of_view) / 2)
    return Camera(target + distance * direction, target, near=distance - _CUT * radius)


def _thin(points: Array, limit: int = 4000) -> Array:
    """At most ``limit`` points, evenly spaced through the list; enough to know what hides what."""
    return points[np.linspace(0, len(points) - 1, min(limit, len(points))).astype(np.int64)]


def _inwards(target: Array, cloud: Array) -> Array:
    """Direction to the middle of the cloud; 0 there, of length 1 at the rim and beyond."""
    if not len(cloud):
        return np.zeros(3)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    way = ((low + high) / 2 - target) / np.maximum((high - low) / 2, 1e-12)
    return way / max(1, np.linalg.norm(way))


def _directions() -> list[Array]:
    """Unit vectors from the target to the candidate eyes: 16 around at each of five heights."""
    return [
        np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
        for e in np.radians([-25, 10, 25, 40, 60])
        for a in np.radians(np.arange(0, 360, 22.5) + 10)
    ]


class _Hiding:
    """Which of some points a cloud hides; all positions are relative to the target.

    Args:
        points: ``(K, 3)``.
        cloud: ``(N, 3)``, what may stand in the way.
        radius: Of the kernel; a point is hidden by what stands in a tube of 0.12 times this radius.
    """

    def __init__(self, points: Array, cloud: Array, radius: float) -> None:
        self._points, self._cloud = points.astype(np.float32), cloud.astype(np.float32)
        self._radius, self._width = radius, 0.12 * radius
        between = self._cloud[None] - self._points[:, None]  # (K, N, 3)
        self._squared = np.einsum("knd,knd->kn", between, between)

    def share(self, direction: Array) -> float:
        """Share of the points with a cloud point in the tube from them towards the eye."""
        direction = direction.astype(np.float32)
        depth = self._cloud @ direction
        shown = depth < _CUT * self._radius
        along = depth[shown] - (self._points @ direction)[:, None]  # (K, shown)
        beside = self._squared[:, shown] - along**2
        hides = (along > 1.5 * self._width) & (beside < self._width**2)
        return float(hides.any(axis=1).mean())
