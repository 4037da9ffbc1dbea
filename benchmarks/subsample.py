"""Grid subsampling, compared with other libraries, on a room of 1,000,000 raw points at 4 cm."""

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.neighbors import numpy_subsample
from kpdeform import ops

CELL = 0.04

open3d = measure.optional("open3d")


def point_cases(points: Tensor) -> measure.Cases:
    """Ways to get the mean point of every cell."""
    values = points.numpy()
    cases: measure.Cases = {
        "kpdeform grid_subsample": lambda: ops.grid_subsample(points, CELL),
        "torch unique + index_add_": lambda: torch_subsample(points, CELL),
        "numpy unique + bincount": lambda: numpy_subsample(values, CELL),
    }
    if open3d:
        cases["open3d t voxel_down_sample"] = lambda: open3d_subsample(values, CELL)
    cases["floor: copy the points"] = points.clone
    return cases


def attribute_cases(points: Tensor, features: Tensor, labels: Tensor) -> measure.Cases:
    """Ways to get mean point, mean features and majority label of every cell."""
    return {
        "kpdeform grid_subsample": lambda: ops.grid_subsample(
            points, CELL, features=features, labels=labels
        ),
        "torch unique + index_add_": lambda: torch_subsample(points, CELL, features, labels),
    }


def torch_subsample(
    points: Tensor, cell: float, features: Tensor | None = None, labels: Tensor | None = None
) -> list[Tensor]:
    cells = (points / cell).floor().long()
    cells -= cells.amin(0)
    size = cells.amax(0) + 1
    keys = (cells[:, 2] * size[1] + cells[:, 1]) * size[0] + cells[:, 0]
    _, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)

    def mean(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(counts), values.shape[1]).index_add_(0, inverse, values)
        return sums / counts[:, None]

    results = [mean(points)]
    if features is not None:
        results.append(mean(features))
    if labels is not None:
        classes = int(labels.max()) + 1
        votes = torch.bincount(inverse * classes + labels, minlength=len(counts) * classes)
        results.append(votes.view(-1, classes).argmax(1))
    return results


def open3d_subsample(points: np.ndarray, cell: float) -> object:
    cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor.from_numpy(points))
    return cloud.voxel_down_sample(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000, help="raw points of the room")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    points = room(options.points)
    colors = torch.rand(len(points), 3)
    patch = (points / 0.5).floor().long().remainder(7)  # labels that agree in most cells
    labels = (patch[:, 0] + 2 * patch[:, 1] + 3 * patch[:, 2]) % 13
    n, m = f"{len(points):,}", f"{len(ops.grid_subsample(points, CELL).points):,}"
    tables = [
        (f"points: {n} to {m}", point_cases(points)),
        ("the same with 3 features and a label", attribute_cases(points, colors, labels)),
    ]
    packages = ("torch", "numpy", "open3d")
    measure.write("subsample", packages, [measure.table(*t, options.repeats) for t in tables])


if __name__ == "__main__":
    main()
