"""Pure PyTorch twins of the ops: same names and signatures, to be read beside the papers."""

from kpdeform.reference.kpconv import kernel_point_distances, kpconv
from kpdeform.reference.kpconv_depthwise import kpconv_depthwise
from kpdeform.reference.neighbors import knn_neighbors, radius_neighbors
from kpdeform.reference.pooling import neighbor_pool, segment_reduce
from kpdeform.reference.subsample import grid_subsample

__all__ = [
    "grid_subsample",
    "kernel_point_distances",
    "knn_neighbors",
    "kpconv",
    "kpconv_depthwise",
    "neighbor_pool",
    "radius_neighbors",
    "segment_reduce",
]
