"""Reads point cloud files of many formats into one form, by the names in their headers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kpdeform._optional import require
from kpdeform.data._pcd import read_pcd

Fields = dict[str, np.ndarray]

# Names in the wild, without case, punctuation and the "scalar_" that CloudCompare puts before them.
_ALIASES = {
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "red": ("red", "r", "diffusered"),
    "green": ("green", "g", "diffusegreen"),
    "blue": ("blue", "b", "diffuseblue"),
    "intensity": ("intensity", "i", "reflectance", "remission"),
    "nx": ("nx", "normalx"),
    "ny": ("ny", "normaly"),
    "nz": ("nz", "normalz"),
    "classification": ("classification", "class", "label", "labels", "semclass", "semantic"),
}
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
COLORS = ("red", "green", "blue")
_NORMALS = ("nx", "ny", "nz")


@dataclass
class Cloud:
    """A point cloud as its file has it.

    Attributes:
        points: ``(N, 3)`` float64 world coordinates.
        attributes: ``(N,)`` arrays by name. ``red``, ``green``, ``blue`` are uint8, ``intensity``,
            ``nx``, ``ny``, ``nz`` float32, ``classification`` int64; others keep name and dtype.
    """

    points: np.ndarray
    attributes: Fields = field(default_factory=dict)

    def stack(self, *names: str) -> np.ndarray:
        """Returns the attributes with these names as the columns of one array.

        Raises:
            ValueError: One of them is not there.
        """
        missing = [name for name in names if name not in self.attributes]
        if missing:
            raise ValueError(f"no attribute {missing}, there are {sorted(self.attributes)}")
        return np.stack([self.attributes[name] for name in names], axis=1)


def read_cloud(path: str | Path) -> Cloud:
    r"""Reads a point cloud, whatever its format.

    Every format is read by the names in its header. Text and arrays without names are taken as
    x y z, then normals (three columns of length 1), or intensity (4 or 7 columns) and colours
    (whole numbers, or 0 to 1). Colours of 16 bits or floats from 0 to 1 become uint8.

    Args:
        path: ``.las .laz .ply .pcd .npz .npy .txt .csv .xyz .pts .asc``.

    Returns:
        All points of the file in its order, NaN ones too.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The format is unknown, or the file is truncated, corrupt or has no coordinates.
        ImportError: LAS, LAZ and PLY need the extra ``io``.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> _ = path.write_text("x,y,z,Intensity\n1,2,3,9\n4,5,6,8\n")
        >>> read_cloud(path).attributes["intensity"]
        array([9., 8.], dtype=float32)
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown format; these are read: {' '.join(_READERS)}")
    try:
        return _make_cloud(reader(path))
    except (ImportError, MemoryError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # every library has exceptions of its own
        raise ValueError(
            f"{path}: cannot be read ({error}); if it is truncated or corrupt, copy or download it "
            "again, otherwise convert it to LAS, PLY or text with a header line"
        ) from error


def _make_cloud(fields: Fields) -> Cloud:
    names = usual_names(fields)
    fields = {names[name]: values for name, values in fields.items()}
    missing = [name for name in "xyz" if name not in fields]
    if missing:
        raise ValueError(f"no column {', '.join(missing)} among {sorted(fields)}")
    points = np.stack([np.asarray(fields.pop(name), np.float64) for name in "xyz"], axis=1)
    for name, values in fields.items():
        if len(values) != len(points):
            raise ValueError(f"{len(points)} points but {len(values)} values of {name}")
    attributes = {name: np.ascontiguousarray(values) for name, values in fields.items()}
    attributes.update(_colors_to_bytes({c: fields[c] for c in COLORS if c in fields}))
    for name in ("intensity", *_NORMALS):
        if name in attributes:
            attributes[name] = attributes[name].astype(np.float32)
    if "classification" in attributes:
        attributes["classification"] = _to_labels(attributes["classification"])
    return Cloud(points, attributes)


def usual_names(names: Iterable[str]) -> dict[str, str]:
    """Names that kpdeform gives to the columns of a file, by the file's own names.

    Where several claim one name, the column of exactly this name gets it, else the first one; the
    others keep theirs.

    Example:
        >>> usual_names(["X", "scalar_Intensity", "weight"])
        {'X': 'x', 'scalar_Intensity': 'intensity', 'weight': 'weight'}
    """
    names = list(names)
    taken = set(names)
    usual = {}
    for name in names:
        canonical = _canonical_name(name)
        usual[name] = name if canonical in taken else canonical
        taken.add(canonical)
    return usual


def _canonical_name(name: str) -> str:
    plain = re.sub("[^a-z0-9]", "", name.lower().removeprefix("scalar_"))
    return _CANONICAL.get(plain, name)


def _colors_to_bytes(colors: Fields) -> Fields:
    """The channels share one range: 8 bits, 16 bits, or floats from 0 to 1."""
    if all(values.dtype == np.uint8 for values in colors.values()):
        return colors
    top = max((float(values.max(initial=0)) for values in colors.values()), default=0.0)
    floats = any(values.dtype.kind == "f" for values in colors.values())
    factor = 255 / color_range(top, floats)
    return {name: np.rint(values * factor).astype(np.uint8) for name, values in colors.items()}


def color_range(top: float, floats: bool) -> float:
    """What colours count up to: their largest value tells 8 bits, 16 bits and 0 to 1 apart.

    Args:
        top: Largest value of all three channels.
        floats: Whether one of them is stored as floating point.
    """
    return 1.0 if floats and top <= 1 else 255.0 if top <= 255 else 65535.0


def _to_labels(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("the classification holds NaN or infinite values")
    return np.rint(values).astype(np.int64)


def _read_las(path: Path) -> Fields:
    laspy = require("laspy", "io")
    if path.suffix.lower() == ".laz":
        require("lazrs", "io")
    try:
        las = laspy.read(path)
    except BaseException as error:
        # The decompressor is Rust; its panics on corrupt bytes are no Exception.
        if type(error).__name__ == "PanicException":
            raise ValueError(f"corrupt compressed points: {error}") from None
        raise
    if len(las.points) != las.header.point_count:
        raise ValueError(
            f"the header promises {las.header.point_count} points, the file holds {len(las.points)}"
        )
    fields = {name: np.asarray(las[name]) for name in "xyz"}
    names = [name for name in las.point_format.dimension_names if name not in ("X", "Y", "Z")]
    return fields | _flat({name: np.asarray(las[name]) for name in names})


def _read_ply(path: Path) -> Fields:
    plyfile = require("plyfile", "io")
    ply = plyfile.PlyData.read(str(path))
    for element in ply.elements:
        scalars = [p.name for p in element.properties if not hasattr(p, "len_dtype")]
        if {"x", "y", "z"} <= {name.lower() for name in scalars}:
            return {name: np.array(element[name]) for name in scalars}
    raise ValueError(f"no element with x, y, z among {[e.name for e in ply.elements]}")


def _read_text(path: Path) -> Fields:
    names, delimiter, first_row, count = _sniff(path)
    table = np.loadtxt(
        path,
        delimiter=delimiter,
        skiprows=first_row,
        comments=("#", "//"),
        ndmin=2,
        encoding="latin-1",
    )
    if count is not None and count != len(table):
        raise ValueError(f"the first line promises {count} points, the file holds {len(table)}")
    return _name_columns(table, names)


def _sniff(path: Path) -> tuple[list[str], str | None, int, int | None]:
    """Finds column names, delimiter, the first row of numbers and, on top of .pts, their count."""
    names: list[str] = []
    count = None
    with open(path, encoding="latin-1") as file:
        for row, line in enumerate(file):
            text = line.strip()
            comment = text.startswith(("#", "//"))
            text = text.lstrip("#/ \t\ufeff").removeprefix("\u00ef\u00bb\u00bf")  # byte order marks
            delimiter = next((mark for mark in ",;" if mark in text), None)
            words = [word.strip(" \t\"'") for word in text.split(delimiter)]
            if words == [""]:
                continue
            if comment or not all(map(_is_number, words)):
                names = words
            elif len(words) == 1 and count is None and words[0].isdigit():
                count = int(words[0])
            else:
                return names, delimiter, row, count
    raise ValueError("it holds no row of numbers")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _name_columns(table: np.ndarray, names: list[str]) -> Fields:
    num_columns = table.shape[1]
    if num_columns < 3:
        raise ValueError(f"{num_columns} columns, at least x y z are needed")
    if len(names) != num_columns:
        names = ["x", "y", "z", *_guess_names(table[:, 3:])]
    return dict(zip(names, table.T, strict=True))


def _guess_names(table: np.ndarray) -> list[str]:
    """Names what follows x y z in a table without a header."""
    num_columns = table.shape[1]
    names: list[str] = []
    if num_columns >= 3 and len(table) and _are_normals(table[:, :3]):
        names = list(_NORMALS)
    else:
        names = ["intensity"] if num_columns in (1, 4) else []
        colors = table[:, len(names) : len(names) + 3]
        names += COLORS if colors.shape[1] == 3 and _are_colors(colors) else ()
    return names + [f"column_{i}" for i in range(4 + len(names), 4 + num_columns)]


def _are_normals(table: np.ndarray) -> bool:
    return bool(np.mean(np.abs(np.linalg.norm(table, axis=1) - 1) < 0.01) > 0.9)


def _are_colors(table: np.ndarray) -> bool:
    top = table.max(initial=0)
    whole = np.array_equal(table, np.rint(table)) and top <= 65535
    return bool(table.min(initial=0) >= 0 and (whole or top <= 1))


def _read_npy(path: Path) -> Fields:
    array = np.load(path, allow_pickle=False)
    if array.dtype.names:
        return _flat({name: array[name] for name in array.dtype.names})
    if array.ndim != 2:
        raise ValueError(f"an array of shape {array.shape} where (N, columns) is needed")
    return _name_columns(array, [])


def _read_npz(path: Path) -> Fields:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    key = next((name for name in _POINT_KEYS if name in arrays), None)
    named = _name_columns(arrays.pop(key), []) if key else {}
    fields = named | _flat(arrays)
    num_points = next((len(v) for name, v in fields.items() if _canonical_name(name) == "x"), 0)
    # Arrays of another length are about the file as a whole, unless their name says otherwise.
    return {
        name: v
        for name, v in fields.items()
        if len(v) == num_points or _canonical_name(name) in _ALIASES
    }


_POINT_KEYS = ("points", "point", "xyz", "coord", "coords", "pos", "positions", "vertices", "data")
_GROUPS = {name: COLORS for name in ("rgb", "color", "colors", "colour", "colours")} | {
    name: _NORMALS for name in ("normal", "normals")
}


def _flat(arrays: Fields) -> Fields:
    """Splits arrays of several columns: colours and normals by name, the rest numbered."""
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


_READERS: dict[str, Callable[[Path], Fields]] = {
    **dict.fromkeys((".las", ".laz"), _read_las),
    ".ply": _read_ply,
    ".pcd": read_pcd,
    ".npz": _read_npz,
    ".npy": _read_npy,
    **dict.fromkeys((".txt", ".csv", ".xyz", ".pts", ".asc"), _read_text),
}
