"""NPZ, NPY, PCD, E57 and text files, which are read as a whole, and copied with classifications."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kpdeform._files import replacing
from kpdeform.data import _chunked_file
from kpdeform.data._chunked_file import (
    ChunkedFile,
    Column,
    Labels,
    check_class_ids,
    no_room_for,
)
from kpdeform.data.array_files import read_npy, read_npz
from kpdeform.data.e57_files import read_e57
from kpdeform.data.fields import COLORS, Fields, damaged, plain_name, usual_names
from kpdeform.data.las_files import write_laz
from kpdeform.data.pcd_files import read_pcd, write_pcd
from kpdeform.data.text_files import copy_text, read_text

# Reads a file; copies it with columns of numbers that are replaced or added.
_READERS: dict[str, Callable[[Path], Fields]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    ".pcd": read_pcd,
    ".e57": read_e57,
}


class TableFile(ChunkedFile):
    """A file whose format is read as a whole; memory is bounded by the file, not by a tile.

    :meth:`write` replaces the column ``classification`` (in upper or lower case, or with the prefix
    ``scalar_``). If there is none, ``classification`` is added. Columns such as ``label`` are not
    changed, because they may be the ground truth.
    """

    highest_label = 2**24  # what float32 columns hold exactly

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fields = _READERS.get(path.suffix.lower(), read_text)(path)
        except (ImportError, OSError, MemoryError):
            raise
        except Exception as error:  # every reading library raises exceptions of its own
            raise damaged(path, error) from error
        self.names = list(self._fields)
        missing = set("xyz") - set(usual_names(self.names).values())
        if missing:
            raise damaged(path, f"no column {', '.join(sorted(missing))} among {self.names}")
        self.num_points = len(next(iter(self._fields.values())))
        self.label_name = next((n for n in self.names if plain_name(n) == "classification"), None)

    def parts(self, names: Iterable[str]) -> Iterator[Fields]:
        """See :meth:`ChunkedFile.parts`."""
        names = list(names)
        for start in range(0, max(self.num_points, 1), _chunked_file.CHUNK):
            rows = slice(start, start + _chunked_file.CHUNK)
            yield {name: self._fields[name][rows] for name in names}

    def write(self, path: Path, labels: Labels, extra: Sequence[Column] = ()) -> None:
        """See :meth:`ChunkedFile.write`."""
        ids = np.asarray(labels(0, self.num_points))
        check_class_ids(ids, self.highest_label)
        columns = {self.label_name or "classification": ids.astype(np.int32)}
        for column in extra:
            kind = self._fields[column.name].dtype if column.name in self._fields else None
            if kind is not None and kind.kind != "f":
                raise no_room_for(self.path, column.name, str(kind))
            columns[column.name] = column.values(0, self.num_points).astype(np.float32)
        copy = {".npz": _copy_npz, ".npy": _copy_npy, ".pcd": write_pcd}.get(
            self.path.suffix.lower(), copy_text
        )
        with replacing(path) as partial:
            copy(self.path, partial, columns)


class E57File(TableFile):
    """An E57 file, which has no room for a classification: its copy is a LAZ file.

    The copy has the valid points of all scans, moved by their poses, in the order of the scans. An
    intensity of whole numbers up to 65535 is that of the LAZ file, another one becomes the column
    ``scan_intensity``, float32. Colours of 8 bits become colours of 16 bits.
    """

    highest_label = 255

    def write(self, path: Path, labels: Labels, extra: Sequence[Column] = ()) -> None:
        """See :meth:`ChunkedFile.write`."""
        ids = np.asarray(labels(0, self.num_points))
        check_class_ids(ids, self.highest_label)
        columns = {c.name: c.values(0, self.num_points).astype(np.float32) for c in extra}
        if (intensity := self._fields.get("intensity")) is not None:
            if np.isin(intensity, np.arange(2**16)).all():
                columns["intensity"] = intensity.astype(np.uint16)
            else:
                columns["scan_intensity"] = intensity.astype(np.float32)
        colors = None
        if set(COLORS) <= set(self.names):
            colors = np.stack([self._fields[color] for color in COLORS], 1)
            colors = colors * np.uint16(257 if self._color_range == 255 else 1)
        points = np.stack([self._fields[axis] for axis in "xyz"], 1)
        with replacing(path) as partial:
            write_laz(partial, points, ids, colors, columns)


def _copy_npz(source: Path, target: Path, columns: Fields) -> None:
    with zipfile.ZipFile(source) as archive:
        compressed = any(m.compress_type != zipfile.ZIP_STORED for m in archive.infolist())
    with np.load(source, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    (np.savez_compressed if compressed else np.savez)(target, **{**arrays, **columns})


def _copy_npy(source: Path, target: Path, columns: Fields) -> None:
    """Columns of a structured array; else the last columns, in the order of ``columns``."""
    array = np.load(source, allow_pickle=False)
    if array.dtype.names:
        new = {name: values for name, values in columns.items() if name not in array.dtype.names}
        kinds = [(name, array.dtype[name]) for name in array.dtype.names]
        joined = np.empty(len(array), kinds + [(name, v.dtype) for name, v in new.items()])
        for name in array.dtype.names:
            joined[name] = array[name]
        for name, values in columns.items():
            joined[name] = values
    else:
        joined = np.column_stack([array, *columns.values()])
    np.save(target, joined)
