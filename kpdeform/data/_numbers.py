"""Parses rows of numbers in PLY, PCD and plain text files."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

import numpy as np

_MISSING = {"", "na", "n/a", "null", "none", "-", "\\n", "#n/a", "nan(ind)", "-nan(ind)", "?"}


def parse_numbers(
    lines: Sequence[str],
    num_columns: int,
    delimiter: str | None = None,
    decimal_comma: bool = False,
    line_numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """Parses rows of ``num_columns`` numbers; empty cells become NaN.

    Args:
        lines: Rows, none of which is blank.
        num_columns: Number of values in each row.
        delimiter: Character between the values; None for blanks and tabs.
        decimal_comma: Whether the decimal separator is a comma.
        line_numbers: Line number of every row, for error messages.

    Returns:
        ``(len(lines), num_columns)`` float64.

    Raises:
        ValueError: A row has another number of values, or one is not a number.
    """
    if not lines or num_columns == 0:
        return np.empty((len(lines), num_columns))
    try:  # the fast parser of NumPy, which accepts regular rows only
        if any("_" in line for line in lines):
            raise ValueError("NumPy takes 1_0 for 10")
        plain = [line.replace(",", ".") for line in lines] if decimal_comma else lines
        table = np.loadtxt(plain, delimiter=delimiter, ndmin=2, comments=None)
        if table.shape == (len(lines), num_columns):
            return table
    except ValueError:
        pass
    table = np.empty((len(lines), num_columns))
    for row, line in enumerate(lines):
        where = "a row" if line_numbers is None else f"line {line_numbers[row]}"
        cells = split_line(line, delimiter)
        if len(cells) == num_columns + 1 and cells[-1] == "":
            cells.pop()  # a separator at the end
        if len(cells) != num_columns:
            raise ValueError(f"{where} has {len(cells)} values where {num_columns} belong")
        for column, cell in enumerate(cells):
            try:
                table[row, column] = to_number(cell, decimal_comma)
            except ValueError:
                raise ValueError(
                    f"{where}, column {column + 1}: {cell[:40]!r} is not a number{_hint(cell)}"
                ) from None
    return table


def split_line(line: str, delimiter: str | None) -> list[str]:
    """Splits a row into its values, and strips quotes and blanks around them."""
    if '"' in line:
        if delimiter is None:
            return [
                cell.strip()
                for cell in re.findall(r'"([^"]*)"|(\S+)', line)
                for cell in cell
                if cell
            ]
        line = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
        return [cell.strip(" \t'") for cell in line]
    return [cell.strip(" \t'") for cell in line.split(delimiter)]


def to_number(cell: str, decimal_comma: bool = False) -> float:
    """Parses a number as written by Python, Fortran (1.0D3) or MSVC (1.#QNAN).

    Empty cells and common marks of missing values become NaN.

    Raises:
        ValueError: The cell is not a number.
    """
    text = cell.lower()
    if text in _MISSING:
        return np.nan
    if decimal_comma and text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "#" in text:
        text = re.sub(r"^([+-]?)1\.#(inf|ind|qnan|snan|nan)0*$", _msvc, text)
    if "_" in text:
        raise ValueError(f"{cell!r} is not a number")
    return float(re.sub(r"(?<=[\d.])d(?=[+-]?\d)", "e", text))


def _msvc(match: re.Match[str]) -> str:
    return match[1] + ("inf" if match[2] == "inf" else "nan")


def _hint(cell: str) -> str:
    if re.fullmatch(r"[+-]?[\d.,']*\d", cell) and "," in cell:
        return "; write numbers with a decimal point and without thousands separators"
    return ""


def cast_numbers(column: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """Converts parsed numbers to the type in the file's header.

    Raises:
        ValueError: The type is an integer type and a value is no whole number or outside its range.
    """
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return column.astype(dtype)
    limits = np.iinfo(dtype)
    whole = column == np.rint(column)  # false for NaN
    if not (whole & (column >= limits.min) & (column <= limits.max)).all():
        raise ValueError(f"{name!r} has values that are not whole numbers within {dtype}")
    return column.astype(dtype)
