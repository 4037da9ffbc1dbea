"""Public, stateless functions on tensors, with one file per family of functions."""

from kpdeform._types import GridSubsample
from kpdeform.ops import _flops as _flops
from kpdeform.ops import layouts
from kpdeform.ops.deform_conv2d import dcnv3, dcnv4, deform_conv2d
from kpdeform.ops.deform_roi_pool import deform_ps_roi_pool, deform_roi_pool
from kpdeform.ops.kpconv import kernel_point_distances, kpconv
from kpdeform.ops.kpconv_depthwise import kpconv_depthwise
from kpdeform.ops.neighbors import knn_neighbors, radius_neighbors
from kpdeform.ops.norm import batch_norm
from kpdeform.ops.pooling import neighbor_pool, segment_reduce
from kpdeform.ops.subsample import grid_subsample

__all__ = [
    "GridSubsample",
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
    "layouts",
    "neighbor_pool",
    "radius_neighbors",
    "segment_reduce",
]
