"""LAS and LAZ files, which are read in parts and copied with new classifications."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpdeform._files import replacing
from kpdeform._optional import require
from kpdeform.data import _chunked_file
from kpdeform.data._chunked_file import (
    ChunkedFile,
    Column,
    Labels,
    check_class_ids,
    copy_bytes,
    no_room_for,
)
from kpdeform.data._las_layout import Record, point_size, read_layout
from kpdeform.data.fields import Fields, damaged

_PLAIN_CHUNK = 50_000  # points per chunk, as LASzip writes files
_PARALLEL_LIMIT = 1 << 26  # largest chunk in bytes that is decompressed in parallel


class LasFile(ChunkedFile):
    """A LAS or LAZ file. A COPC file is a LAZ file with an index, which a copy leaves out."""

    def __init__(self, path: Path) -> None:
        laspy = require("laspy", "io")
        if path.suffix.lower() == ".laz":
            require("lazrs", "io")
        self.path = path
        with path.open("rb") as file, _damage_named(path):
            self._layout = layout = read_layout(file)
            file.seek(0)
            header = laspy.LasHeader.read_from(file, read_evlrs=False)
            self._format = header.point_format
            if self._format.size != layout.record_length:
                raise ValueError(
                    f"its fields take {self._format.size} bytes of {layout.record_length}"
                )
            self._scales, self._offsets = header.scales, header.offsets
            self._dtype = self._format.dtype()
            self._box = np.stack([header.mins, header.maxs]).astype(np.float64)
        self.num_points = layout.num_points
        # Point formats 0 to 5 store the classification in 5 bits, the others in 8.
        self.highest_label = 31 if layout.point_format < 6 else 255
        own = [n for n in self._format.dimension_names if n not in ("X", "Y", "Z")]
        widths = {name: self._format.dimension_by_name(name).num_elements for name in own}
        self.label_name = "classification"
        self._arrays = {
            (name if width == 1 else f"{name}_{i}"): (name, i if width > 1 else None)
            for name, width in widths.items()
            for i in range(width)
        }
        self.names = [*"xyz", *self._arrays]

    def bounds(self) -> np.ndarray | None:
        """See :meth:`ChunkedFile.bounds`; a header without a box is not trusted."""
        low, high = self._box
        if self.num_points and np.isfinite(self._box).all() and (low <= high).all():
            if self.num_points == 1 or (low < high).any():
                return self._box
        return super().bounds()

    def parts(self, names: Iterable[str]) -> Iterator[Fields]:
        """See :meth:`ChunkedFile.parts`."""
        record = require("laspy", "io").ScaleAwarePointRecord
        names = list(names)
        with self.path.open("rb") as file:
            for raw in self._records(file):
                with _damage_named(self.path):
                    array = raw.reshape(-1).view(self._dtype)
                    points = record(array, self._format, self._scales, self._offsets)
                    part = {name: self._column(points, name) for name in names}
                yield part

    def _column(self, points: Any, name: str) -> np.ndarray:
        if name in ("x", "y", "z"):
            return np.asarray(points[name], np.float64)
        source, column = self._arrays[name]
        values = np.asarray(points[source])
        return values if column is None else values[:, column]

    def write(self, path: Path, labels: Labels, extra: Sequence[Column] = ()) -> None:
        """See :meth:`ChunkedFile.write`; a COPC file becomes a plain LAZ file.

        Columns become extra bytes of the points.
        """
        added = [column for column in extra if column.name not in self.names]
        for column in extra:
            if column not in added and self._dtype[column.name] != np.dtype("<f4"):
                raise no_room_for(self.path, column.name, str(self._dtype[column.name]))
        left_out = [r for r in (*self._layout.vlrs, *self._layout.evlrs) if r.user_id == "copc"]
        if added:
            left_out += [r for r in self._layout.evlrs if _describes_extra_bytes(r)]
        with (
            replacing(path) as partial,
            self.path.open("rb") as source,
            partial.open("w+b") as target,
        ):
            laszip = self._copy_head(source, target, left_out, added)
            if laszip is None:
                self._copy_records(source, target.write, labels, extra)
            else:
                lazrs = require("lazrs", "io")
                compressor = lazrs.LasZipCompressor(target, lazrs.LazVlr(laszip))
                self._copy_records(source, compressor.compress_many, labels, extra)
                compressor.done()
            if laszip is None and not added:
                shutil.copyfileobj(source, target)
            else:
                self._copy_extended_records(source, target, left_out)

    def _copy_head(
        self,
        source: BinaryIO,
        target: BinaryIO,
        left_out: list[Record],
        added: Sequence[Column],
    ) -> bytes | None:
        """Writes everything before the points, and returns the LASzip record of the copy."""
        layout, laszip = self._layout, self._layout.laszip
        source.seek(0)
        head = source.read(layout.points_start)
        new_laszip = laszip
        if laszip is not None and laszip[12:16] == b"\xff" * 4:  # chunks of variable length
            new_laszip = laszip[:12] + struct.pack("<I", _PLAIN_CHUNK) + laszip[16:]
        if laszip is not None and added:
            new_laszip = self._laszip_with(4 * len(added))
        records = []
        for record in layout.vlrs:
            content = head[record.data_start : record.stop]
            if content == laszip:
                content = new_laszip
            if record not in left_out and not (added and _describes_extra_bytes(record)):
                start = bytearray(head[record.start : record.data_start])
                struct.pack_into("<H", start, 20, len(content))
                records.append(bytes(start) + content)
        if added:
            content = self._described_extra_bytes(source) + b"".join(map(_descriptor, added))
            start = struct.pack("<2x16sHH32x", b"LASF_Spec", 4, len(content))
            records.append(start + content)
        end = max((record.stop for record in layout.vlrs), default=layout.header_size)
        first = bytearray(head[: layout.header_size])
        size = len(first) + sum(map(len, records)) + len(head) - end
        struct.pack_into("<II", first, 96, size, len(records))
        struct.pack_into("<H", first, 105, layout.record_length + 4 * len(added))
        if num_left := sum(r in left_out for r in layout.evlrs):
            struct.pack_into("<I", first, 243, len(layout.evlrs) - num_left)
            if num_left == len(layout.evlrs):
                struct.pack_into("<Q", first, 235, 0)
        target.write(bytes(first) + b"".join(records) + head[end:])
        return new_laszip

    def _laszip_with(self, num_bytes: int) -> bytes:
        """The LASzip record for points with this many further extra bytes."""
        layout = self._layout
        there = layout.record_length - point_size(layout.point_format)
        record = require("lazrs", "io").LazVlr.new_for_compression(
            layout.point_format, there + num_bytes, False
        )
        return bytes(record.record_data())

    def _described_extra_bytes(self, source: BinaryIO) -> bytes:
        """Descriptors of all extra bytes that the file has; those without one get one."""
        content = b""
        for record in (*self._layout.vlrs, *self._layout.evlrs):
            if _describes_extra_bytes(record):
                source.seek(record.data_start)
                content += source.read(record.stop - record.data_start)
        described = sum(
            _described_size(content[start : start + 192]) for start in range(0, len(content), 192)
        )
        missing = self._layout.record_length - point_size(self._layout.point_format) - described
        for number, start in enumerate(range(0, missing, 255)):
            size = min(255, missing - start)
            content += struct.pack("<2xBB32s156x", 0, size, b"undocumented_%d" % number)
        return content

    def _copy_records(
        self,
        source: BinaryIO,
        write: Callable[[np.ndarray], Any],
        labels: Labels,
        extra: Sequence[Column],
    ) -> None:
        byte = 15 if self.highest_label == 31 else 16
        flags = np.uint8(0xE0 if self.highest_label == 31 else 0)
        places, length = [], self._layout.record_length
        for column in extra:
            offsets = self._dtype.fields
            if column.name in self.names:
                places.append(offsets[column.name][1])
            else:
                places.append(length)
                length += 4
        start = 0
        for old in self._records(source):
            stop = start + len(old)
            new = labels(start, stop)
            check_class_ids(new, self.highest_label)
            records = np.empty((len(old), length), np.uint8)
            records[:, : old.shape[1]] = old
            records[:, byte] = (records[:, byte] & flags) | new.astype(np.uint8)
            for place, column in zip(places, extra, strict=True):
                values = np.ascontiguousarray(column.values(start, stop), "<f4")
                records[:, place : place + 4] = values.view(np.uint8).reshape(-1, 4)
            write(records.reshape(-1))
            start = stop

    def _copy_extended_records(
        self, source: BinaryIO, target: BinaryIO, left_out: list[Record]
    ) -> None:
        """Appends everything after the points, and updates the header's pointers to it."""
        pointers = {}  # value of each pointer, by its byte in the header
        for place, since in ((227, 3), (235, 4)):  # waveform packets, extended records
            if self._layout.minor >= since:
                target.seek(place)
                (value,) = struct.unpack("<Q", target.read(8))
                if 0 < value < self._layout.size:
                    pointers[place] = value
        if not pointers:
            return
        old, new = min(pointers.values()), target.seek(0, os.SEEK_END)
        skipped = sorted((r.start, r.stop) for r in left_out if r.start >= old)
        position = old
        for start, stop in (*skipped, (self._layout.size, self._layout.size)):
            source.seek(position)
            copy_bytes(source, target, start - position)
            position = stop
        for place, value in pointers.items():
            gone = sum(stop - start for start, stop in skipped if start < value)
            target.seek(place)
            target.write(struct.pack("<Q", value - old + new - gone))

    def _records(self, file: BinaryIO) -> Iterator[np.ndarray]:
        """Yields the points as bytes ``(n, record length)``; ``file`` ends up after the points."""
        layout, chunk = self._layout, _chunked_file.CHUNK
        file.seek(layout.points_start)
        read: Callable[[np.ndarray], Any] = file.readinto  # type: ignore[attr-defined]
        if layout.laszip is not None and layout.num_points:
            with _damage_named(self.path):
                lazrs = require("lazrs", "io")
                # The parallel decompressor allocates whole chunks, whose size the table claims.
                small = layout.largest_chunk * layout.record_length <= _PARALLEL_LIMIT
                kind = lazrs.ParLasZipDecompressor if small else lazrs.LasZipDecompressor
                read = kind(file, layout.laszip).decompress_many
        for start in range(0, max(layout.num_points, 1), chunk):
            count = min(chunk, layout.num_points - start)
            records = np.empty((count, layout.record_length), np.uint8)
            if count:
                with _damage_named(self.path):
                    read(records.reshape(-1))
            yield records


def _describes_extra_bytes(record: Record) -> bool:
    return (record.user_id, record.record_id) == ("LASF_Spec", 4)


def _descriptor(column: Column) -> bytes:
    """The description of a float32 column of extra bytes (LAS 1.4, table 24)."""
    texts = column.name.encode(), column.description.encode()
    return struct.pack("<2xBB32s4x24x24x24x24x24x32s", 9, 0, *texts)


def _described_size(descriptor: bytes) -> int:
    """Number of bytes of a point that a descriptor describes."""
    kind, options = descriptor[2:4]
    if kind == 0:
        return options
    sizes = (1, 1, 2, 2, 4, 4, 8, 8, 4, 8)
    return sizes[(kind - 1) % 10] * (1 + (kind - 1) // 10)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turns any error of reading into a ValueError that names the file.

    The decompressor is written in Rust. On corrupt bytes it panics, which Python sees as a
    BaseException that is not an Exception.
    """
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # a signal
        raise damaged(path, error) from None


def write_laz(
    path: Path,
    points: np.ndarray,
    classification: np.ndarray,
    colors: np.ndarray | None,
    columns: Fields,
) -> None:
    """Writes a LAZ file.

    Args:
        path: File to write.
        points: ``(N, 3)`` float64.
        classification: ``(N,)``, 0 to 255.
        colors: ``(N, 3)`` uint16, of 16 bits; or None.
        columns: Further columns, ``(N,)``; those that LAS has no dimension for are extra bytes.
    """
    laspy = require("laspy", "io")
    require("lazrs", "io")
    header = laspy.LasHeader(point_format=6 if colors is None else 7, version="1.4")
    if len(points):
        header.offsets, header.scales = np.floor(points.min(0)), _las_scales(points)
    usual = set(header.point_format.dimension_names)
    for name, values in columns.items():
        if name not in usual:
            header.add_extra_dim(laspy.ExtraBytesParams(name, values.dtype))
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    las.classification = classification.astype(np.uint8)
    if colors is not None:
        las.red, las.green, las.blue = colors.T
    for name, values in columns.items():
        las[name] = values
    with path.open("wb") as target:
        las.write(target, do_compress=True)


def _las_scales(points: np.ndarray) -> np.ndarray:
    """The resolution of LAS coordinates per axis.

    It is 1e-4 units, or the smallest power of ten above for which the cloud fits into int32.
    """
    extent = points.max(0) - np.floor(points.min(0))
    return np.maximum(1e-4, 10.0 ** np.ceil(np.log10(np.maximum(extent, 1e-9) / 2**31)))
