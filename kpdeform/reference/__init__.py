"""Pure PyTorch twins of the ops: same names and signatures, to be read beside the papers."""

from kpdeform.reference.kpconv import kernel_point_distances, kpconv

__all__ = ["kernel_point_distances", "kpconv"]
