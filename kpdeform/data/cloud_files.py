"""Clouds in LAS, LAZ and PLY files, read in parts and copied with a classification put in.

A copy changes nothing but the classification. Every other field, the header, variable length
records, comments, further PLY elements and the order of the points are copied, not re-encoded.
"""

from __future__ import annotations

import itertools
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpdeform._files import replace
from kpdeform._optional import require
from kpdeform.data.files import COLORS, color_range, usual_names

_CHUNK = 500_000
# labels(start, stop) gives the classification of these points.
Labels = Callable[[int, int], np.ndarray]


def open_cloud_file(path: str | Path) -> LasFile | PlyFile:
    """Opens a LAS, LAZ or PLY file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of another kind, or its header is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    kinds = {".las": LasFile, ".laz": LasFile, ".ply": PlyFile}
    if path.suffix.lower() not in kinds:
        raise ValueError(
            f"{path}: a classification can be put into .las, .laz and .ply files; convert it first"
        )
    return kinds[path.suffix.lower()](path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of ``path`` at the end; an error leaves nothing."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_class_ids(ids: np.ndarray, highest: int) -> None:
    """Refuses numbers that the file cannot hold as a classification.

    Raises:
        ValueError: One is below 0 or above ``highest``.
    """
    if len(ids) and (ids.min() < 0 or ids.max() > highest):
        raise ValueError(
            f"this file holds classes 0 to {highest}, but class_ids are {np.unique(ids).tolist()}"
        )


def _damaged(path: Path, error: object) -> ValueError:
    return ValueError(
        f"{path}: cannot be read ({error}); it is truncated or corrupt: copy or download it again"
    )


def _check_names(path: Path, names: Sequence[str], known: Sequence[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"{path}: the model needs {missing}, but the file has {sorted(known)}")


class LasFile:
    """A LAS or LAZ file.

    Attributes:
        path: The file.
        num_points: Number of points.
        highest_label: Largest classification that the point format can hold.
    """

    def __init__(self, path: Path) -> None:
        self._laspy = require("laspy", "io")
        self.path = path
        if path.suffix.lower() == ".laz":
            require("lazrs", "io")
        with self._open() as reader:
            header = reader.header
            is_old = header.point_format.id < 6  # 5 bits for the class, 3 for flags
            laszip = header.vlrs.get("LasZipVlr")
            names = [n for n in header.point_format.dimension_names if n not in ("X", "Y", "Z")]
            if any(vlr.user_id == "copc" for vlr in header.vlrs):
                raise ValueError(f"{path}: COPC files cannot be changed; convert it to plain LAZ")
        self.num_points = header.point_count
        self.highest_label = 31 if is_old else 255
        self._label_byte = 15 if is_old else 16
        self._header = header
        self._columns = {usual: name for name, usual in usual_names(names).items()}
        self._laszip = laszip[0].record_data if laszip else None

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields points ``(n, 3)`` float64 and the fields ``names`` ``(n, F)`` float32.

        Names are those of :func:`kpdeform.data.read_cloud`. Colours are brought to 0 to 1,
        everything else is as in the file.

        Raises:
            ValueError: The file has no such field, or is truncated or corrupt.
        """
        _check_names(self.path, names, list(self._columns))
        for chunk in self._chunks():
            points = np.stack([chunk.x, chunk.y, chunk.z], 1).astype(np.float64)
            features = np.empty((len(points), len(names)), np.float32)
            for column, name in enumerate(names):
                values = chunk[self._columns[name]]
                features[:, column] = values / self._color_range if name in COLORS else values
            yield points, features

    def write(self, path: Path, labels: Labels) -> None:
        """Copies the file to ``path``, atomically, with other classifications."""
        with (
            replacing(path) as partial,
            self.path.open("rb") as source,
            partial.open("w+b") as target,
        ):
            target.write(source.read(self._header.offset_to_point_data))
            if self._laszip is None:
                self._copy_records(labels, source.readinto, target.write)
                shutil.copyfileobj(source, target)
            else:
                self._write_compressed(source, target, labels)

    def _write_compressed(self, source: BinaryIO, target: BinaryIO, labels: Labels) -> None:
        lazrs = require("lazrs", "io")
        decompressor = lazrs.LasZipDecompressor(source, self._laszip)
        compressor = lazrs.LasZipCompressor(target, lazrs.LazVlr(self._laszip))
        self._copy_records(labels, decompressor.decompress_many, compressor.compress_many)
        compressor.done()
        self._copy_extended_records(source, target)

    def _copy_records(
        self, labels: Labels, read: Callable[[Any], Any], write: Callable[[Any], Any]
    ) -> None:
        size = self._header.point_format.size
        flags = np.uint8(0xE0 if self.highest_label == 31 else 0)
        for start in range(0, self.num_points, _CHUNK):
            stop = min(start + _CHUNK, self.num_points)
            records = np.empty((stop - start, size), np.uint8)
            read(records.reshape(-1))
            old, new = records[:, self._label_byte], labels(start, stop)
            check_class_ids(new, self.highest_label)
            records[:, self._label_byte] = (old & flags) | new.astype(np.uint8)
            write(records.reshape(-1))

    def _copy_extended_records(self, source: BinaryIO, target: BinaryIO) -> None:
        """Appends what follows the points and corrects the header's pointers to it."""
        minor = self._header.version.minor
        pointers = {}  # place in the header: value
        for place, since in ((227, 3), (235, 4)):  # waveform packets, extended records
            if minor >= since:
                source.seek(place)
                (value,) = struct.unpack("<Q", source.read(8))
                if value > 0:
                    pointers[place] = value
        if not pointers:
            return
        old, new = min(pointers.values()), target.seek(0, os.SEEK_END)
        source.seek(old)
        shutil.copyfileobj(source, target)
        for place, value in pointers.items():
            target.seek(place)
            target.write(struct.pack("<Q", value - old + new))

    def _open(self) -> Any:
        try:
            return self._laspy.open(self.path)
        except Exception as error:
            raise _damaged(self.path, error) from error

    def _chunks(self) -> Iterator[Any]:
        num_read = 0
        with self._open() as reader:
            chunks = reader.chunk_iterator(_CHUNK)
            while True:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    break
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:  # panics of the decompressor are no Exception
                    raise _damaged(self.path, error) from error
                num_read += len(chunk)
                yield chunk
        if num_read != self.num_points:
            raise _damaged(self.path, f"{num_read} of {self.num_points} points are there")

    @cached_property
    def _color_range(self) -> float:
        channels = [self._columns[name] for name in COLORS if name in self._columns]
        tops = [chunk[name].max() for chunk in self._chunks() for name in channels]
        return color_range(max(tops, default=0), floats=False)


_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}


class PlyFile:
    """A PLY file, binary or text, whose first element is ``vertex``.

    A property ``classification`` is replaced where there is one, else it is added as the last.

    Attributes:
        path: The file.
        num_points: Number of vertices.
        highest_label: Largest classification that can be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._header = self._read_header(file)
            self._data_start = file.tell()
        formats = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
        words = [line.split() for line in self._header]
        try:
            self._byte_order = formats[next(w[1] for w in words if w[:1] == ["format"])]
            elements = [i for i, w in enumerate(words) if w[:1] == ["element"]]
            if words[elements[0]][1] != "vertex":
                raise ValueError("its first element is not 'vertex'")
            self.num_points = int(words[elements[0]][2])
            end = elements[1] if len(elements) > 1 else len(words)
            rows = [i for i in range(elements[0], end) if words[i][:1] == ["property"]]
            properties = [(words[i][2], _PLY_TYPES[words[i][1]]) for i in rows]
        except (KeyError, IndexError, StopIteration, ValueError) as error:
            raise ValueError(f"{path}: PLY header not understood ({error})") from error
        self._last_property = rows[-1]
        self._names = [name for name, _ in properties]
        self._dtype = np.dtype([(name, self._byte_order + kind) for name, kind in properties])
        self._columns = {usual: name for name, usual in usual_names(self._names).items()}
        _check_names(path, "xyz", list(self._columns))
        has_label = "classification" in self._names
        kind = self._dtype["classification"] if has_label else np.dtype("u1")
        self.highest_label = int(np.iinfo(kind).max) if kind.kind in "iu" else 2**24

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields points ``(n, 3)`` float64 and the properties ``names`` ``(n, F)`` float32.

        Names are those of :func:`kpdeform.data.read_cloud`. Colours are brought to 0 to 1,
        everything else is as in the file.

        Raises:
            ValueError: The file has no such property, or is truncated.
        """
        _check_names(self.path, names, list(self._columns))
        for _, vertices in self._vertices():
            axes = [vertices[self._columns[axis]].astype(np.float64) for axis in "xyz"]
            points = np.stack(axes, 1)
            features = np.empty((len(points), len(names)), np.float32)
            for column, name in enumerate(names):
                values = vertices[self._columns[name]]
                features[:, column] = values / self._color_range if name in COLORS else values
            yield points, features

    @cached_property
    def _color_range(self) -> float:
        channels = [self._columns[name] for name in COLORS if name in self._columns]
        kinds = [self._dtype[name] for name in channels]
        if all(kind == np.uint8 for kind in kinds):
            return 255.0
        tops = [v[name].max() for _, v in self._vertices() for name in channels]
        return color_range(max(tops, default=0), any(kind.kind == "f" for kind in kinds))

    def write(self, path: Path, labels: Labels) -> None:
        """Copies the file to ``path``, atomically, with other classifications."""
        header = list(self._header)
        is_new = "classification" not in self._names
        if is_new:
            ending = header[self._last_property][len(header[self._last_property].rstrip()) :]
            header.insert(self._last_property + 1, "property uchar classification" + ending)
        with replacing(path) as partial, partial.open("wb") as target:
            target.write("".join(header).encode("latin-1"))
            start, position = 0, self._data_start
            for raw, vertices in self._vertices():
                values = labels(start, start + len(vertices))
                check_class_ids(values, self.highest_label)
                target.write(self._label(raw, vertices, values, is_new))
                start += len(vertices)
                position += len(raw)
            with self.path.open("rb") as source:
                source.seek(position)
                shutil.copyfileobj(source, target)

    def _label(self, raw: bytes, vertices: np.ndarray, labels: np.ndarray, is_new: bool) -> bytes:
        """The bytes of some vertices with their classification put in."""
        if self._byte_order:
            if is_new:
                kind = np.dtype([("vertex", f"V{self._dtype.itemsize}"), ("label", "u1")])
                joined = np.empty(len(vertices), kind)
                joined["vertex"] = np.frombuffer(raw, kind["vertex"])
                joined["label"] = labels
                return joined.tobytes()
            changed = vertices.copy()
            changed["classification"] = labels
            return changed.tobytes()
        lines = []
        for line, label in zip(raw.splitlines(keepends=True), labels.tolist(), strict=True):
            ending = line[len(line.rstrip()) :]
            words = line.split()
            if is_new:
                lines.append(line.rstrip() + b" %d" % label + ending)
            else:
                words[self._names.index("classification")] = b"%d" % label
                lines.append(b" ".join(words) + ending)
        return b"".join(lines)

    def _read_header(self, file: BinaryIO) -> list[str]:
        lines = [file.readline().decode("latin-1")]
        if lines[0].strip() != "ply":
            raise ValueError(f"{self.path}: not a PLY file, it does not begin with 'ply'")
        while lines[-1].strip() != "end_header":
            lines.append(file.readline().decode("latin-1"))
            if not lines[-1]:
                raise _damaged(self.path, "the header has no end")
        return lines

    def _vertices(self) -> Iterator[tuple[bytes, np.ndarray]]:
        """Yields raw bytes and parsed vertices, in parts."""
        with self.path.open("rb") as file:
            file.seek(self._data_start)
            for start in range(0, self.num_points, _CHUNK):
                count = min(_CHUNK, self.num_points - start)
                try:
                    yield self._read(file, count)
                except ValueError as error:
                    first = f"from vertex {start} of {self.num_points} on: {error}"
                    raise _damaged(self.path, first) from error

    def _read(self, file: BinaryIO, count: int) -> tuple[bytes, np.ndarray]:
        if self._byte_order:
            raw = file.read(count * self._dtype.itemsize)
            return raw, np.frombuffer(raw, self._dtype, count)
        lines = list(itertools.islice(file, count))
        vertices = np.loadtxt(lines, self._dtype, ndmin=1) if lines else np.empty(0, self._dtype)
        if len(vertices) != count:
            raise ValueError(f"{len(vertices)} vertices where {count} should be")
        return b"".join(lines), vertices
