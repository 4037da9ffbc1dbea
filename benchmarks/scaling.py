"""Time per point from 10,000 to 10,000,000 points, in rooms of constant density."""

import argparse
import functools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from kpdeform import kernel_points as tables_of_kernel_points
from kpdeform import ops

CELL = 0.04
RADIUS = 2.5 * CELL
RAW_PER_CELL = 3.6  # points of the raw scan per occupied cell


def raw_scan(num_points: int) -> Tensor:
    """A scan with the density of the room of 1,000,000 points, in random order."""
    return room(num_points, scale=math.sqrt(num_points / 1e6))


def thinned_scan(num_points: int) -> Tensor:
    """A scan of about ``num_points`` points, one per grid cell and sorted by cell."""
    return ops.grid_subsample(raw_scan(round(RAW_PER_CELL * num_points)), CELL).points


class Layer(NamedTuple):
    """A cloud with the arguments of a convolution from 16 to 16 channels."""

    points: Tensor
    neighbors: Tensor
    features: Tensor

    def __len__(self) -> int:
        """Number of points, as of a cloud."""
        return len(self.points)

    def convolve(self) -> Tensor:
        """One rigid kpconv, forward."""
        generator = torch.Generator().manual_seed(0)
        kernel_points = RADIUS * torch.as_tensor(tables_of_kernel_points.load(15, 3)).float()
        weight = torch.randn(15, 16, 16, generator=generator)
        return ops.kpconv(
            self.points, self.points, self.neighbors, self.features, kernel_points, weight,
            1.2 * CELL,
        )  # fmt: skip


def layer_scan(num_points: int) -> Layer:
    """The thinned scan with its 40 nearest neighbours and 16 features."""
    points = thinned_scan(num_points)
    neighbors = ops.radius_neighbors(points, points, RADIUS, max_neighbors=40)
    return Layer(points, neighbors, torch.randn(len(points), 16))


# For each case: the function that makes a cloud of about the given size, and the one to measure.
Case = tuple[Callable[[int], Any], Callable[[Any], object]]
CASES: dict[str, Case] = {
    "grid_subsample": (raw_scan, lambda p: ops.grid_subsample(p, CELL)),
    "radius_neighbors, 40 nearest": (
        thinned_scan,
        lambda p: ops.radius_neighbors(p, p, RADIUS, max_neighbors=40),
    ),
    "floor: write that table": (
        thinned_scan,
        lambda p: torch.full((len(p), 40), len(p), dtype=torch.int32),
    ),
    "knn_neighbors, k = 16": (thinned_scan, lambda p: ops.knn_neighbors(p, p, 16)),
    "kpconv, 16 to 16 channels": (layer_scan, Layer.convolve),
}


def nanoseconds_per_point(num_points: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU time of every case."""
    found, made, points = {}, None, None
    for name, (make, function) in CASES.items():  # cases with the same cloud are consecutive
        if make is not made:
            points = None  # frees the old cloud before the next one is made
            made, points = make, make(num_points)
        times = measure.interleaved({name: functools.partial(function, points)}, repeats)[name]
        wall, cpu = (1e6 * statistics.median(t) / len(points) for t in times)
        found[name] = wall, cpu
        print(f"{num_points:,} points: {name}: {wall:.0f} ns wall, {cpu:.0f} ns CPU", flush=True)
    return found


def table(sizes: list[int], repeats: int) -> str:
    """A table with one row per case; the last column is the ratio of largest to smallest time."""
    lines = [
        "### nanoseconds per point, wall (CPU)",
        "",
        " | ".join(["| points", *(f"{size:,}" for size in sizes), "CPU: largest / smallest |"]),
        "|---" * (len(sizes) + 2) + "|",
    ]
    columns = [nanoseconds_per_point(size, repeats) for size in sizes]
    for name in CASES:
        cells = ["{:.0f} ({:.0f})".format(*column[name]) for column in columns]
        cpu = [column[name][1] for column in columns]
        lines.append(" | ".join([f"| {name}", *cells, f"{max(cpu) / min(cpu):.2f} |"]))
    text = "\n".join([*lines, ""])
    print(text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**e for e in (4, 5, 6, 7)])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure.write("scaling", ("torch",), [table(options.sizes, options.repeats)])


if __name__ == "__main__":
    main()
