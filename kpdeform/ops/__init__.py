"""Public, stateless operations on packed point clouds."""

from kpdeform._types import GridSubsample
from kpdeform.ops.neighbors import knn_neighbors, radius_neighbors
from kpdeform.ops.pooling import neighbor_pool, segment_reduce
from kpdeform.ops.subsample import grid_subsample

__all__ = [
    "GridSubsample",
    "grid_subsample",
    "knn_neighbors",
    "neighbor_pool",
    "radius_neighbors",
    "segment_reduce",
]
