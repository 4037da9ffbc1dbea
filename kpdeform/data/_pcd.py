"""A reader of PCD files: ascii, binary and binary_compressed, every field by its name."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np

_KINDS = {"F": "f", "I": "i", "U": "u"}


def read_pcd(path: Path) -> dict[str, np.ndarray]:
    """Returns one array per field; the packed colour ``rgb`` comes as red, green, blue.

    Raises:
        ValueError: The header is not understood or the data end too early.

    Source: https://pointclouds.org/documentation/tutorials/pcd_file_format.html
    """
    content = path.read_bytes()
    header, body = _split_header(content)
    dtype = _record_type(header)
    count = int(header["POINTS"][0])
    encoding = header["DATA"][0]
    if encoding == "ascii":
        records = np.loadtxt(io.BytesIO(body), dtype=dtype, ndmin=1) if count else _empty(dtype)
    elif encoding == "binary":
        records = np.frombuffer(body, dtype, count)
    elif encoding == "binary_compressed":
        records = _columns(body, dtype, count)
    else:
        raise ValueError(f"unknown DATA {encoding}")
    if len(records) != count:
        raise ValueError(f"the header promises {count} points, the file holds {len(records)}")
    fields = {name: records[name] for name in dtype.names if not name.startswith("_")}
    return _unpack_colors(fields)


def _empty(dtype: np.dtype) -> np.ndarray:
    return np.empty(0, dtype)


def _split_header(content: bytes) -> tuple[dict[str, list[str]], bytes]:
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = content.find(b"\n", start)
        if end < 0:
            raise ValueError("the header has no DATA line")
        words = content[start:end].decode("ascii", "replace").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        start = end + 1
    missing = {"FIELDS", "SIZE", "TYPE", "POINTS"} - set(header)
    if missing:
        raise ValueError(f"the header has no {', '.join(sorted(missing))}")
    return header, content[start:]


def _record_type(header: dict[str, list[str]]) -> np.dtype:
    """Padding fields, all called ``_``, get names of their own."""
    names = [f"_{i}" if name == "_" else name for i, name in enumerate(header["FIELDS"])]
    counts = [int(c) for c in header.get("COUNT", ["1"] * len(names))]
    formats = [
        f"<{_KINDS[kind]}{size}" for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)
    ]
    entries = zip(names, formats, counts, strict=True)
    return np.dtype([(n, f) if c == 1 else (f"_{n}", f, (c,)) for n, f, c in entries])


def _columns(body: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """The compressed form stores field after field."""
    packed, unpacked = struct.unpack_from("<II", body)
    if len(body) < 8 + packed:
        raise ValueError(f"{packed} bytes of compressed points promised, {len(body) - 8} there")
    raw = _lzf(memoryview(body)[8 : 8 + packed], unpacked)
    records, start = np.empty(count, dtype), 0
    for name in dtype.names:
        column = np.frombuffer(raw, dtype[name].base, records[name].size, start)
        records[name] = column.reshape(records[name].shape)
        start += column.nbytes
    return records


def _lzf(data: memoryview, size: int) -> bytes:
    """LZF: a control byte below 32 starts a run of literals, any other a copy of earlier output."""
    out, i = bytearray(), 0
    while i < len(data):
        control = data[i]
        i += 1
        if control < 32:
            out += data[i : i + control + 1]
            i += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[i]
            i += 1
        start = len(out) - ((control & 31) << 8) - data[i] - 1
        i += 1
        length += 2
        chunk = out[start : start + length]
        while len(chunk) < length:  # the copy may overlap what it writes
            chunk += chunk[: length - len(chunk)]
        out += chunk
    if len(out) != size:
        raise ValueError(f"decompressed to {len(out)} bytes instead of {size}")
    return bytes(out)


def _unpack_colors(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for name in ("rgb", "rgba"):
        if name in fields and fields[name].dtype.itemsize == 4:
            packed = np.ascontiguousarray(fields.pop(name)).view(np.uint32)
            for shift, color in ((16, "red"), (8, "green"), (0, "blue")):
                fields[color] = ((packed >> shift) & 255).astype(np.uint8)
    return fields
