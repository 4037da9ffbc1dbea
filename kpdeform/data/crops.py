"""Chooses the centres of crops and finds the points within them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

Shape = Literal["sphere", "cylinder"]
Center = tuple[int, np.ndarray]  # index of the cloud, position (3,) float32


def num_axes(shape: Shape) -> int:
    """Number of axes that distances are measured in; a cylinder ignores z."""
    return 3 if shape == "sphere" else 2


class CropIndex:
    """Finds the points of a cloud within a fixed radius of any centre, in well under a millisecond.

    Points are sorted by the cells of a grid over the ground plane, whose cells are a quarter of the
    radius wide. A query therefore reads a few contiguous runs of points and tests each point.

    Args:
        points: ``(N, 3)`` float32.
        radius: Radius of the crops, > 0.
        shape: ``"sphere"``, or ``"cylinder"`` with a vertical axis.
    """

    def __init__(self, points: np.ndarray, radius: float, shape: Shape) -> None:
        self.points, self.radius = points, radius
        self._axes = num_axes(shape)
        self._edge = radius / 4
        self._low = points[:, :2].min(axis=0, initial=np.inf).astype(np.float64)
        cells = self._cells(points[:, :2]) if len(points) else np.zeros((0, 2), np.int64)
        self._size = cells.max(axis=0, initial=0) + 1
        keys = cells[:, 0] * self._size[1] + cells[:, 1]
        self._rows = np.argsort(keys, kind="stable")
        self._keys = keys[self._rows]
        self._points = np.ascontiguousarray(points[self._rows, : self._axes])

    def _cells(self, xy: np.ndarray) -> np.ndarray:
        return np.floor((xy - self._low) / self._edge).astype(np.int64)

    def query(self, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows closer than the radius, ascending, and their squared distances.

        Args:
            center: ``(3,)``; its z is ignored for a cylinder.

        Returns:
            Rows ``(n,)`` int64 and squared distances ``(n,)`` float32. For a cylinder, distances
            are measured in the ground plane.
        """
        if not len(self._keys):
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        first = np.clip(self._cells(center[:2] - self.radius), 0, self._size - 1)
        last = np.clip(self._cells(center[:2] + self.radius), 0, self._size - 1)
        lines = np.arange(first[0], last[0] + 1) * self._size[1]
        starts = np.searchsorted(self._keys, lines + first[1], "left")
        ends = np.searchsorted(self._keys, lines + last[1], "right")
        runs = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        offsets = np.concatenate([self._points[run] for run in runs])
        offsets -= center[: self._axes].astype(np.float32)
        squared = np.einsum("nd,nd->n", offsets, offsets)
        inside = np.flatnonzero(squared < self.radius**2)
        rows = np.concatenate([self._rows[run] for run in runs])[inside]
        order = np.argsort(rows)
        return rows[order], squared[inside[order]]


def blending_weights(squared: np.ndarray, radius: float) -> np.ndarray:
    """Tukey's biweight (1 - d²/R²)², which is 1 at the centre of a crop and 0 at its boundary."""
    return np.square(np.maximum(0, 1 - squared / np.float32(radius) ** 2))


def random_centers(
    clouds: Sequence[np.ndarray], radius: float, rng: np.random.Generator
) -> Iterator[Center]:
    """Endless centres at random points, every point equally likely."""
    ends = np.cumsum([len(points) for points in clouds])
    while True:
        yield _center_at(clouds, ends, int(rng.integers(ends[-1])), radius, rng)


def balanced_centers(
    clouds: Sequence[np.ndarray],
    rows_of_class: Sequence[np.ndarray],
    radius: float,
    rng: np.random.Generator,
) -> Iterator[Center]:
    """Endless centres at random points of a random class, every class equally likely.

    Args:
        clouds: ``(N_i, 3)`` points of each cloud.
        rows_of_class: For each class that occurs, its rows in the concatenation of all clouds.
        radius: Radius of the crops.
        rng: Source of randomness.
    """
    ends = np.cumsum([len(points) for points in clouds])
    while True:
        rows = rows_of_class[rng.integers(len(rows_of_class))]
        yield _center_at(clouds, ends, int(rows[rng.integers(len(rows))]), radius, rng)


def potential_centers(coarse: Sequence[CropIndex], rng: np.random.Generator) -> Iterator[Center]:
    """Endless centres that visit all places evenly.

    Every coarse point has a potential, which starts at a small random value. The point of lowest
    potential is the next centre. Each crop then adds Tukey's weight to the potentials of the coarse
    points within it, so that places with few crops so far come next.

    Args:
        coarse: Index of the coarse points of each cloud.
        rng: Source of randomness.

    Source: Thomas et al. 2019, arXiv:1904.08889, section B of the supplementary, and its code.
    """
    radius = coarse[0].radius
    potentials = [rng.random(len(index.points), np.float32) * np.float32(1e-3) for index in coarse]
    lowest = np.array([p.min(initial=np.inf) for p in potentials])
    while True:
        cloud = int(lowest.argmin())
        row = int(potentials[cloud].argmin())
        center = coarse[cloud].points[row] + _jitter(radius, rng)
        rows, squared = coarse[cloud].query(center)
        potentials[cloud][rows] += blending_weights(squared, radius)
        lowest[cloud] = potentials[cloud].min()
        yield cloud, center


def covering_centers(
    clouds: Sequence[np.ndarray], radius: float, shape: Shape, reach: float
) -> Iterator[Center]:
    """Centres on a regular grid, each point within ``reach * radius`` of one of them."""
    axes = num_axes(shape)
    step = 2 * reach * radius / math.sqrt(axes)
    for cloud, points in enumerate(clouds):
        low = points.min(axis=0, initial=np.inf)
        cells = np.floor((points[:, :axes] - low[:axes]) / step).astype(np.int64)
        for cell in _unique_rows(cells):
            center = low.copy()
            center[:axes] += ((cell + 0.5) * step).astype(np.float32)
            yield cloud, center


def _unique_rows(cells: np.ndarray) -> np.ndarray:
    """Unique rows, found axis by axis so that keys fit into int64 however far apart cells are."""
    keys = np.zeros(len(cells), np.int64)
    for axis in range(cells.shape[1]):
        span = cells[:, axis].max(initial=0) + 1
        keys = np.unique(keys, return_inverse=True)[1] * span + cells[:, axis]
    return cells[np.unique(keys, return_index=True)[1]]


def _center_at(
    clouds: Sequence[np.ndarray],
    ends: np.ndarray,
    row: int,
    radius: float,
    rng: np.random.Generator,
) -> Center:
    cloud = int(np.searchsorted(ends, row, "right"))
    return cloud, clouds[cloud][row - ends[cloud]] + _jitter(radius, rng)


def _jitter(radius: float, rng: np.random.Generator) -> np.ndarray:
    """A random shift of a centre with standard deviation R/10 per axis.

    It is limited to R/2 per axis, so that the chosen point stays within the crop.
    """
    noise = np.clip(rng.normal(0, radius / 10, 3), -radius / 2, radius / 2)
    return noise.astype(np.float32)
