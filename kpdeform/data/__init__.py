"""From scanned files to batches: readers, the scene format, crops, transforms and pyramids."""

from kpdeform.data.batch import PointBatch, Sample
from kpdeform.data.pyramid import Pyramid, PyramidSpec, build_pyramid, neighbor_limits

__all__ = [
    "PointBatch",
    "Pyramid",
    "PyramidSpec",
    "Sample",
    "build_pyramid",
    "neighbor_limits",
]
