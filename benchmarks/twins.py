"""Networks whose native ops are replaced by their PyTorch twins."""

from collections.abc import Iterator
from contextlib import contextmanager

from kpdeform import ops, reference

POINT_OPS = ("kpconv", "kernel_point_distances", "neighbor_pool", "segment_reduce")
NETWORK_OPS = (*POINT_OPS, "batch_norm")


@contextmanager
def twins(names: tuple[str, ...]) -> Iterator[None]:
    """Replaces some functions of ``kpdeform.ops`` by their twins of ``kpdeform.reference``."""
    fast = {name: getattr(ops, name) for name in names}
    for name in names:
        setattr(ops, name, getattr(reference, name))
    try:
        yield
    finally:
        for name, op in fast.items():
            setattr(ops, name, op)
