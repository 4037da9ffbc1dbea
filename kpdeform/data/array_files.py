"""Reads NPY and NPZ files, whose sizes are checked before memory is allocated for them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from kpdeform.data.fields import COLORS, NORMALS, Fields, canonical_name
from kpdeform.data.text_files import check_columns, guess_names

_POINT_KEYS = ("points", "point", "xyz", "coord", "coords", "pos", "positions", "vertices", "data")
_GROUPS = {name: COLORS for name in ("rgb", "color", "colors", "colour", "colours")} | {
    name: NORMALS for name in ("normal", "normals")
}
_BOMB_BYTES, _BOMB_RATIO = 1 << 30, 200


def read_npy(path: Path, columns: Sequence[str] | None = None) -> Fields:
    """Reads an array of shape ``(N, columns)``, or a structured array.

    Raises:
        ValueError: The array has another shape, holds Python objects, or claims to be larger than
            its file.
    """
    with path.open("rb") as file:
        _check_header(file, path.stat().st_size)
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    if array.dtype.names:
        return _flat({name: array[name] for name in array.dtype.names})
    return _name_columns(path.name, array, columns)


def read_npz(path: Path, columns: Sequence[str] | None = None, points: str | None = None) -> Fields:
    """Reads an archive of arrays.

    x, y and z are the columns of the array ``points``. Without ``points``, they are the first
    columns of an array whose name is in ``_POINT_KEYS``, or else three arrays.

    Raises:
        ValueError: The archive has no coordinates or no array ``points``, holds Python objects, or
            an array claims to be larger than its file.
    """
    with zipfile.ZipFile(path) as archive:
        _check_members(path, archive)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if points is not None and points not in arrays:
        raise ValueError(f"it has no array {points!r}, there are {sorted(arrays)}")
    key = points or next((name for name in _POINT_KEYS if name in arrays), None)
    if key is None and columns is not None:
        raise ValueError(f"columns name those of one array of {_POINT_KEYS}, it has none of them")
    named = _name_columns(key, arrays.pop(key), columns) if key else {}
    fields = _flat(arrays) | named
    num_points = next((len(v) for name, v in fields.items() if canonical_name(name) == "x"), 0)
    # An array of another length describes the file as a whole and is left out. An array with a
    # known name, such as classification, is kept, so that its wrong length is reported.
    return {
        name: v
        for name, v in fields.items()
        if len(v) == num_points or canonical_name(name) != name or name in (*COLORS, *NORMALS)
    }


def _check_header(file, size: int) -> None:
    """Refuses an array that claims to be larger than its file, before memory is allocated."""
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"NPY version {version} is not known")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    promised, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or promised > there:
        raise ValueError(f"an array of shape {shape} takes {promised} bytes, {there} are there")


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > _BOMB_BYTES and total > _BOMB_RATIO * size:
        raise ValueError(f"it would unpack {size} bytes to {total}, which no point cloud does")
    for member in members:
        if member.filename.endswith(".npy"):
            with archive.open(member) as file:
                try:
                    _check_header(file, member.file_size)
                except ValueError as error:
                    raise ValueError(f"array {member.filename!r}: {error}") from error


def _name_columns(what: str, array: np.ndarray, columns: Sequence[str] | None) -> Fields:
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"{what!r} is an array of {array.dtype} of shape {array.shape} "
            "where numbers of shape (N, columns) are needed"
        )
    if columns is None:
        names = guess_names(array)
    else:
        names = check_columns(columns, array.shape[1])
    return dict(zip(names, array.T, strict=True))


def _flat(arrays: Fields) -> Fields:
    """Splits arrays of several columns; columns other than colours and normals are numbered."""
    fields: Fields = {}
    for name, values in arrays.items():
        if values.ndim == 1:
            fields[name] = values
        elif values.ndim == 2:
            numbered = tuple(f"{name}_{i}" for i in range(values.shape[1]))
            group = _GROUPS.get(name.lower(), numbered)
            columns = group if len(group) == values.shape[1] else numbered
            fields |= dict(zip(columns, values.T, strict=True))
    return fields
