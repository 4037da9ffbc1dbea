"""Public, stateless functions on tensors; one file per family."""

from kpdeform._types import GridSubsample
from kpdeform.ops.kpconv import kernel_point_distances, kpconv
from kpdeform.ops.kpconv_depthwise import kpconv_depthwise
from kpdeform.ops.neighbors import knn_neighbors, radius_neighbors
from kpdeform.ops.pooling import neighbor_pool, segment_reduce
from kpdeform.ops.subsample import grid_subsample

__all__ = [
    "GridSubsample",
    "grid_subsample",
    "kernel_point_distances",
    "knn_neighbors",
    "kpconv",
    "kpconv_depthwise",
    "neighbor_pool",
    "radius_neighbors",
    "segment_reduce",
]
