"""Helper of the fake kernels, with which torch.compile and torch.export infer shapes."""

from __future__ import annotations

import torch


def index_dtype(num_rows: int | torch.SymInt) -> torch.dtype:
    """Returns the dtype of row indices: int64 if ``num_rows`` surely exceeds int32, else int32."""
    # Imported here because it imports sympy, which takes half a second and only tracing needs.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return torch.int64 if statically_known_true(num_rows > 2**31 - 1) else torch.int32
