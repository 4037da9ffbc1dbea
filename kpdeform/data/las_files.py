"""LAS and LAZ files, which are read in parts and copied with new classifications."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpdeform._optional import require
from kpdeform.data import _chunked_file
from kpdeform.data._chunked_file import (
    ChunkedFile,
    Labels,
    check_class_ids,
    copy_bytes,
    replacing,
)
from kpdeform.data._las_layout import Record, read_layout
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
        self.num_points = layout.num_points
        # Point formats 0 to 5 store the classification in 5 bits, the others in 8.
        self.highest_label = 31 if layout.point_format < 6 else 255
        own = [n for n in self._format.dimension_names if n not in ("X", "Y", "Z")]
        widths = {name: self._format.dimension_by_name(name).num_elements for name in own}
        self._arrays = {
            (name if width == 1 else f"{name}_{i}"): (name, i if width > 1 else None)
            for name, width in widths.items()
            for i in range(width)
        }
        self.names = [*"xyz", *self._arrays]

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

    def write(self, path: Path, labels: Labels) -> None:
        """See :meth:`ChunkedFile.write`; a COPC file becomes a plain LAZ file."""
        with (
            replacing(path) as partial,
            self.path.open("rb") as source,
            partial.open("w+b") as target,
        ):
            left_out = [r for r in (*self._layout.vlrs, *self._layout.evlrs) if r.user_id == "copc"]
            laszip = self._copy_head(source, target, left_out)
            if laszip is None:
                self._copy_records(source, target.write, labels)
                shutil.copyfileobj(source, target)
            else:
                lazrs = require("lazrs", "io")
                compressor = lazrs.LasZipCompressor(target, lazrs.LazVlr(laszip))
                self._copy_records(source, compressor.compress_many, labels)
                compressor.done()
                self._copy_extended_records(source, target, left_out)

    def _copy_head(
        self, source: BinaryIO, target: BinaryIO, left_out: list[Record]
    ) -> bytes | None:
        """Copies everything before the points, and returns the LASzip record of the copy."""
        layout, laszip = self._layout, self._layout.laszip
        source.seek(0)
        head = bytearray(source.read(layout.points_start))
        if laszip is not None and laszip[12:16] == b"\xff" * 4:  # chunks of variable length
            place = head.index(laszip)
            laszip = laszip[:12] + struct.pack("<I", _PLAIN_CHUNK) + laszip[16:]
            head[place : place + len(laszip)] = laszip
        if left_out:
            vlrs = [r for r in layout.vlrs if r in left_out]
            num_evlrs = sum(r not in left_out for r in layout.evlrs)
            for record in reversed(vlrs):
                del head[record.start : record.stop]
            struct.pack_into("<II", head, 96, len(head), len(layout.vlrs) - len(vlrs))
            struct.pack_into("<I", head, 243, num_evlrs)
            if num_evlrs == 0:
                struct.pack_into("<Q", head, 235, 0)
        target.write(head)
        return laszip

    def _copy_records(
        self, source: BinaryIO, write: Callable[[np.ndarray], Any], labels: Labels
    ) -> None:
        byte = 15 if self.highest_label == 31 else 16
        flags = np.uint8(0xE0 if self.highest_label == 31 else 0)
        start = 0
        for records in self._records(source):
            new = labels(start, start + len(records))
            check_class_ids(new, self.highest_label)
            records[:, byte] = (records[:, byte] & flags) | new.astype(np.uint8)
            write(records.reshape(-1))
            start += len(records)

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
