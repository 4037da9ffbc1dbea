"""The interface of files that are read in parts and copied with new classifications."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kpdeform.data.fields import COLORS, ColorRange, Fields, to_labels, usual_names

CHUNK = 500_000  # points read at a time
# labels(start, stop) returns the classification of the points from row start to row stop.
Labels = Callable[[int, int], np.ndarray]


class Column(NamedTuple):
    """A column of float32 numbers that a copy gets beside the classification.

    Attributes:
        name: Name in the file. A float32 column of this name is replaced.
        description: At most 32 characters, for formats that have room for it.
        values: ``values(start, stop)`` returns the numbers of the points from row start to row
            stop.
    """

    name: str
    description: str
    values: Callable[[int, int], np.ndarray]


class ChunkedFile(ABC):
    """A point cloud file whose header has been read and checked against the file's size.

    Attributes:
        path: The file.
        num_points: Number of points.
        names: Names of the columns in the file, including ``x``, ``y`` and ``z``.
        highest_label: Largest classification that the file can store.
        label_name: Column that holds the classification, which a copy replaces; None if there is
            none.
    """

    path: Path
    num_points: int
    names: Sequence[str]
    highest_label: int
    label_name: str | None

    @abstractmethod
    def parts(self, names: Iterable[str]) -> Iterator[Fields]:
        """Yields the columns ``names``, as named in the file, for about ``CHUNK`` points at a time.

        Raises:
            ValueError: The file is truncated or corrupt.
        """

    @abstractmethod
    def write(self, path: Path, labels: Labels, extra: Sequence[Column] = ()) -> None:
        """Copies the file to ``path`` with new classifications; ``path`` is replaced atomically.

        Args:
            path: File to write.
            labels: Called as ``labels(start, stop)`` for the classifications of consecutive rows.
            extra: Columns to add; their functions are called with the same rows as ``labels``.

        Raises:
            ValueError: A classification is negative or above ``highest_label``, the file has a
                column with the name of an extra one that is not float32, or it is truncated or
                corrupt.
        """

    def classifications(self) -> Iterator[np.ndarray]:
        """Yields the classifications that the file has, int64, -1 for NaN, in parts.

        Raises:
            ValueError: The file has none, or they are no whole numbers.
        """
        if self.label_name is None:
            raise ValueError(f"{self.path} has no classification")
        for part in self.parts([self.label_name]):
            yield to_labels(part[self.label_name])

    def read(self) -> Fields:
        """Reads all columns of all points; they are named as in the file."""
        parts = list(self.parts(self.names))
        return {name: np.concatenate([part[name] for part in parts]) for name in self.names}

    def chunks(
        self, names: Sequence[str], optional: Collection[str] = ()
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields points ``(n, 3)`` float64 and the columns ``names``, ``(n, F)`` float32.

        Names are those of :func:`kpdeform.data.read_cloud`. Colours are scaled to 0 to 1. All other
        values, including coordinates, have the unit of the file.

        Args:
            names: Names of the columns.
            optional: Names that the file may lack; these columns are then 0.

        Raises:
            ValueError: The file has no such column, is truncated or corrupt, or contains NaN or
                infinite values, which the message counts.
        """
        present = [name for name in names if name in self._columns or name not in optional]
        check_names(self.path, present, list(self._columns))
        wanted = [self._columns[name] for name in (*"xyz", *present)]
        for part in self.parts(wanted):
            columns = [part[name] for name in wanted]
            if not all(np.isfinite(values).all() for values in columns):
                raise self._not_finite((*"xyz", *present))
            points = np.stack(columns[:3], 1).astype(np.float64)
            features = np.zeros((len(points), len(names)), np.float32)
            for name, values in zip(present, columns[3:], strict=True):
                if name in COLORS:
                    values = np.clip(values / self._color_range, 0, 1)
                features[:, names.index(name)] = values
            yield points, features

    def bounds(self) -> np.ndarray | None:
        """Lowest and highest coordinates, ``(2, 3)`` float64; None if there are no points.

        They are those of the header if the format has them there.

        Raises:
            ValueError: The file is truncated or corrupt, or a coordinate is NaN or infinite.
        """
        box: np.ndarray | None = None
        for points, _ in self.chunks(()):
            if len(points):
                part = np.stack([points.min(0), points.max(0)])
                box = (
                    part
                    if box is None
                    else np.stack([np.minimum(box[0], part[0]), np.maximum(box[1], part[1])])
                )
        return box

    @cached_property
    def _columns(self) -> dict[str, str]:
        """The file's name of each column, by the name that kpdeform uses for it."""
        return {usual: name for name, usual in usual_names(self.names).items()}

    @cached_property
    def _color_range(self) -> float:
        channels = [self._columns[name] for name in COLORS if name in self._columns]
        color_range = ColorRange()
        for part in self.parts(channels):
            for name in channels:
                color_range.add(part[name])
        return color_range.top()

    def _not_finite(self, names: Sequence[str]) -> ValueError:
        counts = dict.fromkeys(names, 0)
        for part in self.parts([self._columns[name] for name in names]):
            for name in names:
                counts[name] += int((~np.isfinite(part[self._columns[name]])).sum())
        return not_finite(self.path, counts, self.num_points)


def not_finite(path: str | Path, counts: dict[str, int], num_points: int) -> ValueError:
    """The error for a file in which some values are NaN or infinite."""
    bad = ", ".join(f"{name} ({count} points)" for name, count in counts.items() if count)
    return ValueError(
        f"{path}: NaN or infinite values in {bad} of {num_points} points; remove these points or "
        "give them values first"
    )


def check_names(path: Path, names: Sequence[str], known: Sequence[str]) -> None:
    """Checks that a file has all columns that a model needs.

    Raises:
        ValueError: The file has no column of one of these names.
    """
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{path}: the model needs {missing}, but the file has {sorted(known)}")


def check_class_ids(ids: np.ndarray, highest: int) -> None:
    """Checks that a file can store these classifications.

    Raises:
        ValueError: A number is below 0 or above ``highest``.
    """
    if len(ids) and (ids.min() < 0 or ids.max() > highest):
        raise ValueError(
            f"this file holds classes 0 to {highest}, but class_ids are {np.unique(ids).tolist()}"
        )


def no_room_for(path: Path, name: str, kind: str) -> ValueError:
    """The error for a column that cannot be written because another one has its name."""
    return ValueError(
        f"{path} has a column {name} of type {kind}, where float32 numbers would go; rename "
        "or remove it"
    )


def copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    """Copies the next ``count`` bytes, or fewer if the source ends before."""
    while count > 0 and (data := source.read(min(count, 1 << 20))):
        target.write(data)
        count -= len(data)
