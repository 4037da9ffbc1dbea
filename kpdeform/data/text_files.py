"""Reads text files of points, with any separator and with or without names of the columns.

Column names are taken from the last line above the numbers that has one word for every column. A
comment line is used only if it names x, y and z. Without names, only columns that can be identified
with certainty are named, see :func:`guess_names`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from kpdeform.data._numbers import parse_numbers, split_line, to_number
from kpdeform.data.fields import COLORS, NORMALS, Fields, canonical_name

_BLOCK = 100_000  # lines parsed at a time
_HEAD = 200  # number of rows from which the separator is inferred
_SEPARATORS = (";", "\t", "|", ",")
_BOMS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_DECIMAL = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_CURE = (
    "the comma may be the decimal point or the separator: write numbers with a decimal point, or "
    "separate them by semicolons, or name the columns"
)


@dataclass(frozen=True)
class Layout:
    """The format of the rows of a file.

    Attributes:
        delimiter: Character between the values; None for blanks.
        decimal_comma: Whether the decimal separator is a comma.
        names: Names of the columns, or empty.
        num_columns: Number of values of a row.
        titles: The lines above the numbers. They may occur again further down, if several files
            were concatenated.
    """

    delimiter: str | None
    decimal_comma: bool
    names: Sequence[str]
    num_columns: int
    titles: frozenset[str] = frozenset()


def read_text(path: Path, columns: Sequence[str] | None = None) -> Fields:
    """Reads a text file.

    Args:
        path: The file.
        columns: Names of the columns, which replace names in the file.

    Returns:
        One float64 array ``(N,)`` per column, by name.

    Raises:
        ValueError: The file has no rows of numbers, or a row differs in form from the others.
    """
    with path.open(encoding=_encoding(path), errors="replace") as file:
        layout = _find_layout(file, columns)
        file.seek(0)
        tables = list(_tables(file, layout))
    table = np.concatenate(tables) if tables else np.empty((0, layout.num_columns))
    names = layout.names or guess_names(table, is_pts=path.suffix.lower() == ".pts")
    return dict(zip(names, table.T, strict=True))


def has_numbers(path: Path) -> bool:
    """Whether a text file has a line with at least three numbers."""
    with path.open(encoding="latin-1") as file:
        return any(sum(map(_is_number, _cells(line))) >= 3 for line in file)


def copy_text(source: Path, target: Path, columns: Fields) -> None:
    """Copies a text file with columns ``(N,)`` that are replaced or come last.

    All lines stay as they are, but for these values. The last title line with a name per column
    gets the names of new columns; without one, the columns have no names.

    Raises:
        ValueError: ``source`` cannot be read.
    """
    encoding = _encoding(source)
    with (
        source.open(encoding=encoding, errors="replace", newline="") as file,
        target.open("w", encoding=encoding, newline="") as out,
    ):
        layout = _find_layout(file, None)
        file.seek(0)
        names = list(layout.names)
        added = [name for name in columns if name not in names]
        places = {name: names.index(name) for name in columns if name in names}
        rows = zip(*(values.tolist() for values in columns.values()), strict=True)
        separator = layout.delimiter or " "
        started = False
        for line in file:
            ((_, text, comment),) = list(_rows([line])) or ((0, "", True),)
            ending = line[len(line.rstrip("\r\n")) :]
            is_row = not comment and text not in layout.titles and (started or _is_row(text))
            if is_row and not _is_count(text):
                started = True
                values = dict(zip(columns, map(str, next(rows)), strict=True))
                if layout.decimal_comma:
                    values = {name: value.replace(".", ",") for name, value in values.items()}
                row, remark = re.fullmatch(r"(.*?)(\s+(?:#|//).*)?", line.rstrip("\r\n")).groups()
                row = _with_cells(_without_end(row, layout), layout.delimiter, places, values)
                line = row + "".join(separator + values[name] for name in added)
                line += (remark or "") + ending
            elif names and _split_names(text, layout.delimiter) == names:
                title = _without_end(line.rstrip("\r\n"), layout)
                line = title + "".join(separator + name for name in added) + ending
            out.write(line)


def _without_end(line: str, layout: Layout) -> str:
    """A line without a separator at its end that belongs to no column."""
    end = layout.delimiter
    if end is None:
        return line.rstrip()
    surplus = len(split_line(line, end)) > layout.num_columns
    return line.rstrip().removesuffix(end) if surplus else line


def _with_cells(
    line: str, delimiter: str | None, places: dict[str, int], values: dict[str, str]
) -> str:
    """A row with the cells at ``places`` replaced."""
    if not places:
        return line
    cells = split_line(line, delimiter)
    for name, place in places.items():
        cells[place] = values[name]
    return (delimiter or " ").join(cells)


def guess_names(table: np.ndarray, is_pts: bool = False) -> list[str]:
    """Names the columns of a table without names, as far as they can be identified.

    The first three columns are x, y and z. The next three are normals if they are unit vectors. If
    there are exactly six columns, the last three are colours if they are whole numbers from 0 to
    255 (or 65535) and no channel has a much smaller maximum than the others. In a .pts file, four
    columns are x y z intensity and seven are x y z intensity red green blue, as that format
    specifies. All other columns are called column_4, column_5 and so on, because an intensity, a
    label and a number of returns cannot be told apart.

    Args:
        table: Values ``(N, columns)``.
        is_pts: Whether the table is from a .pts file.

    Raises:
        ValueError: There are fewer than three columns.
    """
    num_columns = table.shape[1]
    if num_columns < 3:
        raise ValueError(f"{num_columns} columns, at least x y z are needed")
    names = ["x", "y", "z"]
    if is_pts and num_columns in (4, 7):
        names += ["intensity", *COLORS][: num_columns - 3]
    elif num_columns >= 6 and _are_normals(table[:, 3:6]):
        names += NORMALS
    elif num_columns == 6 and _are_colors(table[:, 3:]):
        names += COLORS
    return names + [f"column_{i + 1}" for i in range(len(names), num_columns)]


def check_columns(columns: Sequence[str], num_columns: int) -> list[str]:
    """Checks the names that a caller gives to the columns of a table, and returns them.

    Raises:
        ValueError: There is not one name per column, or a name occurs twice.
    """
    if len(columns) != num_columns:
        raise ValueError(
            f"{len(columns)} columns are named ({' '.join(columns)}), the file has {num_columns}"
        )
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column is named twice: {' '.join(columns)}")
    return list(columns)


def _are_normals(table: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(table, axis=1)
    return len(table) > 0 and bool(np.mean(np.abs(lengths - 1) < 0.01) > 0.9)


def _are_colors(table: np.ndarray) -> bool:
    if not len(table) or not np.array_equal(table, np.rint(table)):
        return False
    tops = table.max(0)
    return bool(table.min() >= 0 and tops.max() <= 65535 and 4 * tops.min() >= tops.max() > 1)


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    marked = next((name for bom, name in _BOMS.items() if start.startswith(bom)), None)
    if marked is None and b"\0" in start:
        raise ValueError("it is no text: it holds bytes 0 (UTF-16 needs its byte order mark)")
    return marked or "latin-1"


def _rows(file: Iterable[str]) -> Iterator[tuple[int, str, bool]]:
    """Yields every line that is not blank: its number, its text, and whether it is a comment."""
    for number, line in enumerate(file, 1):
        text = line.strip(" \t\r\n\f\v\x1a\ufeff")
        if text[:3] == "\u00ef\u00bb\u00bf":  # a byte order mark read as Latin-1
            text = text[3:]
        if text.startswith(("#", "//")):
            yield number, text.lstrip("#/ \t\ufeff"), True
            continue
        if "#" in text or "//" in text:
            text = re.sub(r"\s(#|//).*$", "", text).rstrip()
        if text:  # a tab at the start or end of a line separates an empty value, so it is kept
            yield number, line.strip("\r\n\ufeff") if "\t" in line else text, False


def _find_layout(file: TextIO, columns: Sequence[str] | None) -> Layout:
    titles: list[tuple[str, bool]] = []
    rows: list[str] = []
    for _, text, comment in _rows(file):
        is_row = not comment and _is_row(text)
        if is_row and not _is_count(text):
            rows.append(text)
        elif not is_row and not rows:
            titles.append((text, comment))
        elif not is_row and not comment:
            break  # a malformed row, which is reported with its line number when it is parsed
        if len(rows) == _HEAD or len(titles) > _HEAD:
            break
    if any(text.lower().startswith("ncols") for text, _ in titles):
        raise ValueError("it is an ESRI ASCII grid, which is a raster and no point cloud")
    if not rows:
        return _empty_layout(titles, columns)
    headers = [columns] if columns is not None else [_cells(text) for text, _ in titles]
    delimiter, decimal_comma, num_columns = _find_delimiter(rows, set(map(len, headers)))
    if delimiter == "," and not decimal_comma:
        _check_decimal(titles, rows, num_columns, columns)
    if columns is not None:
        names = check_columns(columns, num_columns)
    else:
        names = _find_names(titles, delimiter, num_columns)
    if num_columns < 3:
        raise ValueError(f"{num_columns} columns, at least x y z are needed")
    known = frozenset(text for text, _ in titles)
    return Layout(delimiter, decimal_comma, names, num_columns, known)


def _empty_layout(titles: list[tuple[str, bool]], columns: Sequence[str] | None) -> Layout:
    """The layout of a file that has a header but no points, which is an empty cloud."""
    for text, comment in reversed(titles):
        for delimiter in (*_SEPARATORS, None):
            names = _split_names(text, delimiter)
            if {"x", "y", "z"} <= {canonical_name(name) for name in names}:
                return Layout(delimiter, False, columns or names, len(columns or names))
        if not comment:
            break
    raise ValueError("it holds no row of numbers")


def _cells(text: str) -> list[str]:
    return [cell for cell in re.split(r"[;\t|,\s\"']+", text) if cell]


def _is_row(text: str) -> bool:
    """Whether a line is a row of numbers, possibly with a mistake, and not a title."""
    cells = _cells(text)
    return 2 * sum(map(_is_number, cells)) > len(cells)


def _is_number(cell: str) -> bool:
    try:
        to_number(cell)
    except ValueError:
        return False
    return True


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _find_delimiter(rows: list[str], named: set[int]) -> tuple[str | None, bool, int]:
    """Infers the delimiter, whether the decimal separator is a comma, and the number of columns.

    If all rows end with a separator, an empty last column is assumed only if there is a name for
    it. ``named`` has the possible numbers of names.
    """
    for delimiter in (";", "\t", "|"):
        if all(delimiter in row.strip() for row in rows) and not (
            delimiter == "\t" and _tabs_are_blanks(rows)
        ):
            break
    else:
        delimiter = "," if all("," in row for row in rows) else None
        words = [row.replace('"', " ").split() for row in rows]
        if delimiter == "," and all(len(row) >= 3 for row in words):
            bare = [word for row in words for word in row]
            if all(_DECIMAL.fullmatch(word) or "," not in word for word in bare):
                delimiter = None  # decimal commas and blanks, such as "1,5 2,5 3,5"
            elif all(_DECIMAL.fullmatch(word.rstrip(",")) for word in bare):
                raise ValueError(f"rows such as {rows[0][:60]!r}: {_CURE} (decimal comma)")
    cells = [split_line(row, delimiter) for row in rows]
    shortest = min(len(row) for row in cells)
    at_end = all(row[-1] == "" for row in cells)
    num_columns = shortest - 1 if at_end and shortest not in named else len(cells[0])
    if all(row[-1] == "" for row in cells if len(row) > shortest):
        num_columns = min(num_columns, shortest)  # a separator at the end of some rows
    flat = [cell for row in cells for cell in row if "," in cell]
    if wrong := next((c for c in flat if "." in c or c.count(",") > 1), None):
        raise ValueError(
            f"{wrong!r} has several marks: write numbers with a decimal point and without "
            "thousands separators"
        )
    return delimiter, bool(flat), num_columns


def _tabs_are_blanks(rows: list[str]) -> bool:
    """Whether tabs only align the values: several in a row, or mixed with blanks."""
    cells = [cell.strip(" ") for row in rows for cell in row.strip().split("\t")]
    return len({len(row.split()) for row in rows}) == 1 and any(
        cell == "" or " " in cell for cell in cells
    )


def _check_decimal(
    titles: list[tuple[str, bool]],
    rows: list[str],
    num_columns: int,
    columns: Sequence[str] | None,
) -> None:
    """Refuses rows such as 1,05,2,10,3,50, whose commas may be separators or decimal commas."""
    headers = [_split_names(text, ",") for text, comment in titles if not comment]
    counts = {len(names) for names in (headers if columns is None else [columns])}
    if num_columns in counts:
        return
    halves = not counts and num_columns >= 6 and not any("." in row for row in rows)
    if num_columns % 2 == 0 and (halves or num_columns // 2 in counts):
        raise ValueError(f"rows such as {rows[0][:60]!r}: {_CURE} (decimal comma)")


def _split_names(text: str, delimiter: str | None) -> list[str]:
    """Splits a header line into names; a unit in brackets belongs to the name before it."""
    if delimiter is None:
        short = re.sub(r"\s*[\[(][^\])]*[\])]", "", text)
        names = split_line(short, None)
        return names if len(set(names)) == len(names) else split_line(text, None)
    names = split_line(text.strip("\r\n"), delimiter)
    while names and names[-1] == "":
        names.pop()
    return names


def _find_names(
    titles: list[tuple[str, bool]], delimiter: str | None, num_columns: int
) -> list[str]:
    """Column names from the last title line that fits, or an empty list if no line does.

    Raises:
        ValueError: A line names x, y and z, but does not have one name per column.
    """
    misfit = None
    for text, comment in reversed(titles):
        for separator in dict.fromkeys((delimiter, *_SEPARATORS, None)):
            names = _split_names(text, separator)
            known = {"x", "y", "z"} <= {canonical_name(name) for name in names}
            if len(names) == num_columns and (known or not comment):
                if len(set(names)) < len(names):
                    raise ValueError(f"two columns have one name: {names}")
                return [name or f"column_{i + 1}" for i, name in enumerate(names)]
            if known and misfit is None:
                misfit = names
    if misfit is not None:
        raise ValueError(f"the header names {len(misfit)} columns, rows have {num_columns} values")
    return []


def _tables(file: TextIO, layout: Layout) -> Iterator[np.ndarray]:
    """Yields the numbers one block of lines at a time, and checks the counts in a .pts file."""
    promised, found, started = None, 0, False

    def lines() -> Iterator[tuple[int, str]]:
        nonlocal promised, found, started
        for number, text, comment in _rows(file):
            if comment or text in layout.titles or (not started and not _is_row(text)):
                continue
            if _is_count(text):
                _check_count(promised, found)
                promised, found = int(text), 0
            else:
                started, found = True, found + 1
                yield number, text

    coordinates = [i for i, name in enumerate(layout.names) if canonical_name(name) in set("xyz")]
    rows = lines()
    while block := list(islice(rows, _BLOCK)):
        table = parse_numbers(
            [text for _, text in block],
            layout.num_columns,
            layout.delimiter,
            layout.decimal_comma,
            [number for number, _ in block],
        )
        _check_gaps(table, block, coordinates or [0, 1, 2], layout)
        yield table
    _check_count(promised, found)


def _check_count(promised: int | None, found: int) -> None:
    if promised is not None and promised != found:
        raise ValueError(f"a line promises {promised} points, the file holds {found}")


def _check_gaps(
    table: np.ndarray, block: list[tuple[int, str]], coordinates: list[int], layout: Layout
) -> None:
    """Refuses rows with an empty value for a coordinate; a coordinate written as NaN is allowed."""
    for row in np.flatnonzero(np.isnan(table[:, coordinates]).any(1)):
        number, text = block[row]
        cells = split_line(text, layout.delimiter)
        if any(cells[column] == "" for column in coordinates):
            raise ValueError(f"line {number} has no value for one of its coordinates")
