"""Coordinate reference systems of LAS files: their names and the units of their axes.

A LAS file describes its system as well-known text (WKT 1 or 2) or as GeoTIFF keys. Name and units
are read from either; no projection is computed.

Sources: LAS 1.4 R15, section "Georeferencing"; OGC 01-009 and 18-010 (WKT); OGC GeoTIFF 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from kpdeform._optional import require

_TOKEN = re.compile(r'"(?:[^"]|"")*"|[A-Za-z_][\w]*|[-+]?[\d.]+(?:[eE][-+]?\d+)?|[\[\](),]')
_NAMED = (
    *("COMPD_CS", "COMPOUNDCRS", "PROJCS", "PROJCRS", "PROJECTEDCRS"),
    *("GEOGCS", "GEOGCRS", "GEODCRS", "GEODETICCRS", "LOCAL_CS", "ENGCRS"),
)
_PROJECTED = ("PROJCS", "PROJCRS", "PROJECTEDCRS", "LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")
_GEOGRAPHIC = ("GEOGCS", "GEOGCRS", "GEODCRS", "GEODETICCRS", "GEOGRAPHICCRS")
_VERTICAL = ("VERT_CS", "VERTCRS", "VERTICALCRS")
_UNITS = {1.0: "metre", 0.3048: "foot", 1200 / 3937: "US survey foot"}
_GEOTIFF_UNITS = {9001: 1.0, 9002: 0.3048, 9003: 1200 / 3937}


class CoordinateSystem(NamedTuple):
    """The coordinate reference system of a file.

    Attributes:
        name: Its name or code, such as ``"RGF93 / Lambert-93"``.
        unit: Unit of x and y: "metre", "foot", "US survey foot", "degree" or the file's word for
            another one; empty if the file does not say.
        metres: Length of this unit in metres; None for degrees and where the file does not say.
        vertical_metres: Length of the unit of z in metres, or None where the file does not say.
    """

    name: str
    unit: str = ""
    metres: float | None = None
    vertical_metres: float | None = None


def coordinate_system(path: str | Path) -> CoordinateSystem | None:
    """Reads the coordinate system of a LAS or LAZ file.

    Returns:
        The system, or None if the file has another format or does not name one.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if path.suffix.lower() not in (".las", ".laz"):
        return None
    try:
        with path.open("rb") as file:
            header = require("laspy", "io").LasHeader.read_from(file, read_evlrs=True)
    except (ImportError, OSError):
        raise
    except Exception:  # a damaged record; the points may be readable all the same
        return None
    records = [r for r in (*header.vlrs, *(header.evlrs or ())) if r.user_id == "LASF_Projection"]
    keys = {r.record_id: r for r in records}
    text = getattr(keys.get(2112), "string", "").strip("\0 \n")
    if text and (found := _from_wkt(text)):
        return found
    return _from_geotiff(keys)


def unlike_unit(path: str | Path, unit: str, scale: float) -> str | None:
    """Compares the unit of a file's coordinate system with the one that its points are to have.

    Args:
        path: The file.
        unit: Unit that the points are to have after scaling; only "metre" is compared.
        scale: Factor that turns the coordinates into this unit.

    Returns:
        What differs, with the cure; None if nothing does, or if the file does not name its unit.

    Raises:
        FileNotFoundError: There is no such file.
    """
    system = coordinate_system(path)
    if system is None or unit != "metre":
        return None
    if system.unit == "degree":
        return "x and y are in degrees; project the file to metres"
    if system.metres is None or abs(scale / system.metres - 1) < 1e-3:
        return None
    word = system.unit or f"length of {system.metres:g} m"
    return (
        f"the unit of its coordinate system is the {word}, and its "
        f"coordinates are multiplied with {scale:g}; for metres give --scale {system.metres:.6g}"
    )


def _from_wkt(text: str) -> CoordinateSystem | None:
    """The system that a well-known text describes; None if it is none."""
    root = _tree(text)
    named = _first(root, _NAMED)
    if named is None:
        return None
    projected, vertical = _first(root, _PROJECTED), _first(root, _VERTICAL)
    name = _name(named)
    height = None if vertical is None else _unit(vertical)
    if projected is None:
        return CoordinateSystem(name, "degree", None, height and height[1])
    unit = _unit(projected)
    if unit is None:
        return CoordinateSystem(name)
    word, metres = unit
    return CoordinateSystem(name, word, metres, height[1] if height else None)


def _tree(text: str) -> list[Any]:
    """Nested lists: ``PROJCS["a", UNIT["metre", 1]]`` is ``["PROJCS", ['"a"', "UNIT", [...]]]``."""
    root: list[Any] = []
    stack = [root]
    for token in _TOKEN.findall(text):
        if token in "[(":
            stack.append([])
            stack[-2].append(stack[-1])
        elif token in "])":
            if len(stack) > 1:
                stack.pop()
        elif token != ",":
            stack[-1].append(token)
    return root


def _nodes(tree: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Every keyword with its content, from the outside to the inside."""
    waiting = [tree]
    while waiting:
        content = waiting.pop(0)
        for keyword, inside in pairwise(content):
            if isinstance(keyword, str) and isinstance(inside, list):
                yield keyword.upper(), inside
                waiting.append(inside)


def _first(tree: list[Any], keywords: tuple[str, ...]) -> list[Any] | None:
    return next((inside for keyword, inside in _nodes(tree) if keyword in keywords), None)


def _name(content: list[Any]) -> str:
    return content[0].strip('"') if content and isinstance(content[0], str) else ""


def _unit(system: list[Any]) -> tuple[str, float] | None:
    """Name and length in metres of a system's own unit, or of that of its axes."""
    for keyword, inside in _nodes(system):  # the nearest unit is found first
        if keyword in ("UNIT", "LENGTHUNIT") and len(inside) > 1:
            try:
                metres = float(inside[1])
            except (TypeError, ValueError):
                continue
            return _word(metres) or _name(inside), metres
    return None


def _word(metres: float) -> str:
    return next((word for size, word in _UNITS.items() if abs(size - metres) < 1e-8), "")


def _from_geotiff(records: dict[int, Any]) -> CoordinateSystem | None:
    """The system that GeoTIFF keys describe; None if they name none."""
    found = getattr(records.get(34735), "geo_keys", ())
    keys = {key.id: key.value_offset for key in found if key.tiff_tag_location == 0}
    texts = {key.id: key for key in found if key.tiff_tag_location == 34737}
    ascii_ = "".join(getattr(records.get(34737), "strings", ()) or ())
    code = keys.get(3072) or keys.get(2048)
    name = f"EPSG:{code}" if code and code != 32767 else ""
    for key in (3073, 1026):  # citations
        if not name and key in texts:
            start = texts[key].value_offset
            name = ascii_[start : start + texts[key].count].strip("|\0 ")
    if not name:
        return None
    height = _GEOTIFF_UNITS.get(keys.get(4099))
    if keys.get(1024) == 2:
        return CoordinateSystem(name, "degree", None, height)
    metres = _GEOTIFF_UNITS.get(keys.get(3076))
    return CoordinateSystem(name, _word(metres) if metres else "", metres, height)
