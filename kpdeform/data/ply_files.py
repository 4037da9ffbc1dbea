"""PLY files, text and binary, which are read in parts and copied with new classifications.

The points are the first element with properties x, y and z, whatever its name and position.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kpdeform._files import replacing
from kpdeform.data import _chunked_file
from kpdeform.data._chunked_file import (
    ChunkedFile,
    Column,
    Labels,
    check_class_ids,
    copy_bytes,
    no_room_for,
)
from kpdeform.data._numbers import cast_numbers, parse_numbers
from kpdeform.data.fields import Fields, canonical_name, damaged, plain_name

_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_BYTE_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_BOM = b"\xef\xbb\xbf"
_HEADER_LIMIT = 1 << 20


@dataclass(frozen=True)
class Property:
    """A property of an element.

    ``count_type`` is the type of a list's length, or None for a scalar; ``line`` is the index of
    the property's line in the header.
    """

    name: str
    type: str
    count_type: str | None
    line: int


@dataclass
class Element:
    """An element of the header: ``count`` rows, each with the same properties."""

    name: str
    count: int
    properties: list[Property]

    @property
    def scalars(self) -> list[str]:
        """Names of the properties that are not lists."""
        return [p.name for p in self.properties if p.count_type is None]


@dataclass(frozen=True)
class Rows:
    """Some rows of an element: their bytes, and a structured array of their scalar properties."""

    raw: bytes
    values: np.ndarray


class PlyFile(ChunkedFile):
    """A PLY file, text or binary of either byte order.

    :meth:`write` replaces the values of the property ``classification`` (in upper or lower case, or
    with the prefix ``scalar_``). If there is none, ``classification`` is added as the last property
    of the points. Properties such as ``label`` or ``sem_class`` are not changed, because they may
    be the ground truth.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            try:
                self._header = _read_header(file)
                self._data_start = file.tell()
                self._byte_order, elements = _parse_header(self._header)
                self._points = next(i for i, e in enumerate(elements) if _has_points(e))
            except StopIteration:
                names = [f"{e.name} {e.scalars}" for e in elements]
                raise damaged(path, f"no element with x, y, z among {names}") from None
            except ValueError as error:
                raise damaged(path, error) from error
        self._elements = elements
        element = elements[self._points]
        self.num_points, self.names = element.count, element.scalars
        self.label_name = next(
            (n for n in element.scalars if plain_name(n) == "classification"), None
        )
        kind = np.dtype("u1")
        if self.label_name is not None:
            kind = np.dtype(next(p.type for p in element.properties if p.name == self.label_name))
        self.highest_label = int(np.iinfo(kind).max) if kind.kind in "iu" else 2**24
        self._check_size()

    def parts(self, names: Iterable[str]) -> Iterator[Fields]:
        """See :meth:`ChunkedFile.parts`."""
        names = list(names)
        batch, size = [], 0
        with self.path.open("rb") as file:
            for rows in self._rows(file):
                batch.append(rows.values)
                size += len(rows.values)
                if size >= _chunked_file.CHUNK:
                    yield _columns(batch, names)
                    batch, size = [], 0
            if batch:
                yield _columns(batch, names)

    def write(self, path: Path, labels: Labels, extra: Sequence[Column] = ()) -> None:
        """See :meth:`ChunkedFile.write`; columns become properties of the points."""
        types = {p.name: p.type for p in self._elements[self._points].properties}
        for column in extra:
            if types.get(column.name, "f4") != "f4":
                raise no_room_for(self.path, column.name, types[column.name])
        label_name = self.label_name or "classification"
        added = {} if self.label_name else {label_name: "uchar"}
        added |= {column.name: "float" for column in extra if column.name not in types}
        header = list(self._header)
        place = self._elements[self._points].properties[-1].line + 1
        ending = header[place - 1][len(header[place - 1].rstrip()) :]
        header[place:place] = [
            f"property {kind} {name}".encode() + ending for name, kind in added.items()
        ]
        with replacing(path) as partial, partial.open("wb") as target:
            target.write(b"".join(header))
            with self.path.open("rb") as source:
                source.seek(self._data_start)
                self._skip_to_points(source)
                points_start = source.tell()
                source.seek(self._data_start)
                copy_bytes(source, target, points_start - self._data_start)
                start = 0
                for rows in self._rows(source):
                    stop = start + len(rows.values)
                    values = {label_name: labels(start, stop)}
                    check_class_ids(values[label_name], self.highest_label)
                    for column in extra:
                        values[column.name] = column.values(start, stop).astype(np.float32)
                    target.write(self._with_values(rows, values, list(added)))
                    start = stop
                shutil.copyfileobj(source, target)

    def _check_size(self) -> None:
        """Checks that the file has room for all rows of its elements, if their lists are empty."""
        room = self.path.stat().st_size - self._data_start
        for element in self._elements:
            smallest = 2 * len(element.properties) - 1  # one digit each, separated by blanks
            if self._byte_order:
                kinds = [p.count_type or p.type for p in element.properties]
                smallest = sum(np.dtype(kind).itemsize for kind in kinds)
            if element.count * smallest > room:
                raise damaged(
                    self.path,
                    f"{element.count} rows of {element.name!r} do not fit into {room} bytes",
                )
            room -= element.count * smallest

    def _skip_to_points(self, file: BinaryIO) -> None:
        for element in self._elements[: self._points]:
            for _ in self._element_rows(file, element):
                pass

    def _rows(self, file: BinaryIO) -> Iterator[Rows]:
        """Yields all points, at most ``CHUNK`` at a time; ``file`` ends up after the points."""
        try:
            file.seek(self._data_start)
            self._skip_to_points(file)
            yield from self._element_rows(file, self._elements[self._points])
        except ValueError as error:
            raise damaged(self.path, error) from error

    def _element_rows(self, file: BinaryIO, element: Element) -> Iterator[Rows]:
        if not self._byte_order:
            return _text_rows(file, element)
        if len(element.scalars) == len(element.properties):
            return _fixed_rows(file, element, self._byte_order)
        return _list_rows(file, element, self._byte_order)

    def _with_values(self, rows: Rows, values: Fields, added: list[str]) -> bytes:
        """The bytes of some points, with properties replaced and, last, ``added``."""
        if not self._byte_order:
            return self._text_with_values(rows.raw, values, added)
        count = len(rows.values)
        if count == 0:
            return b""
        changed = np.frombuffer(rows.raw, rows.values.dtype).copy()
        for name in values.keys() - {*added}:
            changed[name] = values[name]
        kinds = {name: "u1" if values[name].dtype.kind in "iu" else "f4" for name in added}
        kind = np.dtype(
            [("point", f"V{len(rows.raw) // count}")]
            + [(name, self._byte_order + kinds[name]) for name in added]
        )
        joined = np.empty(count, kind)
        joined["point"] = np.frombuffer(changed.tobytes(), kind["point"])
        for name in added:
            joined[name] = values[name]
        return joined.tobytes()

    def _text_with_values(self, raw: bytes, values: Fields, added: list[str]) -> bytes:
        lines, row = [], 0
        properties = self._elements[self._points].properties
        for line in io.BytesIO(raw):  # only \n ends a line, a \r within a row does not
            if not line.strip(_BOM + b" \t\r\n"):
                lines.append(line)
                continue
            words = list(re.finditer(rb"\S+", line))
            texts = {name: str(column[row].item()).encode() for name, column in values.items()}
            end = words[-1].end()
            line = line[:end] + b"".join(b" " + texts[name] for name in added) + line[end:]
            if replaced := values.keys() - {*added}:
                places = _places([word.group() for word in words], properties)
                for name in sorted(replaced, key=lambda name: -places[name]):  # the last one first
                    start, stop = words[places[name]].span()
                    line = line[:start] + texts[name] + line[stop:]
            lines.append(line)
            row += 1
        return b"".join(lines)


def _has_points(element: Element) -> bool:
    return {"x", "y", "z"} <= {canonical_name(name) for name in element.scalars}


def _read_header(file: BinaryIO) -> list[bytes]:
    lines = [file.readline(_HEADER_LIMIT)]
    if lines[0].removeprefix(_BOM).strip() != b"ply":
        raise ValueError("not a PLY file, it does not begin with 'ply'")
    while lines[-1].strip() != b"end_header":
        lines.append(file.readline(_HEADER_LIMIT))
        if not lines[-1] or file.tell() > _HEADER_LIMIT:
            raise ValueError("the header has no end")
    return lines


def _parse_header(lines: list[bytes]) -> tuple[str, list[Element]]:
    """The byte order, "<" or ">" or "" for text, and the elements."""
    order, elements = None, []
    for number, line in enumerate(lines[1:-1], 1):
        words = line.decode("latin-1").split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", kind, _] if kind in _BYTE_ORDERS:
                order = _BYTE_ORDERS[kind]
            case ["element", name, count] if count.isdecimal():
                elements.append(Element(name, int(count), []))
            case ["property", "list", count_type, kind, name] if elements and (
                _TYPES.get(count_type, "f")[0] in "iu" and kind in _TYPES
            ):
                item = Property(name, _TYPES[kind], _TYPES[count_type], number)
                elements[-1].properties.append(item)
            case ["property", kind, name] if elements and kind in _TYPES:
                elements[-1].properties.append(Property(name, _TYPES[kind], None, number))
            case _:
                text = " ".join(words)[:80]
                raise ValueError(f"PLY header not understood: line {number + 1}, {text!r}")
    if order is None:
        raise ValueError("PLY header not understood: it names no format")
    for element in elements:
        names = [p.name for p in element.properties]
        if not names and element.count:
            raise ValueError(f"element {element.name!r} has no properties")
        if len(set(names)) < len(names):
            raise ValueError(f"element {element.name!r} has two properties of one name: {names}")
    return order, elements


def _columns(batch: list[np.ndarray], names: list[str]) -> Fields:
    return {name: np.concatenate([part[name] for part in batch]) for name in names}


def _fixed_rows(file: BinaryIO, element: Element, order: str) -> Iterator[Rows]:
    """Reads binary rows without lists, which all have the same size."""
    dtype = np.dtype([(p.name, order + p.type) for p in element.properties])
    for start in range(0, max(element.count, 1), _chunked_file.CHUNK):
        count = min(_chunked_file.CHUNK, element.count - start)
        raw = file.read(count * dtype.itemsize)
        if len(raw) < count * dtype.itemsize:
            there = start + len(raw) // dtype.itemsize
            raise ValueError(f"{there} of {element.count} rows of {element.name!r} are there")
        yield Rows(raw, np.frombuffer(raw, dtype, count))


def _list_rows(file: BinaryIO, element: Element, order: str) -> Iterator[Rows]:
    """Reads binary rows with lists, in runs of rows whose lists have the same lengths."""
    ahead, start, last = 1, 0, None
    size = os.fstat(file.fileno()).st_size
    if element.count == 0:
        dtype = np.dtype([(p.name, p.type) for p in element.properties if p.count_type is None])
        yield Rows(b"", np.empty(0, dtype))
    while start < element.count:
        lengths = _lengths(file, element, order, size)
        ahead = min(2 * ahead, _chunked_file.CHUNK) if lengths == last else 1
        last = lengths
        dtype = _run_dtype(element, order, lengths)
        count = min(ahead, element.count - start, max(1, (1 << 24) // max(dtype.itemsize, 1)))
        place = file.tell()
        raw = file.read(count * dtype.itemsize)
        values = np.frombuffer(raw, dtype, len(raw) // max(dtype.itemsize, 1))
        same = np.ones(len(values), bool)
        for name, length in lengths.items():
            same &= values[f"number of {name}"] == length
        count = len(values) if same.all() else int(same.argmin())
        if count == 0:
            raise ValueError(f"{start} of {element.count} rows of {element.name!r} are there")
        file.seek(place + count * dtype.itemsize)
        yield Rows(raw[: count * dtype.itemsize], values[:count])
        start += count


def _lengths(file: BinaryIO, element: Element, order: str, file_size: int) -> dict[str, int]:
    """Lengths of the lists of the next row; the position of ``file`` does not change."""
    place, lengths = file.tell(), {}
    for item in element.properties:
        size = np.dtype(item.type).itemsize
        if item.count_type is not None:
            raw = file.read(np.dtype(item.count_type).itemsize)
            if not raw or len(raw) < np.dtype(item.count_type).itemsize:
                raise ValueError(f"it ends within an element {element.name!r}")
            (length,) = np.frombuffer(raw, order + item.count_type).tolist()
            if length < 0:
                raise ValueError(f"a list {item.name!r} has {length} entries")
            lengths[item.name] = length
            size *= length
        file.seek(size, 1)
    if file.tell() > file_size:
        raise ValueError(f"a row of {element.name!r} goes beyond the end of the file")
    file.seek(place)
    return lengths


def _run_dtype(element: Element, order: str, lengths: dict[str, int]) -> np.dtype:
    fields: list[tuple[str, str]] = []
    for item in element.properties:
        if item.count_type is None:
            fields.append((item.name, order + item.type))
        else:
            size = np.dtype(item.type).itemsize * lengths[item.name]
            fields.append((f"number of {item.name}", order + item.count_type))
            fields.append((f"entries of {item.name}", f"V{size}"))
    return np.dtype(fields)


def _text_rows(file: BinaryIO, element: Element) -> Iterator[Rows]:
    """Reads text rows; the bytes of a row include the blank lines before it."""
    dtype = np.dtype([(p.name, p.type) for p in element.properties if p.count_type is None])
    if element.count == 0:
        yield Rows(b"", np.empty(0, dtype))
    for start in range(0, element.count, _chunked_file.CHUNK):
        count = min(_chunked_file.CHUNK, element.count - start)
        lines, full = [], []
        while len(full) < count:
            line = file.readline()
            if not line:
                there = start + len(full)
                raise ValueError(f"{there} of {element.count} rows of {element.name!r} are there")
            lines.append(line)
            text = line.removeprefix(_BOM) if start == 0 and not full else line
            if text.strip():
                full.append(text)
        yield Rows(b"".join(lines), _parse_lines(full, element, dtype))


def _parse_lines(lines: list[bytes], element: Element, dtype: np.dtype) -> np.ndarray:
    texts = [line.decode("ascii", "replace") for line in lines]
    if len(element.scalars) < len(element.properties):
        rows = [text.split() for text in texts]
        places = [_places(row, element.properties) for row in rows]
        texts = [
            " ".join(row[at[name]] for name in element.scalars)
            for row, at in zip(rows, places, strict=True)
        ]
    table = parse_numbers(texts, len(element.scalars))
    values = np.empty(len(texts), dtype)
    for name, column in zip(element.scalars, table.T, strict=True):
        values[name] = cast_numbers(column, dtype[name], name)
    return values


def _places(words: list[Any], properties: list[Property]) -> dict[str, int]:
    """The position of each scalar property among the words of a row."""
    places, position = {}, 0
    for item in properties:
        if position >= len(words):
            raise ValueError(f"a row of {len(words)} values has none for {item.name!r}")
        if item.count_type is None:
            places[item.name] = position
            position += 1
        else:
            position += 1 + abs(int(words[position]))
    if position != len(words):
        raise ValueError(f"a row has {len(words)} values, its lists make it {position}")
    return places
