"""Chooses the centres of crops and finds the points within them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from kpdeform.data.scene_cache import will_need

Shape = Literal["sphere", "cylinder"]
Center = tuple[int, np.ndarray]  # index of the cloud, position (3,) float32
PlacesByClass = tuple[np.ndarray, np.ndarray]


def num_axes(shape: Shape) -> int:
    """Number of axes that distances are measured in; a cylinder ignores z."""
    return 3 if shape == "sphere" else 2


class CropIndex:
    """Finds the points of a cloud within a fixed radius of any centre, in well under a millisecond.

    Points are sorted by the cells of a grid over the ground plane, whose cells are a quarter of the
    radius wide. A query therefore reads a few contiguous runs of points and tests each point. The
    place of a point is its row in this order.

    Args:
        points: ``(N, 3)`` float32.
        radius: Radius of the crops, > 0.
        shape: ``"sphere"``, or ``"cylinder"`` with a vertical axis.

    Attributes:
        arrays: What :meth:`stored` makes the index of again: ``points`` ``(N, 3)`` float32 and
            their ``rows`` ``(N,)`` uint32, both by place; ``keys`` ``(U,)`` int64 of the cells that
            hold points, and ``starts`` ``(U + 1,)`` int64, the first place of each; ``low``
            ``(2,)`` float64, where the grid begins, and ``size`` ``(2,)`` int64, its cells.
    """

    def __init__(self, points: np.ndarray, radius: float, shape: Shape) -> None:
        low = points[:, :2].min(axis=0, initial=np.inf).astype(np.float64)
        cells = _cells(points[:, :2], low, radius)
        size = cells.max(axis=0, initial=0) + 1
        keys = cells[:, 0] * size[1] + cells[:, 1]
        rows = np.argsort(keys, kind="stable")
        keys, starts = np.unique(keys[rows], return_index=True)
        arrays = {"points": points[rows], "rows": rows.astype(np.uint32), "low": low, "size": size}
        self._set(arrays | {"keys": keys, "starts": np.append(starts, len(rows))}, radius, shape)

    @staticmethod
    def stored(arrays: Mapping[str, np.ndarray], radius: float, shape: Shape) -> CropIndex:
        """The index that has these ``arrays``; they may be memory-mapped."""
        index = CropIndex.__new__(CropIndex)
        index._set(arrays, radius, shape)
        return index

    def _set(self, arrays: Mapping[str, np.ndarray], radius: float, shape: Shape) -> None:
        self.arrays, self.radius = arrays, radius
        self._axes = num_axes(shape)

    def __len__(self) -> int:
        return len(self.arrays["rows"])

    def query(self, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the points closer than the radius, in ascending order of their rows.

        Args:
            center: ``(3,)``; its z is ignored for a cylinder.

        Returns:
            Rows ``(n,)`` int64, squared distances ``(n,)`` float32, and places ``(n,)`` int64. For
            a cylinder, distances are measured in the ground plane.
        """
        runs = self._runs(center)
        squared = self._squared_distances(runs, center)
        inside = np.flatnonzero(squared < self.radius**2)
        places = np.concatenate([np.arange(0), *(np.arange(*run) for run in runs)])[inside]
        rows = self._read("rows", runs)[inside].astype(np.int64)
        order = np.argsort(rows)
        return rows[order], squared[inside[order]], places[order]

    def count(self, center: np.ndarray) -> int:
        """Number of points closer than the radius; faster than :meth:`query`."""
        squared = self._squared_distances(self._runs(center), center)
        return int(np.count_nonzero(squared < self.radius**2))

    def point(self, row: int) -> np.ndarray:
        """The point of a row, ``(3,)`` float32."""
        rows = self.arrays["rows"]
        will_need(rows)
        return self.arrays["points"][(rows == row).argmax()]

    def _squared_distances(self, runs: list[tuple[int, int]], center: np.ndarray) -> np.ndarray:
        points = self._read("points", runs)
        offsets = points[:, : self._axes] - center[: self._axes].astype(np.float32)
        return np.einsum("nd,nd->n", offsets, offsets)

    def _read(self, name: str, runs: list[tuple[int, int]]) -> np.ndarray:
        array = self.arrays[name]
        if not runs:
            return array[:0]
        will_need(array[runs[0][0] : runs[-1][1]])
        return np.concatenate([array[start:end] for start, end in runs])

    def _runs(self, center: np.ndarray) -> list[tuple[int, int]]:
        """First places and ends of the runs of points that may lie within the radius."""
        keys, starts, size = (self.arrays[name] for name in ("keys", "starts", "size"))
        will_need(keys)
        will_need(starts)
        if not len(keys):
            return []
        low = self.arrays["low"]
        first = np.clip(_cells(center[:2] - self.radius, low, self.radius), 0, size - 1)
        last = np.clip(_cells(center[:2] + self.radius, low, self.radius), 0, size - 1)
        lines = np.arange(first[0], last[0] + 1) * size[1]
        begin = starts[np.searchsorted(keys, lines + first[1], "left")]
        end = starts[np.searchsorted(keys, lines + last[1], "right")]
        return [(b, e) for b, e in zip(begin.tolist(), end.tolist(), strict=True) if b < e]


def _cells(xy: np.ndarray, low: np.ndarray, radius: float) -> np.ndarray:
    return np.floor((xy - low) / (radius / 4)).astype(np.int64)


class CropIndices(Sequence[CropIndex]):
    """The indices of many clouds, each made of its stored arrays when it is asked for.

    Args:
        clouds: ``CropIndex.arrays`` of every cloud.
        sizes: Number of points of every cloud, ``(S,)``.
        radius: Radius of the crops, > 0.
        shape: ``"sphere"``, or ``"cylinder"`` with a vertical axis.
    """

    def __init__(
        self,
        clouds: Sequence[Mapping[str, np.ndarray]],
        sizes: np.ndarray,
        radius: float,
        shape: Shape,
    ) -> None:
        self.clouds, self.sizes, self.radius, self.shape = clouds, sizes, radius, shape

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, cloud: int) -> CropIndex:  # type: ignore[override]
        return CropIndex.stored(self.clouds[cloud], self.radius, self.shape)


def blending_weights(squared: np.ndarray, radius: float) -> np.ndarray:
    """Tukey's biweight (1 - d²/R²)², which is 1 at the centre of a crop and 0 at its boundary."""
    return np.square(np.maximum(0, 1 - squared / np.float32(radius) ** 2))


def random_centers(indices: CropIndices, rng: np.random.Generator) -> Iterator[Center]:
    """Endless centres at random points, every point equally likely."""
    ends = np.cumsum(indices.sizes)
    while True:
        number = int(rng.integers(ends[-1]))
        cloud = int(np.searchsorted(ends, number, "right"))
        place = number - int(ends[cloud] - indices.sizes[cloud])
        yield cloud, indices[cloud].arrays["points"][place] + _jitter(indices.radius, rng)


def places_by_class(rows: np.ndarray, labels: np.ndarray, num_classes: int) -> PlacesByClass:
    """Sorts the places of a cloud's points by class, and by row within a class.

    Args:
        rows: Row of the point at every place, ``(N,)``.
        labels: Its class, ``(N,)`` integers, where -1 is ignored.
        num_classes: Number of classes.

    Returns:
        The places of points with a class, ``(n,)`` uint32, and the number of points of each class,
        ``(num_classes,)`` int64.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.lexsort((rows[known], labels[known]))]
    return order.astype(np.uint32), np.bincount(labels[known], minlength=num_classes)


def balanced_centers(
    indices: CropIndices,
    places: Sequence[np.ndarray],
    counts: np.ndarray,
    rng: np.random.Generator,
) -> Iterator[Center]:
    """Endless centres at random points of a random class, every class equally likely.

    Args:
        indices: Indices of the clouds.
        places: For each cloud, its places by class; see :func:`places_by_class`.
        counts: Number of points of each cloud in each class, ``(S, classes)``; not all 0.
        rng: Source of randomness.
    """
    ends = counts.cumsum(axis=0)  # over the clouds
    occurring = np.flatnonzero(ends[-1])
    while True:
        label = occurring[rng.integers(len(occurring))]
        number = int(rng.integers(ends[-1, label]))
        cloud = int(np.searchsorted(ends[:, label], number, "right"))
        number += int(counts[cloud, : label + 1].sum() - ends[cloud, label])
        point = indices[cloud].arrays["points"][places[cloud][number]]
        yield cloud, point + _jitter(indices.radius, rng)


def potential_centers(coarse: CropIndices, rng: np.random.Generator) -> Iterator[Center]:
    """Endless centres that visit all places evenly.

    Every coarse point has a potential, which starts at a small random value. The point of lowest
    potential is the next centre. Each crop then adds Tukey's weight to the potentials of the coarse
    points within it, so that places with few crops so far come next.

    Only the lowest potential of each cloud is kept, and all potentials of the clouds that have had
    a crop: the first potentials of a cloud are drawn again when it gets its first crop.

    Args:
        coarse: Indices of the coarse points of the clouds.
        rng: Source of randomness.

    Source: Thomas et al. 2019, arXiv:1904.08889, section B of the supplementary, and its code.
    """
    before, lowest = [], np.empty(len(coarse))  # ``before``: state of ``rng`` before each cloud
    for cloud, size in enumerate(coarse.sizes):
        before.append(rng.bit_generator.state)
        lowest[cloud] = _first_potentials(size, rng).min(initial=np.inf)
    potentials: dict[int, np.ndarray] = {}
    again = np.random.default_rng()
    while True:
        cloud = int(lowest.argmin())
        if cloud not in potentials:
            again.bit_generator.state = before[cloud]
            potentials[cloud] = _first_potentials(coarse.sizes[cloud], again)
        center, _, _ = add_crop(coarse[cloud], potentials[cloud], rng)
        lowest[cloud] = potentials[cloud].min()
        yield cloud, center


def _first_potentials(size: int, rng: np.random.Generator) -> np.ndarray:
    return rng.random(size, np.float32) * np.float32(1e-3)


def add_crop(
    index: CropIndex, potentials: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chooses a centre near the point of lowest potential, and raises the potentials around it.

    Args:
        index: Index of the coarse points of a cloud.
        potentials: Their potentials, ``(N,)`` float32, which are changed.
        rng: Source of randomness.

    Returns:
        The centre ``(3,)`` float32, and the rows ``(n,)`` and squared distances ``(n,)`` of the
        coarse points in the crop.
    """
    center = index.point(int(potentials.argmin())) + _jitter(index.radius, rng)
    rows, squared, _ = index.query(center)
    potentials[rows] += blending_weights(squared, index.radius)
    return center, rows, squared


def centers_until(
    index: CropIndex, votes: int, covered: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Centres that visit all places evenly, until each place has had enough crops.

    A place is finished when its potential has reached ``votes`` and a crop had its centre nearer
    than ``covered``; the next centre is near the unfinished place of lowest potential.

    Args:
        index: Index of the coarse points of a cloud.
        votes: Potential to reach, >= 1.
        covered: Distance from the centre of one crop at least, in (0, radius].
        rng: Source of randomness.

    Source: Thomas et al. 2019, arXiv:1904.08889, and the code of its tests.
    Deviation: there, the potentials alone decide when to stop.
    """
    potentials, near = _first_potentials(len(index), rng), np.zeros(len(index), bool)
    while np.isfinite(potentials).any():
        center, rows, squared = add_crop(index, potentials, rng)
        near[rows] |= squared < covered**2
        finished = near[rows] & (potentials[rows] >= votes)
        potentials[rows[finished]] = np.inf
        yield center


def covering_centers(points: np.ndarray, radius: float, shape: Shape, reach: float) -> np.ndarray:
    """Centres on a regular grid, each point within ``reach * radius`` of one of them.

    Args:
        points: ``(N, 3)`` float32, in any order.
        radius: Radius of the crops, > 0.
        shape: ``"sphere"``, or ``"cylinder"`` with a vertical axis.
        reach: In (0, 1).

    Returns:
        ``(n, 3)`` float32.
    """
    axes = num_axes(shape)
    step = 2 * reach * radius / math.sqrt(axes)
    low = points.min(axis=0, initial=np.inf)
    cells = _unique_rows(np.floor((points[:, :axes] - low[:axes]) / step).astype(np.int64))
    centers = np.tile(low, (len(cells), 1))
    centers[:, :axes] += ((cells + 0.5) * step).astype(np.float32)
    return centers


def _unique_rows(cells: np.ndarray) -> np.ndarray:
    """Unique rows, found axis by axis so that keys fit into int64 however far apart cells are."""
    keys = np.zeros(len(cells), np.int64)
    for axis in range(cells.shape[1]):
        span = cells[:, axis].max(initial=0) + 1
        keys = np.unique(keys, return_inverse=True)[1] * span + cells[:, axis]
    return cells[np.unique(keys, return_index=True)[1]]


def _jitter(radius: float, rng: np.random.Generator) -> np.ndarray:
    """A random shift of a centre with standard deviation R/10 per axis.

    It is limited to R/2 per axis, so that the chosen point stays within the crop.
    """
    noise = np.clip(rng.normal(0, radius / 10, 3), -radius / 2, radius / 2)
    return noise.astype(np.float32)
