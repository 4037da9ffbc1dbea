"""What the fake kernels share."""

from __future__ import annotations

import torch


def index_dtype(num_rows: int | torch.SymInt) -> torch.dtype:
    """The dtype of numbers of rows: int32, or int64 where it is known that int32 is too small."""
    # Imported here because it brings sympy, half a second that only tracing has to pay for.
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return torch.int64 if statically_known_true(num_rows > 2**31 - 1) else torch.int32
