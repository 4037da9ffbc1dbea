"""Checks of values that come from a configuration, a JSON file or the command line.

Every check takes the place of the value, ``where``, such as ``"c.yaml: scale"``, and returns the
value converted to its type. Anything else raises a ValueError whose message is one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
# Longest name of a folder, in bytes. File systems allow 255; the rest is for temporary suffixes.
LONGEST_NAME = 200


def refuse(where: str, expected: str, value: object) -> ValueError:
    """The error for a ``value`` at ``where`` that is not what is ``expected``."""
    text = repr(value)
    shown = text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"
    return ValueError(f"{where}: must be {expected}, got {shown}")


def text(where: str, value: object, empty: bool = False) -> str:
    """A line of text; a number is converted to text."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not (isinstance(value, str) and value.isprintable() and (empty or value.strip())):
        raise refuse(where, "a line of text", value)
    return value


def names(where: str, value: object) -> tuple[str, ...]:
    """A list of different names; a single name is taken as a list of one."""
    values = sequence(where, [value] if isinstance(value, str) else value)
    found = tuple(text(where, name) for name in values)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} is there twice")
    return found


def folder_name(where: str, value: object) -> str:
    """A name that one folder can have: not a path, not hidden, printable and not too long."""
    if not (
        isinstance(value, str)
        and value.isprintable()
        and value.strip()
        and len(value.encode()) <= LONGEST_NAME
        and not value.startswith(".")
        and not set(value) & set("/\\")
    ):
        raise refuse(
            where,
            "usable as the name of a folder (no / or \\, no dot in front, at most "
            f"{LONGEST_NAME} bytes)",
            value,
        )
    return value


def sequence(where: str, value: object) -> Sequence[Any]:
    """A list."""
    if not isinstance(value, (list, tuple, range)):
        raise refuse(where, "a list", value)
    return value


def mapping(where: str, value: object, example: str) -> Mapping[str, Any]:
    """A mapping; the error message shows ``example``."""
    if not isinstance(value, Mapping):
        raise refuse(where, f"a mapping such as {example}", value)
    return value


def whole(where: str, value: object) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise refuse(where, "a whole number", value)
    return int(value)


def wholes(where: str, value: object) -> list[int]:
    """A list of whole numbers; a single number is taken as a list of one."""
    values = value if isinstance(value, (list, tuple, range)) else [value]
    if not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
        raise refuse(where, "a whole number or a list of them, such as 2 or [3, 4]", value)
    return [int(v) for v in values]


def number(where: str, value: object) -> float:
    """A finite number. Text is accepted as well, because YAML reads 1e-3 as text."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise refuse(where, "a number", value) from None
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not math.isfinite(value):  # type: ignore[arg-type]
        raise refuse(where, "a finite number", value)
    return float(value)  # type: ignore[arg-type]


def positive(where: str, value: object) -> float:
    """A number > 0."""
    found = number(where, value)
    if not found > 0:
        raise refuse(where, "a number > 0", value)
    return found


def flag(where: str, value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise refuse(where, "true or false", value)
    return value


def color(where: str, value: object) -> tuple[int, int, int]:
    """Red, green and blue from 0 to 255, as a list or as ``"#ff0000"``."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    is_list = isinstance(value, (list, tuple)) and len(value) == 3
    if not is_list or not all(
        isinstance(v, (int, np.integer)) and not isinstance(v, bool) and 0 <= v <= 255
        for v in value  # type: ignore[union-attr]
    ):
        raise refuse(where, 'three whole numbers from 0 to 255, or "#ff0000" in quotes', value)
    return tuple(int(v) for v in value)  # type: ignore[return-value,union-attr]


def each(check: Callable[[str, object], T], where: str, values: Iterable[object]) -> tuple[T, ...]:
    """Applies ``check`` to every value."""
    return tuple(check(where, value) for value in values)


def known(where: str, found: Iterable[object], names: Iterable[str]) -> None:
    """Raises ValueError for a name in ``found`` that is not in ``names``; suggests the nearest."""
    names = list(names)
    for name in found:
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"these are known: {', '.join(names)}"
            raise ValueError(f"{where}: unknown name {str(name)[:80]!r}; {hint}")
