"""Helpers of the fake kernels, with which torch.compile and torch.export infer shapes."""

from __future__ import annotations

import torch


def index_dtype(num_rows: int | torch.SymInt) -> torch.dtype:
    """Returns the dtype of row indices: int64 if ``num_rows`` surely exceeds int32, else int32."""
    # Imported here because it imports sympy, which takes half a second and only tracing needs.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return torch.int64 if statically_known_true(num_rows > 2**31 - 1) else torch.int32


def keep_out_of_cuda_graphs(op: torch._ops.OpOverload) -> None:
    """Tells torch.compile that ``op`` waits for the device, so no CUDA graph can contain it.

    C++ code can define an op with a tag from version 2.12 of the stable ABI on, but csrc is
    compiled for version 2.10. The tags of an op that exists are a list that torch.compile reads.
    """
    op.tags.append(torch.Tag.cudagraph_unsafe)
