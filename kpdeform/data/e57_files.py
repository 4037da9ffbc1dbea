"""Reads E57 files: all scans of a file, each transformed by its pose, become one cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kpdeform._optional import require
from kpdeform.data.fields import Fields

# Points read at a time. Memory is allocated for points that were read, not for the number in the
# header, which may be wrong.
_BLOCK = 1_000_000
_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_OTHERS = {
    "intensity": ("intensity", "f"),
    "colorRed": ("red", "H"),
    "colorGreen": ("green", "H"),
    "colorBlue": ("blue", "H"),
}


def read_e57(path: Path) -> Fields:
    """Reads x, y, z and, if every scan has them, intensity and colours.

    Points that are marked invalid are left out. An intensity that is marked invalid becomes NaN.

    Raises:
        ValueError: The file is corrupt, or a scan has no coordinates.
        ImportError: The extra ``e57`` is not installed.
    """
    e57 = require("pye57", "e57").E57(str(path))
    try:
        scans = [_read_scan(e57, index) for index in range(e57.scan_count)]
    finally:
        e57.close()
    if not scans:
        raise ValueError("it holds no scan")
    names = [name for name in scans[0] if all(name in scan for scan in scans)]
    return {name: np.concatenate([scan[name] for scan in scans]) for name in names}


def _read_scan(e57: Any, index: int) -> Fields:
    header = e57.get_header(index)
    there = set(header.point_fields)
    axes = next((a for a in (_CARTESIAN, _SPHERICAL) if set(a) <= there), None)
    if axes is None:
        raise ValueError(f"scan {index} has no coordinates among {sorted(there)}")
    kind = "cartesian" if axes is _CARTESIAN else "spherical"
    types = dict.fromkeys(axes, "d")
    types |= {name: kind for name, (_, kind) in _OTHERS.items() if name in there}
    flags = (f"{kind}InvalidState", "isIntensityInvalid")
    types |= {name: "B" for name in flags if name in there}
    raw = _read_fields(e57, header, types)
    keep = np.ones(len(raw[axes[0]]), bool)
    if flags[0] in raw:
        keep = raw[flags[0]] == 0
    if flags[1] in raw and "intensity" in raw:
        raw["intensity"][raw[flags[1]] != 0] = np.nan
    points = np.stack([raw[axis][keep] for axis in axes], 1)
    if kind == "spherical":
        distance, azimuth, elevation = points.T
        flat = distance * np.cos(elevation)
        points = np.stack(
            [flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], 1
        )
    if header.has_pose():
        points = points @ _rotation(header.rotation).T + np.asarray(header.translation)
    fields = dict(zip("xyz", points.T, strict=True))
    return fields | {own: raw[n][keep] for n, (own, _) in _OTHERS.items() if n in raw}


def _read_fields(e57: Any, header: Any, types: dict[str, str]) -> Fields:
    lib = require("pye57.libe57", "e57")
    block = max(1, min(_BLOCK, header.point_count))
    arrays = {name: np.empty(block, kind) for name, kind in types.items()}
    buffers = lib.VectorSourceDestBuffer()
    for name, array in arrays.items():
        buffers.append(lib.SourceDestBuffer(e57.image_file, name, array, block, True, True))
    reader = header.points.reader(buffers)
    parts: dict[str, list[np.ndarray]] = {
        name: [array[:0].copy()] for name, array in arrays.items()
    }
    found = 0
    while count := reader.read():
        found += count
        for name, array in arrays.items():
            parts[name].append(array[:count].copy())
    reader.close()
    if found != header.point_count:
        raise ValueError(f"the header promises {header.point_count} points, a scan holds {found}")
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix ``(3, 3)`` of a quaternion w, x, y, z."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
