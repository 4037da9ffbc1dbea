"""Reads point cloud files of many formats into one form, by the names in their headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kpdeform.data._chunked_file import not_finite
from kpdeform.data.array_files import read_npy, read_npz
from kpdeform.data.e57_files import read_e57
from kpdeform.data.fields import (
    COLORS,
    NORMALS,
    Fields,
    colors_to_bytes,
    damaged,
    to_labels,
    usual_names,
)
from kpdeform.data.las_files import LasFile
from kpdeform.data.pcd_files import read_pcd
from kpdeform.data.ply_files import PlyFile
from kpdeform.data.text_files import read_text


@dataclass
class Cloud:
    """A point cloud with the attributes of its file.

    Attributes:
        points: ``(N, 3)`` float64 world coordinates, in the unit of the file.
        attributes: Arrays ``(N,)`` by name. ``red``, ``green`` and ``blue`` are uint8, or float32
            from 0 to 255 if some values are NaN. ``intensity``, ``nx``, ``ny`` and ``nz`` are
            float32. ``classification`` is int64, where -1 stands for points without a label (NaN or
            an empty value). All others keep their name and dtype.
    """

    points: np.ndarray
    attributes: Fields = field(default_factory=dict)

    def stack(self, *names: str) -> np.ndarray:
        """Returns the attributes with these names as the columns of one array.

        Raises:
            ValueError: The cloud has no attribute of one of these names.
        """
        missing = [name for name in names if name not in self.attributes]
        if missing:
            raise ValueError(f"no attribute {missing}, there are {sorted(self.attributes)}")
        return np.stack([self.attributes[name] for name in names], axis=1)


def read_cloud(
    path: str | Path, columns: Sequence[str] | None = None, points: str | None = None
) -> Cloud:
    r"""Reads a point cloud file.

    Columns are identified by the names in the file. In text files and arrays without names, the
    first three columns are x, y and z. Of the other columns, only normals and colours are
    recognised, by the rule of :func:`kpdeform.data.text_files.guess_names`. With ``columns``, all
    columns are named by the caller. Colours of 16 bits and floating-point colours from 0 to 1 are
    converted to uint8.
    A COPC file is read like any LAZ file. The scans of an E57 file are joined into one cloud.

    Args:
        path: File with one of the suffixes
            ``.las .laz .ply .pcd .e57 .npz .npy .txt .csv .xyz .pts .asc``.
        columns: Names of all columns of a text file or array, such as ``["x", "y", "z", "red",
            "green", "blue", "label"]``. They replace names in the file.
        points: Name of the array of an NPZ file that holds the coordinates. By default it is found
            among the usual names, such as ``points`` and ``xyz``.

    Returns:
        All points of the file, in the order of the file. Points with NaN or infinite values are
        kept; see :func:`check_finite`. Invalid points of an E57 file are left out.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown, or the file is truncated, corrupt or has no coordinates.
        ImportError: A package is missing. LAS, LAZ and compressed PCD need the extra ``io``, E57
            needs the extra ``e57``.
        MemoryError: The file does not fit into memory; the message gives its size.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("x,y,z,Intensity\n1,2,3,9\n4,5,6,8\n")
        >>> read_cloud(path).attributes["intensity"]
        array([9., 8.], dtype=float32)
        >>> sorted(read_cloud(path, columns=["x", "y", "z", "label"]).attributes)
        ['classification']
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: unknown format; these are read: {' '.join(SUFFIXES)}")
    if columns is not None and suffix in _READERS:
        raise ValueError(
            f"{path}: its columns have names of their own; columns is for text, NPY, NPZ"
        )
    if points is not None and suffix != ".npz":
        raise ValueError(f"{path}: points names an array of an NPZ file, which this is not")
    try:
        if suffix in _READERS:
            fields = _READERS[suffix](path)
        elif points is not None:
            fields = read_npz(path, columns, points)
        else:
            fields = _TABLES[suffix](path, columns)
        return _make_cloud(fields)
    except MemoryError as error:
        size = path.stat().st_size
        raise MemoryError(f"{path}: not enough memory for this file of {size} bytes") from error
    except (ImportError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # every reading library raises exceptions of its own
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise damaged(path, error) from error


def walk_files(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Yields all files in a folder and its subfolders that are not hidden, in order.

    Symbolic links are followed, except those to a parent folder.

    Args:
        folder: The folder.
        above: Device and inode of the parent folders, when the function calls itself.
    """
    state = folder.stat()
    here = (state.st_dev, state.st_ino)
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from walk_files(path, (*above, here))
        elif path.is_file():
            yield path


def check_finite(cloud: Cloud, path: str | Path, names: Sequence[str] = ()) -> None:
    """Raises an error if coordinates or attributes of a cloud are NaN or infinite.

    Args:
        cloud: The cloud.
        path: Its file, for the message.
        names: Attributes to check, besides the coordinates.

    Raises:
        ValueError: A value is NaN or infinite (the message names the file and, for every attribute,
            the number of such points), or the cloud has no attribute of one of these names.
    """
    columns = dict(zip("xyz", cloud.points.T, strict=True))
    missing = [name for name in names if name not in cloud.attributes]
    if missing:
        raise ValueError(f"{path}: has no {missing}; it has {sorted(cloud.attributes)}")
    columns |= {name: cloud.attributes[name] for name in names}
    counts = {
        name: int((~np.isfinite(values)).sum())
        for name, values in columns.items()
        if values.dtype.kind in "fc"
    }
    if any(counts.values()):
        raise not_finite(path, counts, len(cloud.points))


def _make_cloud(fields: Fields) -> Cloud:
    names = usual_names(fields)
    fields = {names[name]: values for name, values in fields.items()}
    missing = [name for name in "xyz" if name not in fields]
    if missing:
        raise ValueError(f"no column {', '.join(missing)} among {sorted(fields)}")
    points = np.stack([np.asarray(fields.pop(name), np.float64) for name in "xyz"], axis=1)
    for name, values in fields.items():
        if len(values) != len(points):
            raise ValueError(f"{len(points)} points but {len(values)} values of {name}")
    attributes = {name: np.ascontiguousarray(values) for name, values in fields.items()}
    attributes.update(colors_to_bytes({c: fields[c] for c in COLORS if c in fields}))
    for name in ("intensity", *NORMALS):
        if name in attributes:
            attributes[name] = attributes[name].astype(np.float32)
    if "classification" in attributes:
        attributes["classification"] = to_labels(attributes["classification"])
    return Cloud(points, attributes)


TEXT_SUFFIXES = (".txt", ".csv", ".xyz", ".pts", ".asc")
# _READERS has the formats whose files name their columns, _TABLES those whose columns a caller may
# name.
_READERS: dict[str, Callable[[Path], Fields]] = {
    **dict.fromkeys((".las", ".laz"), lambda path: LasFile(path).read()),
    ".ply": lambda path: PlyFile(path).read(),
    ".pcd": read_pcd,
    ".e57": read_e57,
}
_TABLES: dict[str, Callable[[Path, Sequence[str] | None], Fields]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    **dict.fromkeys(TEXT_SUFFIXES, read_text),
}
TABLE_SUFFIXES = tuple(_TABLES)
SUFFIXES = (*_READERS, *_TABLES)
