"""Reads PCD files with ascii, binary or binary_compressed data.

Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kpdeform._optional import require
from kpdeform.data._numbers import cast_numbers, parse_numbers
from kpdeform.data.fields import Fields

_KINDS = {"F": "f", "I": "i", "U": "u"}
_SIZES = {"f": (4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
_HEADER_LIMIT = 1 << 20
_LARGEST_RATIO = 90  # largest ratio of LZF compression: three bytes expand to at most 264


def read_pcd(path: Path) -> Fields:
    """Returns one array ``(N,)`` per field; a packed colour ``rgb`` becomes red, green, blue.

    Raises:
        ValueError: The header is not understood, or the data do not agree with it.
        ImportError: Compressed points need the extra ``io``.
    """
    records, _ = _read_records(path)
    names = records.dtype.names or ()
    fields = {name: records[name] for name in names if not name.startswith("_")}
    return _unpack_colors(fields)


def write_pcd(source: Path, target: Path, columns: Fields) -> None:
    """Copies a file as binary PCD, with columns ``(N,)`` that are replaced or come last.

    Raises:
        ValueError: ``source`` cannot be read.
    """
    records, header = _read_records(source)
    added = {name: v for name, v in columns.items() if name not in (records.dtype.names or ())}
    kinds = [(name, records.dtype[name]) for name in records.dtype.names or ()]
    joined = np.empty(len(records), kinds + [(name, v.dtype) for name, v in added.items()])
    for name in records.dtype.names or ():
        joined[name] = records[name]
    for name, values in columns.items():
        joined[name] = values
    lines = {
        "VERSION": ["0.7"],
        "FIELDS": header["FIELDS"] + list(added),
        "SIZE": header["SIZE"] + [str(v.dtype.itemsize) for v in added.values()],
        "TYPE": header["TYPE"] + [v.dtype.kind.upper() for v in added.values()],
        "COUNT": header.get("COUNT", ["1"] * len(header["FIELDS"])) + ["1"] * len(added),
        "WIDTH": [str(len(records))],
        "HEIGHT": ["1"],
        "VIEWPOINT": header.get("VIEWPOINT", "0 0 0 1 0 0 0".split()),
        "POINTS": [str(len(records))],
        "DATA": ["binary"],
    }
    if "HEIGHT" in header and "WIDTH" in header:
        lines |= {name: header[name] for name in ("WIDTH", "HEIGHT")}
    text = "".join(f"{name} {' '.join(words)}\n" for name, words in lines.items())
    target.write_bytes(text.encode() + joined.tobytes())


def _read_records(path: Path) -> tuple[np.ndarray, dict[str, list[str]]]:
    """The points as a structured array, whose padding has names that begin with ``_``."""
    content = path.read_bytes()
    header, start = _read_header(content)
    dtype = _record_type(header)
    count = _count(header)
    encoding = header["DATA"][0].lower() if header["DATA"] else ""
    body = memoryview(content)[start:]
    if encoding == "ascii":
        records = _from_text(bytes(body).decode("latin-1"), dtype, count)
    elif encoding == "binary":
        _check_count(count, len(body) // dtype.itemsize)
        records = np.frombuffer(body, dtype, count)
    elif encoding == "binary_compressed":
        records = _from_columns(body, dtype, count)
    else:
        raise ValueError(f"unknown DATA {encoding!r}")
    return records, header


def _check_count(promised: int, found: int) -> None:
    if found < promised:
        raise ValueError(f"the header promises {promised} points, the file holds {found}")


def _read_header(content: bytes) -> tuple[dict[str, list[str]], int]:
    """The words of every header line by the first word, and the byte at which the data begin."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start, _HEADER_LIMIT)
        if end < 0:
            raise ValueError("the header has no DATA line")
        words = content[start:end].decode("utf-8-sig", "replace").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        start = end + 1
    if "COLUMNS" in header:  # the name of FIELDS in version 0.5
        header.setdefault("FIELDS", header["COLUMNS"])
    missing = {"FIELDS", "SIZE", "TYPE"} - set(header)
    if missing:
        raise ValueError(f"the header has no {', '.join(sorted(missing))}")
    return header, start


def _whole(header: dict[str, list[str]], key: str) -> list[int]:
    words = header[key]
    if not words or not all(word.isdecimal() and len(word) < 16 for word in words):
        raise ValueError(f"{key} {' '.join(words)[:60]!r} is not understood")
    return [int(word) for word in words]


def _count(header: dict[str, list[str]]) -> int:
    if "POINTS" in header:
        return _whole(header, "POINTS")[0]
    if "WIDTH" in header:
        return (
            _whole(header, "WIDTH")[0]
            * (_whole(header, "HEIGHT") if "HEIGHT" in header else [1])[0]
        )
    raise ValueError("the header has no POINTS and no WIDTH")


def _record_type(header: dict[str, list[str]]) -> np.dtype:
    """The NumPy type of a point; padding fields, all called ``_``, get different names."""
    names = [f"_{i}" if name == "_" else name for i, name in enumerate(header["FIELDS"])]
    sizes = _whole(header, "SIZE")
    counts = _whole(header, "COUNT") if "COUNT" in header else [1] * len(names)
    kinds = [_KINDS.get(kind.upper(), "") for kind in header["TYPE"]]
    if not len(names) == len(sizes) == len(counts) == len(kinds):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT are not equally long")
    if len(set(names)) < len(names):
        raise ValueError(f"two fields have one name: {names}")
    entries: list[tuple] = []
    for name, kind, size, count in zip(names, kinds, sizes, counts, strict=True):
        if size not in _SIZES.get(kind, ()) or count > 1 << 20:
            raise ValueError(f"field {name!r} of {count} values of {size} bytes is not understood")
        scalar = count == 1
        entries.append(
            (name, f"<{kind}{size}") if scalar else (f"_{name}", f"<{kind}{size}", (count,))
        )
    dtype = np.dtype(entries)
    if dtype.itemsize == 0:
        raise ValueError("its points have no fields")
    return dtype


def _from_text(text: str, dtype: np.dtype, count: int) -> np.ndarray:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    _check_count(count, len(lines))
    widths = [int(np.prod(dtype[name].shape)) for name in dtype.names or ()]
    table = parse_numbers(lines[:count], sum(widths))
    records, start = np.empty(count, dtype), 0
    for name, width in zip(dtype.names or (), widths, strict=True):
        columns = cast_numbers(table[:, start : start + width], dtype[name].base, name)
        records[name] = columns.reshape(records[name].shape)
        start += width
    return records


def _from_columns(body: Sequence[int] | memoryview, dtype: np.dtype, count: int) -> np.ndarray:
    """Reads compressed points, which are stored field by field instead of point by point."""
    if len(body) < 8:
        raise ValueError("it ends before its compressed points")
    packed, unpacked = struct.unpack_from("<II", body)
    if len(body) < 8 + packed:
        raise ValueError(f"{packed} bytes of compressed points promised, {len(body) - 8} there")
    _check_count(count, unpacked // dtype.itemsize)
    if unpacked > _LARGEST_RATIO * (packed + 1):
        raise ValueError(f"{packed} bytes of compressed points cannot hold {unpacked} bytes")
    raw = b""
    if unpacked:
        raw = require("lzf", "io").decompress(bytes(body[8 : 8 + packed]), unpacked)
    if raw is None or len(raw) != unpacked:
        raise ValueError(f"its compressed points are not the {unpacked} bytes that it promises")
    records, start = np.empty(count, dtype), 0
    for name in dtype.names or ():
        column = np.frombuffer(raw, dtype[name].base, records[name].size, start)
        records[name] = column.reshape(records[name].shape)
        start += column.nbytes
    return records


def _unpack_colors(fields: Fields) -> Fields:
    for name in ("rgb", "rgba"):
        if name in fields and fields[name].dtype.itemsize == 4:
            packed = np.ascontiguousarray(fields.pop(name)).view(np.uint32)
            for shift, color in ((16, "red"), (8, "green"), (0, "blue")):
                fields[color] = ((packed >> shift) & 255).astype(np.uint8)
    return fields
