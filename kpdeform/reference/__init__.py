"""Pure PyTorch twins of the ops: same names and signatures, to be read beside the papers."""

from kpdeform.reference.deform_conv2d import dcnv3, dcnv4, deform_conv2d
from kpdeform.reference.deform_roi_pool import deform_ps_roi_pool, deform_roi_pool
from kpdeform.reference.kpconv import kernel_point_distances, kpconv
from kpdeform.reference.kpconv_depthwise import kpconv_depthwise
from kpdeform.reference.neighbors import knn_neighbors, radius_neighbors
from kpdeform.reference.norm import batch_norm
from kpdeform.reference.pooling import neighbor_pool, segment_reduce
from kpdeform.reference.subsample import grid_subsample

__all__ = [
    "batch_norm",
    "dcnv3",
    "dcnv4",
    "deform_conv2d",
    "deform_ps_roi_pool",
    "deform_roi_pool",
    "grid_subsample",
    "kernel_point_distances",
    "knn_neighbors",
    "kpconv",
    "kpconv_depthwise",
    "neighbor_pool",
    "radius_neighbors",
    "segment_reduce",
]
