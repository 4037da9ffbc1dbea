"""Labels a cloud of any size, tile by tile, with memory bounded by one tile.

The plane (or space) is divided into cells of side ``size * (1 - overlap)``. The tile of a cell is
the cell extended by half the overlap on every side. The blending weight of a tile rises linearly
across the overlap, so that the weights of neighbouring tiles add up to one wherever all of them
have points.

The cloud is sorted by cell into plain files in a work folder, where the weighted probabilities of
all points are accumulated as well. Before the sums of a tile are changed, their new values are
written to a journal file. After a crash, the journal is applied again and the next tile follows, so
that the result has the same bytes as without the crash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kpdeform._files import replacing, reserve
from kpdeform._progress import track

# A part of a cloud: points (n, 3) float64 and features (n, F) float32.
Chunk = tuple[np.ndarray, np.ndarray]

# Shows the progress over tiles: takes the remaining tiles and the number of all tiles, and returns
# an iterable over the remaining tiles.
Progress = Callable[[Sequence[int], int], Iterable[int]]


class Piece(NamedTuple):
    """The points that the network sees at once.

    Attributes:
        rows: Rows of the sorted cloud, ``(n,)`` int64.
        points: World coordinates, ``(n, 3)`` float64.
        weights: Weights of the predictions, ``(n,)`` float32; 0 for points that are only seen.
    """

    rows: np.ndarray
    points: np.ndarray
    weights: np.ndarray


class Pieces(Protocol):
    """Pieces that cover a cloud, in the order of their prediction.

    Attributes:
        keep: Factor on the sums of a point before the weighted prediction of a piece is added.
    """

    keep: float

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Piece: ...


@dataclass(frozen=True)
class Tiles:
    """How a cloud is cut into overlapping tiles.

    Attributes:
        size: Side of a tile including the overlap, in the cloud's unit; infinite for a single tile.
        overlap: Share of ``size`` by which neighbouring tiles overlap, in (0, 0.5].
        dimensions: 2 for vertical columns on a grid in the x-y plane, 3 for cubes.

    Raises:
        ValueError: A value is out of range.
    """

    size: float
    overlap: float = 0.25
    dimensions: int = 2

    def __post_init__(self) -> None:
        if not self.size > 0:
            raise ValueError(f"Tiles: size must be > 0, got {self.size}")
        if not 0 < self.overlap <= 0.5:
            raise ValueError(f"Tiles: overlap must be in (0, 0.5], got {self.overlap}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"Tiles: dimensions must be 2 or 3, got {self.dimensions}")

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> Tiles:
        """The inverse of :meth:`as_record`."""
        size = record["size"]
        return Tiles(**{**record, "size": math.inf if size is None else size})

    def as_record(self) -> dict[str, Any]:
        """The attributes by name, with None for an infinite size, which JSON cannot hold."""
        return {**asdict(self), "size": None if math.isinf(self.size) else self.size}

    @property
    def cell(self) -> float:
        """Side of a cell, which is the distance between the centres of neighbouring tiles."""
        return self.size * (1 - self.overlap)

    def cells(self, points: np.ndarray) -> np.ndarray:
        """Cell of each point, ``(n, dimensions)`` int64."""
        if math.isinf(self.size):
            return np.zeros((len(points), self.dimensions), np.int64)
        return np.floor(points[:, : self.dimensions] / self.cell).astype(np.int64)

    def region(self, box: np.ndarray) -> np.ndarray:
        """The box of all tiles that reach into ``box``, ``(2, 3)``; returns ``(2, dimensions)``."""
        if math.isinf(self.size):
            return np.array([[-math.inf], [math.inf]]).repeat(self.dimensions, 1)
        reach = self.size * self.overlap / 2  # of a tile beyond its cell
        low, high = box[:, : self.dimensions]
        first, last = np.floor((low - reach) / self.cell), np.floor((high + reach) / self.cell)
        return np.stack([first * self.cell - reach, (last + 1) * self.cell + reach])

    def weights(self, points: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Weight of each point in the tile of ``cell``, ``(n,)`` float32; 0 outside the tile."""
        if math.isinf(self.size):
            return np.ones(len(points), np.float32)
        ramp = self.size * self.overlap
        center = (cell + 0.5) * self.cell
        to_border = self.size / 2 - np.abs(points[:, : self.dimensions] - center)
        return np.clip(to_border / ramp, 0, 1).prod(1).astype(np.float32)


class SortedCloud:
    """A cloud on disk, its points sorted by cell; see :meth:`write`.

    Attributes:
        tiles: The tiling that the cells belong to.
        cells: Cells with points, in lexicographic order, ``(T, dimensions)`` int64.
        starts: First row of each cell, followed by the number of points, ``(T + 1,)`` int64.
        num_own: Number of points to label. They are the first ones of the cloud; the others are
            points of neighbouring files, which only the network sees.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        with np.load(self.folder / "cells.npz") as index:
            self.cells, self.starts = index["cells"], index["starts"]
            self.num_features = int(index["num_features"])
            self.num_own = int(index["num_own"])
            self.tiles = Tiles(**json.loads(str(index["tiles"])))
        self._cell_number = {tuple(cell): i for i, cell in enumerate(self.cells.tolist())}

    @property
    def num_points(self) -> int:
        """Number of points N."""
        return int(self.starts[-1])

    @staticmethod
    def write(
        folder: Path,
        chunks: Callable[[], Iterable[Chunk]],
        tiles: Tiles,
        num_own: int | None = None,
    ) -> SortedCloud:
        """Sorts a cloud into ``folder``, or opens it if that was done before.

        Args:
            folder: Work folder. The file ``cells.npz`` is written last and marks it as complete.
            chunks: Returns an iterable over the parts of the cloud. It is called twice and must
                return the same parts each time.
            tiles: How to cut the cloud.
            num_own: Number of points to label, which come first; by default all points.

        Returns:
            The sorted cloud.

        Raises:
            ValueError: A coordinate is NaN or infinite.
        """
        folder = Path(folder)
        if (folder / "cells.npz").exists():
            return SortedCloud(folder)
        folder.mkdir(parents=True, exist_ok=True)
        counts, num_features = _count(chunks(), tiles)
        cells = np.array(sorted(counts), dtype=np.int64).reshape(-1, tiles.dimensions)
        starts = np.cumsum([0] + [counts[tuple(cell)] for cell in cells.tolist()])
        _sort_into_files(folder, chunks(), tiles, cells, starts, num_features)
        _save_atomically(
            folder / "cells.npz",
            cells=cells,
            starts=starts,
            num_features=num_features,
            num_own=starts[-1] if num_own is None else num_own,
            tiles=json.dumps(asdict(tiles)),
        )
        return SortedCloud(folder)

    def rows_around(self, cell: np.ndarray) -> np.ndarray:
        """Rows of the points in a cell, which may be empty, and in the cells around it."""
        shifts = product((-1, 0, 1), repeat=self.tiles.dimensions)
        around = [tuple((cell + np.array(shift)).tolist()) for shift in shifts]
        numbers = [self._cell_number[c] for c in around if c in self._cell_number]
        return np.concatenate([np.arange(0), *(self.cell_rows(number) for number in numbers)])

    def tile(self, tile: int) -> Piece:
        """The points in a tile."""
        rows = self.rows_around(self.cells[tile])
        points = self.points(rows)
        weights = self.tiles.weights(points, self.cells[tile])
        inside = weights > 0
        return Piece(rows[inside], points[inside], weights[inside])

    def some_tiles(self, count: int) -> list[int]:
        """At most ``count`` tiles, spread over the points of the cloud."""
        rows = (np.arange(count) + 0.5) / count * self.num_points
        tiles = np.searchsorted(self.starts, rows, side="right") - 1
        return np.unique(tiles).tolist() if self.num_points else []

    def cell_rows(self, cell: int) -> np.ndarray:
        """Rows of the points in a cell."""
        return np.arange(self.starts[cell], self.starts[cell + 1])

    def points(self, rows: np.ndarray) -> np.ndarray:
        """World coordinates of some rows, ``(n, 3)`` float64."""
        return self._open("points", np.float64, 3)[rows]

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Features of some rows, ``(n, F)`` float32."""
        if self.num_features == 0:
            return np.zeros((len(rows), 0), np.float32)
        return self._open("features", np.float32, self.num_features)[rows]

    def is_own(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are points to label, ``(n,)`` bool."""
        if self.num_own == self.num_points:
            return np.ones(len(rows), bool)
        return self._open("order", np.int64, 1)[rows, 0] < self.num_own

    def order(self, start: int, stop: int) -> np.ndarray:
        """Index in the original file of the points in rows ``start`` to ``stop``, int64."""
        return np.array(self._open("order", np.int64, 1)[start:stop, 0])

    def _open(self, name: str, dtype: type, columns: int) -> np.ndarray:
        # Each use maps the file again, because the pages of a kept mapping would count as memory of
        # this process.
        path = self.folder / f"{name}.bin"
        return np.memmap(path, dtype, mode="r", shape=(self.num_points, columns))


def predict_pieces(
    cloud: SortedCloud,
    pieces: Pieces,
    predict: Callable[[int, np.ndarray, np.ndarray], np.ndarray],
    num_classes: int,
    progress: Progress | None = None,
) -> None:
    """Sums up the weighted class probabilities of all pieces in the cloud's work folder.

    If an earlier call was killed, this call continues after its last finished piece.

    Args:
        cloud: The sorted cloud.
        pieces: Pieces that cover the cloud; the same ones in every call.
        predict: Takes the number of a piece, its points ``(n, 3)`` float64 and features ``(n, F)``
            float32, and returns probabilities ``(n, classes)`` float32.
        num_classes: Number of classes.
        progress: Wraps the iteration over pieces to show its progress, for example
            :func:`progress_bar`.

    Raises:
        ValueError: A probability is NaN or infinite.
    """
    num_pieces = len(pieces)
    sums = cloud.folder / "probabilities.bin"
    if not sums.exists():
        reserve(sums, 4 * cloud.num_points * num_classes)
    first = _replay_journal(cloud)
    remaining = range(first, num_pieces)
    for number in remaining if progress is None else progress(remaining, num_pieces):
        rows, points, weights = pieces[number]
        counts = cloud.is_own(rows) & (weights > 0)
        if not counts.any():
            continue
        probabilities = predict(number, points, cloud.features(rows))
        if not np.isfinite(probabilities).all():
            raise ValueError(
                f"the model gives NaN for points of tile {number + 1} of {num_pieces}, around "
                f"{points.mean(0).tolist()}; nothing was labelled. Look at the features there"
            )
        rows = rows[counts]
        values = _open_sums(cloud, num_classes)[rows]
        values *= np.float32(pieces.keep)
        values += weights[counts, None] * probabilities[counts]
        _save_atomically(cloud.folder / "journal.npz", piece=number, rows=rows, values=values)
        _apply(cloud, rows, values)


def progress_bar(remaining: Sequence[int], total: int) -> Iterable[int]:
    """Iterates over ``remaining``, and shows finished tiles and the time left on the terminal."""
    return track(remaining, "tiles", total, completed=total - len(remaining))


def read_probabilities(
    cloud: SortedCloud, num_classes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the result of :func:`predict_pieces` for the points to label, in parts.

    Args:
        cloud: The sorted cloud.
        num_classes: Number of classes.

    Yields:
        Indices of points in the original file, ``(n,)`` int64, and their class probabilities,
        ``(n, classes)`` float32, whose rows add up to 1.
    """
    step = 1_000_000
    for start in range(0, cloud.num_points, step):
        stop = min(start + step, cloud.num_points)
        values = np.array(_open_sums(cloud, num_classes)[start:stop])
        order = cloud.order(start, stop)
        own = order < cloud.num_own
        yield order[own], values[own] / values[own].sum(1, keepdims=True)


def _open_sums(cloud: SortedCloud, num_classes: int) -> np.ndarray:
    shape = (cloud.num_points, num_classes)
    return np.memmap(cloud.folder / "probabilities.bin", np.float32, mode="r+", shape=shape)


def _replay_journal(cloud: SortedCloud) -> int:
    """Applies the journal to the sums; applying it a second time changes nothing."""
    path = cloud.folder / "journal.npz"
    if not path.exists():
        return 0
    with np.load(path) as journal:
        _apply(cloud, journal["rows"], journal["values"])
        return int(journal["piece"]) + 1


def _apply(cloud: SortedCloud, rows: np.ndarray, values: np.ndarray) -> None:
    sums = _open_sums(cloud, values.shape[1])
    sums[rows] = values
    sums.flush()  # the sums must be on the disk before the next journal replaces this one


def _save_atomically(path: Path, **arrays: object) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def _count(chunks: Iterable[Chunk], tiles: Tiles) -> tuple[dict[tuple[int, ...], int], int]:
    """Counts the points of each cell; also returns the number of features."""
    counts: dict[tuple[int, ...], int] = {}
    num_features, done = 0, 0
    for points, features in chunks:
        finite = np.isfinite(points).all(1)
        if not finite.all():
            row = done + int(np.flatnonzero(~finite)[0])
            raise ValueError(f"point {row} has a NaN or infinite coordinate; remove such points")
        for cell, rows in _group(tiles.cells(points)):
            counts[cell] = counts.get(cell, 0) + len(rows)
        num_features = features.shape[1]
        done += len(points)
    return counts, num_features


def _sort_into_files(
    folder: Path,
    chunks: Iterable[Chunk],
    tiles: Tiles,
    cells: np.ndarray,
    starts: np.ndarray,
    num_features: int,
) -> None:
    """Writes points, features and original indices to the rows of their cell."""
    cursor = dict(zip(map(tuple, cells.tolist()), starts[:-1].tolist(), strict=True))
    done = 0
    with (
        (folder / "points.bin").open("wb") as point_file,
        (folder / "features.bin").open("wb") as feature_file,
        (folder / "order.bin").open("wb") as order_file,
    ):
        for points, features in chunks:
            for cell, rows in _group(tiles.cells(points)):
                start = cursor[cell]
                cursor[cell] += len(rows)
                _write_at(point_file, 24 * start, points[rows].astype(np.float64))
                _write_at(feature_file, 4 * num_features * start, features[rows].astype(np.float32))
                _write_at(order_file, 8 * start, (done + rows).astype(np.int64))
            done += len(points)


def _write_at(file: object, offset: int, values: np.ndarray) -> None:
    file.seek(offset)
    file.write(values.tobytes())


def _group(cells: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Yields each cell that occurs together with its rows, in ascending order."""
    order = np.lexsort(cells.T[::-1])
    ordered = cells[order]
    is_first = np.ones(len(cells), bool)
    is_first[1:] = (ordered[1:] != ordered[:-1]).any(1)
    bounds = np.append(np.flatnonzero(is_first), len(cells))
    for start, stop in pairwise(bounds):
        yield tuple(ordered[start].tolist()), order[start:stop]
