"""The meaning of the columns of point cloud files, the same for every format.

This module has the list of column names that occur in files, the rule for the range of colours and
the rule for labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

Fields = dict[str, np.ndarray]

COLORS = ("red", "green", "blue")
NORMALS = ("nx", "ny", "nz")

# Column names that occur in files, in the form that plain_name gives them: without case,
# punctuation, units in brackets and the prefix "scalar_" of CloudCompare. If a file has several
# names of one row of this table, the one that comes first in the row is taken.
_ALIASES = {
    "x": ("x", "xm", "xcoord", "xcoordinate", "coordx", "pointx", "easting", "east", "rechtswert"),
    "y": ("y", "ym", "ycoord", "ycoordinate", "coordy", "pointy", "northing", "north", "hochwert"),
    "z": (
        *("z", "zm", "zcoord", "zcoordinate", "coordz", "pointz"),
        *("elevation", "elev", "altitude", "height"),
    ),
    "red": ("red", "r", "diffusered", "colorred", "colourred"),
    "green": ("green", "g", "diffusegreen", "colorgreen", "colourgreen"),
    "blue": ("blue", "b", "diffuseblue", "colorblue", "colourblue"),
    "intensity": ("intensity", "i", "reflectance", "remission"),
    "nx": ("nx", "normalx"),
    "ny": ("ny", "normaly"),
    "nz": ("nz", "normalz"),
    "classification": (
        *("classification", "class", "label", "labels"),
        *("semclass", "semantic", "semanticlabel", "classid", "classlabel"),
    ),
}
_RANK = {
    alias: (name, rank) for name, aliases in _ALIASES.items() for rank, alias in enumerate(aliases)
}
UNLABELLED = -1


def damaged(path: str | Path, error: object) -> ValueError:
    """The error for a file that cannot be read."""
    return ValueError(
        f"{path}: cannot be read ({error}); if it is truncated or corrupt, copy or download it "
        "again, otherwise convert it to LAS, PLY or text with a header line"
    )


def plain_name(name: str) -> str:
    """A name in lower case, without punctuation, a unit in brackets and a leading ``scalar_``.

    Example:
        >>> plain_name("scalar_Sem-Class"), plain_name("X [m]")
        ('semclass', 'x')
    """
    name = re.sub(r"\s*[\[(][^\])]*[\])]\s*$", "", name) or name
    return re.sub("[^a-z0-9]", "", name.lower().removeprefix("scalar_"))


def canonical_name(name: str) -> str:
    """The name that kpdeform uses for a column; an unknown column keeps its name."""
    return _RANK.get(plain_name(name), (name, 0))[0]


def usual_names(names: Iterable[str]) -> dict[str, str]:
    """Maps the column names of a file to the names that kpdeform uses.

    If several columns would get one name, it goes to the column that has exactly this name already,
    or else to the column whose name comes first in the list of aliases. The other columns keep
    their names.

    Example:
        >>> usual_names(["X", "scalar_Intensity", "weight", "label", "Classification"])
        {'X': 'x', 'scalar_Intensity': 'intensity', 'weight': 'weight', 'label': 'label',
         'Classification': 'classification'}
    """
    names = list(names)
    claims: dict[str, list[tuple[int, int, str]]] = {}
    for position, name in enumerate(names):
        if plain_name(name) in _RANK:
            usual, rank = _RANK[plain_name(name)]
            claims.setdefault(usual, []).append((-1 if name == usual else rank, position, name))
    winners = {min(claimants)[2]: usual for usual, claimants in claims.items()}
    return {name: winners.get(name, name) for name in names}


class ColorRange:
    """Infers the full-scale value of colours, 1, 255 or 65535, from all their values.

    A range is rejected if more than a tenth of the nonzero values exceed it. A few outliers
    therefore do not change the result, and points without a colour (0) do not count. The range up
    to 1 is considered for floating-point values only.

    Example:
        >>> colors = ColorRange()
        >>> colors.add(np.array([12, 250, 256, 90, 31, 8, 77, 140, 201, 64, 5], np.uint16))
        >>> colors.top()
        255.0
    """

    def __init__(self) -> None:
        self._nonzero = self._above_1 = self._above_255 = 0
        self._floats = False
        self._bytes = True

    def add(self, values: np.ndarray) -> None:
        """Adds the values of a channel, or of a part of it, to the statistics."""
        self._floats |= values.dtype.kind == "f"
        self._bytes &= values.dtype == np.uint8
        if self._bytes:
            return
        self._nonzero += int((values > 0).sum())
        self._above_1 += int((values > 1).sum())
        self._above_255 += int((values > 255).sum())

    def top(self) -> float:
        """The full-scale value: 1, 255 or 65535."""
        if not self._bytes and 10 * self._above_255 > self._nonzero:
            return 65535.0
        if self._floats and 10 * self._above_1 <= self._nonzero:
            return 1.0
        return 255.0


def colors_to_bytes(colors: Fields) -> Fields:
    """Converts colour channels, which share one range, to uint8.

    A channel with NaN becomes float32 from 0 to 255 instead, because uint8 has no NaN.
    """
    if all(values.dtype == np.uint8 for values in colors.values()):
        return colors
    color_range = ColorRange()
    for values in colors.values():
        color_range.add(values)
    factor = 255 / color_range.top()
    scaled = {name: np.clip(values * factor, 0, 255) for name, values in colors.items()}
    return {
        name: values.astype(np.float32)
        if np.isnan(values).any()
        else np.rint(values).astype(np.uint8)
        for name, values in scaled.items()
    }


def to_labels(values: np.ndarray, name: str = "classification") -> np.ndarray:
    """Labels as int64; NaN, which means "no label", becomes ``UNLABELLED`` (-1).

    Raises:
        ValueError: A value is infinite or not a whole number.
    """
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    missing = np.isnan(values)
    rounded = np.rint(np.where(missing, UNLABELLED, values))
    with np.errstate(invalid="ignore"):  # infinity - infinity is NaN
        whole = (np.abs(values) < 2**53) & (np.abs(values - rounded) < 1e-3)
    wrong = ~missing & ~whole
    if wrong.any():
        raise ValueError(
            f"{name}: {int(wrong.sum())} of {len(values)} labels are no whole numbers, such as "
            f"{values[wrong][0]:g}; is this the column of the labels?"
        )
    return rounded.astype(np.int64)
