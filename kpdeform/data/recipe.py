"""What the recipes that prepare data sets share: class maps, progress, errors in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kpdeform._optional import require

T = TypeVar("T")

IGNORED = -1


@dataclass(frozen=True)
class ClassMap:
    """Which raw label of a file belongs to which class.

    Attributes:
        names: Names of the classes 0, 1, ...
        numbers: Class, or ``IGNORED``, of every known raw label.
        ignore_rest: Send labels that are not in ``numbers`` to ``IGNORED``, do not refuse them.

    Example:
        >>> ground_or_tree = ClassMap.from_names({"ground": 2, "tree": [4, 5]}, ignored=[1])
        >>> ground_or_tree(np.array([2, 5, 1, 4]))
        array([ 0,  1, -1,  1], dtype=int16)
    """

    names: tuple[str, ...]
    numbers: Mapping[int, int]
    ignore_rest: bool = False

    @staticmethod
    def from_names(
        classes: Mapping[str, int | Sequence[int]],
        ignored: Sequence[int] | str = (),
    ) -> ClassMap:
        """Makes a map from class names with their raw labels.

        Args:
            classes: Name of every class, in order, with its raw label or labels.
            ignored: Raw labels to ignore, or ``"rest"`` for all that no class has.

        Raises:
            ValueError: A raw label has two classes, or is not a whole number.
        """
        numbers: dict[int, int] = {}
        groups = [(number, raw) for number, raw in enumerate(classes.values())]
        for number, raw in [*groups, (IGNORED, [] if ignored == "rest" else ignored)]:
            for label in [raw] if isinstance(raw, int) else raw:
                if not isinstance(label, int):
                    raise ValueError(f"class map: raw label {label!r} is not a whole number")
                if numbers.setdefault(label, number) != number:
                    raise ValueError(f"class map: raw label {label} is given twice")
        return ClassMap(tuple(classes), numbers, ignored == "rest")

    def __call__(self, labels: np.ndarray, source: str | Path = "labels") -> np.ndarray:
        """Translates raw labels ``(N,)`` into classes ``(N,)`` int16.

        Raises:
            ValueError: A label is not in the map; the message lists them with their counts.
        """
        found, position, counts = np.unique(labels, return_inverse=True, return_counts=True)
        unknown = [int(label) not in self.numbers for label in found]
        if any(unknown) and not self.ignore_rest:
            rest = ", ".join(
                f"{label} ({count} points)"
                for label, count, missing in zip(found, counts, unknown, strict=True)
                if missing
            )
            raise ValueError(
                f"{source}: labels missing from the class map: {rest}; give them a class, or list "
                'them under "ignored" ("ignored: rest" ignores whatever has no class)'
            )
        table = [self.numbers.get(int(label), IGNORED) for label in found]
        return np.array(table, np.int16)[position.reshape(np.shape(labels))]


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML or JSON file (YAML contains JSON) that holds a mapping.

    Raises:
        ValueError: It is not valid, or holds something else.
    """
    yaml = require("yaml", "io")
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: must hold a mapping, got {type(config).__name__}")
    return config


def track(items: Iterable[T], what: str) -> Iterable[T]:
    """Goes through ``items`` with a progress bar."""
    return require("rich.progress", "io").track(items, what)


def run(main: Callable[[], None]) -> None:
    """Calls ``main``; errors that the user can mend end the program in one line."""
    try:
        main()
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
