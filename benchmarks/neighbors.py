"""Neighbour search, compared with other libraries, on a room of about 270,000 points at 4 cm."""

import argparse

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.clouds import room
from benchmarks.peers import nanoflann_omp
from kpdeform import ops
from kpdeform.data import PointBatch, PyramidSpec, build_pyramid

CELL = 0.04
RADIUS = 2.5 * CELL

scipy_spatial = measure.optional("scipy.spatial")
open3d_core = measure.optional("open3d.core")
pykdtree = measure.optional("pykdtree.kdtree")
torch_cluster = measure.optional("torch_cluster")


def radius_cases(queries: Tensor, points: Tensor, radius: float, k: int) -> measure.Cases:
    """Ways to find the ``k`` nearest within a radius, nearest first."""
    cases: measure.Cases = {
        "kpdeform radius_neighbors": lambda: ops.radius_neighbors(
            queries, points, radius, max_neighbors=k
        )
    }
    q, p, threads = queries.numpy(), points.numpy(), torch.get_num_threads()
    if scipy_spatial:
        cases["scipy cKDTree.query"] = lambda: scipy_spatial.cKDTree(p).query(
            q, k, distance_upper_bound=radius, workers=threads
        )
    if open3d_core:
        cases["open3d hybrid_search"] = lambda: open3d_hybrid(q, p, radius, k)
    if pykdtree:
        cases["pykdtree KDTree.query"] = lambda: pykdtree.KDTree(p).query(
            q, k, distance_upper_bound=radius
        )
    if nanoflann := nanoflann_omp():
        cases[f"nanoflann {nanoflann.version} + OpenMP"] = lambda: nanoflann.search(
            q, p, radius, k, threads
        )
    if torch_cluster:  # does less work: its neighbours are neither the nearest nor sorted
        cases["torch_cluster.radius"] = lambda: torch_cluster.radius(
            points, queries, radius, max_num_neighbors=k, num_workers=threads
        )
    cases["floor: write the table"] = lambda: torch.full((len(q), k), len(p), dtype=torch.int32)
    return cases


def knn_cases(queries: Tensor, points: Tensor, k: int) -> measure.Cases:
    """Ways to find the ``k`` nearest."""
    cases: measure.Cases = {"kpdeform knn_neighbors": lambda: ops.knn_neighbors(queries, points, k)}
    q, p, threads = queries.numpy(), points.numpy(), torch.get_num_threads()
    if scipy_spatial:
        cases["scipy cKDTree.query"] = lambda: scipy_spatial.cKDTree(p).query(q, k, workers=threads)
    if open3d_core:
        cases["open3d knn_search"] = lambda: open3d_knn(q, p, k)
    if pykdtree:
        cases["pykdtree KDTree.query"] = lambda: pykdtree.KDTree(p).query(q, k)
    if nanoflann := nanoflann_omp():
        cases[f"nanoflann {nanoflann.version} + OpenMP"] = lambda: nanoflann.search(
            q, p, 0, k, threads
        )
    if torch_cluster:
        cases["torch_cluster.knn"] = lambda: torch_cluster.knn(
            points, queries, k, num_workers=threads
        )
    return cases


def open3d_hybrid(queries: np.ndarray, points: np.ndarray, radius: float, k: int) -> object:
    search = open3d_core.nns.NearestNeighborSearch(open3d_core.Tensor.from_numpy(points))
    search.hybrid_index(radius)
    return search.hybrid_search(open3d_core.Tensor.from_numpy(queries), radius, k)


def open3d_knn(queries: np.ndarray, points: np.ndarray, k: int) -> object:
    search = open3d_core.nns.NearestNeighborSearch(open3d_core.Tensor.from_numpy(points))
    search.knn_index()
    return search.knn_search(open3d_core.Tensor.from_numpy(queries), k)


def spheres(points: Tensor, count: int, size: int) -> PointBatch:
    """The ``size`` points around each of ``count`` points, as one batch."""
    centers = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]
    rows = ops.knn_neighbors(centers[:count], points, size).long().sort(1).values.flatten()
    return PointBatch(points[rows], torch.ones(len(rows), 1), torch.full((count,), size))


def pyramid_with_trees(batch: PointBatch, spec: PyramidSpec) -> list[np.ndarray]:
    """The tables of ``build_pyramid`` with kd-trees and NumPy, cloud by cloud."""
    tables = []
    for cloud in batch.points.split(batch.lengths.tolist()):
        fine, tree = cloud.numpy(), None
        for level in range(spec.num_levels):
            tree = tree or make_tree(fine)
            tables.append(query_tree(tree, fine, spec.limit(level), spec.radius(level)))
            if level + 1 == spec.num_levels:
                break
            coarse = numpy_subsample(fine, spec.step(level + 1))
            tables.append(query_tree(tree, coarse, spec.limit(level), spec.pool_radius(level)))
            tree = make_tree(coarse)
            tables.append(query_tree(tree, fine, 1, np.inf))
            fine = coarse
    return tables


def make_tree(points: np.ndarray) -> object:
    return (pykdtree.KDTree if pykdtree else scipy_spatial.cKDTree)(points)


def query_tree(tree: object, queries: np.ndarray, k: int, radius: float) -> np.ndarray:
    more = {} if pykdtree else {"workers": torch.get_num_threads()}
    return tree.query(queries, k, distance_upper_bound=radius, **more)[1]


def numpy_subsample(points: np.ndarray, cell: float) -> np.ndarray:
    cells = np.floor(points / cell).astype(np.int64)
    cells -= cells.min(0)
    size = cells.max(0) + 1
    keys = (cells[:, 2] * size[1] + cells[:, 1]) * size[0] + cells[:, 0]
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sums = [np.bincount(inverse, points[:, d], len(counts)) for d in range(3)]
    return (np.stack(sums, 1) / counts[:, None]).astype(points.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000, help="raw points of the room")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    raw = room(options.points)
    points = ops.grid_subsample(raw, CELL).points
    pool = ops.grid_subsample(points, 2 * CELL).points
    sparse = ops.grid_subsample(raw[: options.points // 10], CELL).points
    batch = spheres(points, 8, min(15_750, len(points)))
    spec = PyramidSpec(CELL, 5, max_neighbors=(40, 40, 40, 40, 40))
    trees = f"{'pykdtree' if pykdtree else 'scipy'} + NumPy"
    n, m, s, b = (f"{len(t):,}" for t in (points, pool, sparse, batch.points))
    tables = [
        (f"conv: {n} points, r = 2.5 cells, 40 nearest", radius_cases(points, points, RADIUS, 40)),
        (f"pool: {m} queries, {n} points", radius_cases(pool, points, RADIUS, 40)),
        (f"deformable: {s} points, r = 5 cells, 128 nearest",
         radius_cases(sparse, sparse, 2 * RADIUS, 128)),
        (f"upsample: {n} queries, {m} points, k = 1", knn_cases(points, pool, 1)),
        (f"k = 16: {s} points", knn_cases(sparse, sparse, 16)),
        (f"pyramid: 5 levels, 8 spheres, {b} points",
         {"kpdeform build_pyramid": lambda: build_pyramid(batch, spec),
          trees: lambda: pyramid_with_trees(batch, spec)}),
    ]  # fmt: skip
    packages = ("torch", "scipy", "open3d", "pykdtree", "torch-cluster")
    measure.write("neighbors", packages, [measure.table(*t, options.repeats) for t in tables])


if __name__ == "__main__":
    main()
