"""Public, stateless functions on tensors; one file per family."""

from kpdeform.ops.kpconv import kernel_point_distances, kpconv

__all__ = ["kernel_point_distances", "kpconv"]
