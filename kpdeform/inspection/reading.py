"""Reads point cloud files in parts, for statistics of files of any size."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpdeform.data import Cloud, read_cloud
from kpdeform.data._chunked_file import CHUNK, ChunkedFile
from kpdeform.data.cloud_files import open_cloud_file
from kpdeform.data.fields import Fields, usual_names
from kpdeform.data.files import SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES, walk_files
from kpdeform.data.text_files import has_numbers

STREAMED = (".las", ".laz", ".ply")  # read in parts; all other formats are read as a whole


@dataclass(frozen=True)
class Reading:
    """How files are read, as the options of ``kpdeform prepare folder`` say it.

    Attributes:
        label: Attribute that holds the labels; None for the usual names, such as classification.
        points: Name of the array of an NPZ file that holds the coordinates, if it is unusual.
        columns: Names of all columns of text files and arrays, if their own are not to be used.
        scale: Factor on the coordinates; None for the one that makes metres of the unit of the
            file's coordinate system, which is 1 where it is not known.
    """

    label: str | None = None
    points: str | None = None
    columns: tuple[str, ...] = ()
    scale: float | None = None


def find_clouds(given: Sequence[str | Path]) -> list[Path]:
    """Finds point cloud files.

    Args:
        given: Files, folders, which stand for all files in them, and patterns such as
            ``"tiles/*.laz"``. Hidden files of a folder, and text files without numbers, are left
            out.

    Returns:
        The paths, every file once, in order.

    Raises:
        FileNotFoundError: A file is not there, or a folder or pattern has no point cloud file.
        ValueError: A file that was named has an unknown suffix.
    """
    found: dict[Path, Path] = {}  # by the file that links lead to
    for item in map(Path, given):
        if item.is_file():
            if item.suffix.lower() not in SUFFIXES:
                raise ValueError(f"{item}: unknown format; these are read: {' '.join(SUFFIXES)}")
            paths = [item]
        elif item.is_dir():
            paths = [path for path in walk_files(item) if _is_cloud(path)]
        else:
            matched = map(Path, sorted(glob.glob(str(item), recursive=True)))
            paths = [path for path in matched if path.is_file() and _is_cloud(path)]
        if not paths:
            raise FileNotFoundError(
                f"{item} is no file, and no folder or pattern with point clouds "
                f"({' '.join(SUFFIXES)})"
            )
        for path in paths:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _is_cloud(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in SUFFIXES and (suffix not in TEXT_SUFFIXES or has_numbers(path))


class CloudParts:
    """The points of a file, which can be read several times.

    LAS, LAZ and PLY files are read in parts of some 500,000 points. Other formats are read as a
    whole when the object is made, and handed out in parts.

    Args:
        path: The file.
        reading: How it is read.

    Attributes:
        num_points: Number of points.
        names: Names of the attributes that :meth:`parts` gives, apart from x, y and z.

    Raises:
        ValueError: The file cannot be read.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        self._file: ChunkedFile | None = None
        self._cloud = Cloud(np.zeros((0, 3)))
        if path.suffix.lower() in STREAMED:
            self._file = open_cloud_file(path)
            usual = usual_names(self._file.names)
            self._names = {usual[name]: name for name in self._file.names}
            missing = [name for name in "xyz" if name not in self._names]
            if missing:
                raise ValueError(f"{path}: no column {', '.join(missing)} among {sorted(usual)}")
            self.num_points = self._file.num_points
            self.names = [name for name in self._names if name not in ("x", "y", "z")]
        else:
            columns = (reading.columns or None) if path.suffix.lower() in TABLE_SUFFIXES else None
            points = reading.points if path.suffix.lower() == ".npz" else None
            self._cloud = read_cloud(path, columns, points)
            self.num_points = len(self._cloud.points)
            numbers = {k: v for k, v in self._cloud.attributes.items() if v.dtype.kind in "iufb"}
            self.names = list(numbers)

    def parts(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, Fields]]:
        """Yields the cloud in parts of consecutive points.

        Args:
            names: Attributes to read, out of the object's ``names``.

        Yields:
            The coordinates of the points of a part, ``(n, 3)`` float64, and a mapping from each of
            ``names`` to the values ``(n,)`` of these points.
        """
        if self._file is None:
            for start in range(0, self.num_points, CHUNK):
                rows = slice(start, start + CHUNK)
                attributes = self._cloud.attributes
                yield self._cloud.points[rows], {name: attributes[name][rows] for name in names}
            return
        for part in self._file.parts([self._names[name] for name in (*"xyz", *names)]):
            points = np.stack([np.asarray(part[self._names[a]], np.float64) for a in "xyz"], axis=1)
            yield points, {name: np.asarray(part[self._names[name]]) for name in names}
