"""Neighbour search, compared with SciPy's kd-tree, on clouds that are hard for grids or trees.

Both do the whole task, including the index, on one thread. If SciPy would take longer than ten
seconds, its time is extrapolated from a sample of the queries.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from kpdeform import ops

LIMIT = 32  # max_neighbors
K = 16
LONGEST = 10.0  # time limit for SciPy in seconds
FOREVER = torch.inf  # the radius of a k-nearest search


class Case(NamedTuple):
    """One search for ``width`` neighbours within ``radius``; all neighbours if it is None."""

    name: str
    queries: Tensor
    points: Tensor
    radius: float
    width: int | None
    lengths: Tensor | None = None  # of queries and points


def uniform(n: int, dim: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, dim, generator=torch.Generator().manual_seed(seed))


def with_rows(points: Tensor, rows: slice | list[int], value: Tensor | float) -> Tensor:
    points = points.clone()
    points[rows] = value
    return points


def clouds(n: int) -> dict[str, tuple[Tensor, float]]:
    """Points, which are also the queries, and a radius, by name."""
    scan = room(n)
    step = torch.arange(n, dtype=torch.float32)[torch.randperm(n)]
    exponent = 60 * uniform(n, 1, seed=1)
    side = round(n**0.5)
    lattice = torch.cartesian_prod(*[1e-3 * torch.arange(side, dtype=torch.float64)] * 2)
    lattice = torch.cat([lattice, torch.zeros(len(lattice), 1)], 1)
    return {
        "usual: a room": (scan, 0.1),
        "equal points": (torch.zeros(n, 3), 0.1),
        "half the points equal": (with_rows(scan, slice(0, n, 2), 1.0), 0.1),
        "clusters of 1000 equal points": (room(n // 1000).repeat(1000, 1), 0.1),
        "clusters of 10,000 equal points": (room(n // 10_000).repeat(10_000, 1), 0.1),
        "clusters of 1000, 1e-6 wide": (
            room(n // 1000).repeat(1000, 1).double() + 1e-6 * uniform(n), 0.1),
        "clusters of 4000, 1e-6 wide": (
            room(n // 4000).repeat(4000, 1).double() + 1e-6 * uniform(n), 0.1),
        "a line along x": (step[:, None] * torch.tensor([1e-3, 0, 0]), 0.01),
        "a diagonal line": (step[:, None] * torch.tensor([1e-3, 1e-3, 1e-3]), 0.02),
        "a plane": (uniform(n) * torch.tensor([1.0, 1.0, 0.0]), 3 * n**-0.5),
        "a flat (2-D) cloud": (uniform(n, 2), 3 * n**-0.5),
        "one outlier at 1e6": (with_rows(scan, [7], 1e6), 0.1),
        "one outlier at 1e12": (with_rows(scan, [7], 1e12), 0.1),
        "ten outliers up to 1e12": (
            with_rows(scan, list(range(10)), 10.0 ** torch.linspace(3, 12, 10)[:, None]), 0.1),
        "coordinates of 1e7, spacing 1e-3": (1e7 + lattice, 3e-3),
        "densities from 1 to 2^-60": (2.0**-exponent * (1 + uniform(n)), 0.01),
        "two densities, 1 : 1e6": (
            torch.cat([1e-6 * scan[: n // 2], scan[n // 2 :]]), 0.1),
        "a lattice full of ties": ((20 * uniform(n)).round(), 1.5),
        "radius of a millionth of the spacing": (scan, 1e-9),
        "radius of the whole room": (scan, 20.0),
        "radius of a quarter of the room": (scan, 2.0),
    }  # fmt: skip


def cases(n: int) -> list[Case]:
    found = []
    for name, (points, radius) in clouds(n).items():
        found.append(Case(f"{name}, radius {radius:.3g}", points, points, radius, LIMIT))
        if not name.startswith("radius"):
            found.append(Case(f"{name}, k = {K}", points, points, FOREVER, K))
    scan, few = room(n), room(3000)
    tiny = torch.randint(1, 4, (n // 2,), generator=torch.Generator().manual_seed(0))
    beside = torch.cat([torch.tensor([n]), tiny[: n // 20]])
    for far in (10.0, 1e3, 1e6):
        near = scan[: n // 4]
        found.append(Case(f"queries {far:g} m away, k = {K}", near + far, scan, FOREVER, K))
        found.append(Case(f"queries {far:g} m away, radius 0.1", near + far, scan, 0.1, LIMIT))
    found.append(Case("queries all over 1 km, k = 1", 1e3 * uniform(n // 4), scan, FOREVER, 1))
    found.append(Case("3000 points, radius of the room, all", few, few, 20.0, None))
    found.append(Case("3000 points, radius of the room, 32", few, few, 20.0, LIMIT))
    found.append(Case("3000 points, k = 2999", few, few, FOREVER, 2999))
    found.append(Case("3000 points, k = 300", few, few, FOREVER, 300))
    found.append(Case("room, radius 0.3, all", scan[::10], scan[::10], 0.3, None))
    for name, lengths in (("clouds of 1 to 3 points", tiny), ("a giant beside them", beside)):
        points = room(int(lengths.sum()))
        found.append(Case(f"{len(lengths):,} {name}, radius", points, points, 0.1, LIMIT, lengths))
        found.append(Case(f"{len(lengths):,} {name}, k = 3", points, points, FOREVER, 3, lengths))
    return found


def seconds(function: Callable[[], object]) -> float:
    """Processor time of a call in seconds, which a busy machine hardly changes."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def of_kpdeform(case: Case) -> float:
    lengths = {"query_lengths": case.lengths, "point_lengths": case.lengths}
    if case.radius < FOREVER:
        limit = {"max_neighbors": case.width}
        search = lambda: ops.radius_neighbors(  # noqa: E731
            case.queries, case.points, case.radius, **limit, **lengths
        )
    else:
        search = lambda: ops.knn_neighbors(  # noqa: E731
            case.queries, case.points, case.width, **lengths
        )
    first = seconds(search)
    return first if first > 2 else min(first, *(seconds(search) for _ in range(3)))


def of_scipy(case: Case) -> tuple[float, bool]:
    """SciPy's time in seconds, and whether it is extrapolated."""
    queries, points = case.queries.numpy(), case.points.numpy()
    width = case.width or len(points)
    if case.lengths is not None:
        ends = case.lengths.cumsum(0).tolist()

        def search(clouds: int) -> None:
            for begin, end in zip([0, *ends], ends[:clouds], strict=False):
                cKDTree(points[begin:end]).query(
                    queries[begin:end], width, distance_upper_bound=case.radius
                )

        sample = 1 if ends[0] > 3 else 1000
        some = seconds(lambda: search(sample))
        if some * len(ends) / sample > LONGEST and sample > 1:
            return some * len(ends) / sample, True
        return seconds(lambda: search(len(ends))), False
    tree: list[cKDTree] = []
    build = seconds(lambda: tree.append(cKDTree(points)))
    query = lambda rows: tree[0].query(  # noqa: E731
        rows, width, distance_upper_bound=case.radius
    )
    rows = np.random.default_rng(0).choice(len(queries), min(len(queries), 100), replace=False)
    projected = seconds(lambda: query(queries[rows])) * len(queries) / len(rows)
    if build + projected > LONGEST:
        return build + projected, True
    return build + seconds(lambda: query(queries)), False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--only", default="", help="run the cases whose names hold this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    lines = [
        "| case | kpdeform, CPU s | SciPy, CPU s | kpdeform : SciPy |",
        "|---|---|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for case in cases(options.points):
        if options.only not in case.name:
            continue
        ours, (peer, projected) = of_kpdeform(case), of_scipy(case)
        mark = "about " if projected else ""
        lines.append(f"| {case.name} | {ours:.3f} | {mark}{peer:.3f} | {ours / peer:.2f} |")
        print(lines[-1], flush=True)
    if not options.only:
        note = (
            f"{options.points:,} points where a row says nothing else; processor seconds; "
            f'"about": projected from 100 queries'
        )
        measure.write("worst_cases", ("torch", "scipy"), ["\n".join([*lines, ""])], note)


if __name__ == "__main__":
    main()
