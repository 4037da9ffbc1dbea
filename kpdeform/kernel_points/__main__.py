"""Writes the committed tables: ``python -m kpdeform.kernel_points``."""

import numpy as np

from kpdeform.kernel_points.generate import Fixed, generate
from kpdeform.kernel_points.load import TABLES, table_path

COMMITTED: list[tuple[int, int, Fixed]] = [
    *((k, 3, "center") for k in (7, 9, 13, 15, 19, 25)),
    *((k, 2, "center") for k in (5, 7, 9, 15, 19)),
    (15, 3, "verticals"),
    (15, 3, "none"),
]


def main() -> None:
    """Generates every committed table with seed 0."""
    TABLES.mkdir(exist_ok=True)
    for num_points, dimension, fixed in COMMITTED:
        path = table_path(num_points, dimension, fixed)
        np.savetxt(path, generate(num_points, dimension, fixed, seed=0), fmt="%.9g")
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
