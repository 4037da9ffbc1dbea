"""Finds where the parts of a LAS or LAZ file lie, and checks them against the file's size.

Libraries that read LAS trust the counts and sizes in a header: if these are wrong, they allocate
huge arrays, loop for a long time or abort. This module checks all of them first.

Sources: LAS 1.4 R15, https://github.com/ASPRSorg/LAS; the LAZ specification of
https://github.com/LASzip/LASzip (sections on the LASzip VLR, the chunk table and layered chunks).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import BinaryIO

_HEADER_SIZES = {0: 227, 1: 227, 2: 227, 3: 235, 4: 375, 5: 393}  # by minor version
_POINT_SIZES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)  # by point format
_VARIABLE = 0xFFFFFFFF  # chunk size in a file whose chunk table has the number of points per chunk
# For LAZ items: bytes of a record, and number of layers of a chunk for the point formats 6 to 10.
_ITEM_SIZES = {6: 20, 7: 8, 8: 6, 9: 29, 10: 30, 11: 6, 12: 8, 13: 29}
_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}


@dataclass(frozen=True)
class Record:
    """A variable length record or extended one, which occupies bytes ``start`` to ``stop``."""

    user_id: str
    record_id: int
    start: int
    stop: int
    data_start: int


@dataclass(frozen=True)
class LasLayout:
    """The parts of a file.

    Attributes:
        size: Size of the file in bytes.
        header_size: Size of the header in bytes.
        minor: Minor version of LAS, 0 to 5.
        points_start: Byte at which the points begin.
        record_length: Size of a point in bytes, uncompressed.
        num_points: Number of points.
        point_format: Point format, 0 to 10.
        vlrs: Variable length records, which precede the points.
        evlrs: Extended variable length records, which follow the points.
        laszip: Content of the LASzip record, or None if the points are not compressed.
        largest_chunk: Number of points of the largest chunk, according to the chunk table.
    """

    size: int
    header_size: int
    minor: int
    points_start: int
    record_length: int
    num_points: int
    point_format: int
    vlrs: tuple[Record, ...]
    evlrs: tuple[Record, ...]
    laszip: bytes | None
    largest_chunk: int = 0


def point_size(point_format: int) -> int:
    """Size of a point in bytes, without extra bytes."""
    return _POINT_SIZES[point_format]


def read_layout(file: BinaryIO) -> LasLayout:
    """Reads the header and the headers of the records.

    Raises:
        ValueError: It is not a LAS file, or a number in it is impossible for a file of this size.
    """
    size = file.seek(0, 2)
    header = _read(file, 0, min(size, 393))
    if header[:4] != b"LASF":
        raise ValueError("it does not begin with 'LASF'")
    if len(header) < 227:
        raise ValueError("it ends within its header")
    major, minor = header[24:26]
    if major != 1 or minor not in _HEADER_SIZES:
        raise ValueError(f"LAS version {major}.{minor} is not known")
    header_size, points_start, num_vlrs, format_id, length, num_points = struct.unpack(
        "<HIIBHI", header[94:111]
    )
    if not _HEADER_SIZES[minor] <= header_size <= points_start <= size:
        raise ValueError(
            f"a header of {header_size} bytes and points from byte {points_start} on "
            f"do not fit into {size} bytes"
        )
    evlrs_start = num_evlrs = 0
    if minor >= 4:
        evlrs_start, num_evlrs, long_count = struct.unpack("<QIQ", header[235:255])
        num_points = long_count or num_points
    _check_positions(header)
    compressed, point_format = format_id >= 128, format_id & 63
    if point_format >= len(_POINT_SIZES) or length < _POINT_SIZES[point_format]:
        raise ValueError(f"points of format {format_id} with {length} bytes are not known")
    vlrs = _records(file, header_size, points_start, num_vlrs, "<2x16sHH32x")
    evlrs = _records(file, evlrs_start, size, num_evlrs, "<2x16sHQ32x") if num_evlrs else ()
    if not compressed:
        there = (size - points_start) // length
        if there < num_points:
            raise ValueError(f"the header promises {num_points} points, the file holds {there}")
        laszip = None
    else:
        laszip = _laszip(file, vlrs, length)
    layout = LasLayout(
        size,
        header_size,
        minor,
        points_start,
        length,
        num_points,
        point_format,
        vlrs,
        evlrs,
        laszip,
    )
    if laszip is not None and num_points:
        return replace(layout, largest_chunk=_check_chunks(file, layout, laszip))
    return layout


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    file.seek(start)
    data = file.read(count)
    if len(data) < count:
        raise ValueError(f"it ends {count - len(data)} bytes too early")
    return data


def _check_positions(header: bytes) -> None:
    scales = struct.unpack("<3d", header[131:155])
    offsets = struct.unpack("<3d", header[155:179])
    if not all(0 < abs(scale) < 1e9 for scale in scales) or not all(
        abs(offset) < 1e18 for offset in offsets
    ):
        raise ValueError(f"scales {scales} and offsets {offsets} give no coordinates")


def _records(file: BinaryIO, start: int, stop: int, count: int, layout: str) -> tuple[Record, ...]:
    size = struct.calcsize(layout)
    if start + count * size > stop:
        raise ValueError(f"{count} variable length records do not fit into {stop - start} bytes")
    records = []
    for _ in range(count):
        user, record_id, length = struct.unpack(layout, _read(file, start, size))
        end = start + size + length
        if end > stop:
            raise ValueError(f"a variable length record of {length} bytes goes beyond its place")
        name = user.split(b"\0")[0].decode("latin-1")
        records.append(Record(name, record_id, start, end, start + size))
        start = end
    return tuple(records)


def _laszip(file: BinaryIO, vlrs: tuple[Record, ...], length: int) -> bytes:
    record = next((r for r in vlrs if (r.user_id, r.record_id) == ("laszip encoded", 22204)), None)
    if record is None:
        raise ValueError("its points are compressed, but there is no LASzip record")
    content = _read(file, record.data_start, record.stop - record.data_start)
    if len(content) < 34 or len(content) < 34 + 6 * _items(content)[0]:
        raise ValueError("its LASzip record is too short")
    (compressor,) = struct.unpack("<H", content[:2])
    if compressor not in (2, 3):
        raise ValueError(f"LASzip compressor {compressor} is not known")
    (chunk_size,) = struct.unpack("<I", content[12:16])
    sizes = [size for _, size, _ in _items(content)[1]]
    known = all(_ITEM_SIZES.get(kind, size) == size for kind, size, _ in _items(content)[1])
    if not known or sum(sizes) != length or chunk_size == 0:
        raise ValueError(f"its LASzip record describes points of {sum(sizes)} bytes, not {length}")
    return content


def _items(laszip: bytes) -> tuple[int, list[tuple[int, int, int]]]:
    """The number of items in a LASzip record, and the type, size and version of each item."""
    (count,) = struct.unpack("<H", laszip[32:34])
    return count, list(struct.iter_unpack("<HHH", laszip[34 : 34 + 6 * (min(count, 1000))]))


def _check_chunks(file: BinaryIO, layout: LasLayout, laszip: bytes) -> int:
    """Checks the chunk table against the file, and the layers of every chunk against its length.

    Returns:
        Number of points of the largest chunk, according to the table.
    """
    from kpdeform._optional import require

    lazrs = require("lazrs", "io")
    start = layout.points_start + 8
    (table,) = struct.unpack("<q", _read(file, layout.points_start, 8))
    if table == -1:  # a streaming writer puts the table's position into the last bytes of the file
        (table,) = struct.unpack("<q", _read(file, layout.size - 8, 8))
    if not start <= table <= layout.size - 8:
        raise ValueError(f"the chunk table should be at byte {table} of {layout.size}")
    version, num_chunks = struct.unpack("<II", _read(file, table, 8))
    (chunk_size,) = struct.unpack("<I", laszip[12:16])
    if version != 0 or (num_chunks - 1) * layout.record_length > table - start:
        raise ValueError(f"{num_chunks} chunks do not fit into {table - start} bytes of points")
    if chunk_size != _VARIABLE and num_chunks < -(-layout.num_points // chunk_size):
        raise ValueError(
            f"{num_chunks} chunks of {chunk_size} points where {layout.num_points} are promised"
        )
    file.seek(layout.points_start)
    chunks = lazrs.read_chunk_table(file, lazrs.LazVlr(laszip))
    if sum(length for _, length in chunks) != table - start:
        raise ValueError("the chunks of the chunk table do not add up to the file's points")
    items = _items(laszip)[1]
    layers = [_LAYERS.get(kind, size if kind == 14 else 0) for kind, size, _ in items]
    layered = all(layers)
    num_points = 0
    for count, length in chunks:
        if count == length == 0:  # some writers end with an empty chunk
            continue
        if length < layout.record_length:
            raise ValueError(f"a chunk of {length} bytes is shorter than a point")
        if layered:
            count = _check_layers(file, start, length, layout.record_length, sum(layers))
        num_points += count
        start += length
    if num_points < layout.num_points:
        raise ValueError(
            f"the header promises {layout.num_points} points, the chunks hold {num_points}"
        )
    return max(count for count, _ in chunks)


def _check_layers(file: BinaryIO, start: int, length: int, point: int, layers: int) -> int:
    """Checks a chunk of the point formats 6 to 10 and returns its number of points.

    Such a chunk consists of one raw point, the number of points, the length of every layer, and the
    layers.
    """
    head = point + 4 + 4 * layers
    if length < head:
        raise ValueError(f"a chunk of {length} bytes has no room for {layers} layers")
    count, *sizes = struct.unpack(f"<{1 + layers}I", _read(file, start + point, 4 + 4 * layers))
    if head + sum(sizes) != length:
        raise ValueError(f"the layers of a chunk take {head + sum(sizes)} bytes, not {length}")
    return count
