"""Writes the committed tables: ``python -m kpdeform.kernel_points``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kpdeform.kernel_points.generate import Fixed, generate
from kpdeform.kernel_points.load import TABLES, shells_path, table_path
from kpdeform.kernel_points.shells import generate_shells

COMMITTED: list[tuple[int, int, Fixed]] = [
    *((k, 3, "center") for k in (7, 9, 13, 15, 19, 25)),
    *((k, 2, "center") for k in (5, 7, 9, 15, 19)),
    (15, 3, "verticals"),
    (15, 3, "none"),
]
COMMITTED_SHELLS: list[tuple[tuple[int, ...], int]] = [((1, 14), 3), ((1, 14, 28), 3)]


def main() -> None:
    """Generates every committed table with seed 0."""
    TABLES.mkdir(exist_ok=True)
    for num_points, dimension, fixed in COMMITTED:
        path = table_path(num_points, dimension, fixed)
        _write(path, generate(num_points, dimension, fixed, seed=0))
    for shells, dimension in COMMITTED_SHELLS:
        _write(shells_path(shells, dimension), generate_shells(shells, dimension, seed=0))


def _write(path: Path, table: NDArray[np.float32]) -> None:
    np.savetxt(path, table, fmt="%.9g")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
