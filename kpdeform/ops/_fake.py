"""Helpers of the fake kernels, with which torch.compile and torch.export infer shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def register_fake(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Like :func:`torch.library.register_fake`, for an op that ONNX has no operator for.

    The fake kernel, which every export calls first, refuses an export to ONNX by name. Otherwise
    PyTorch would trace the whole model and then fail without saying what to do.
    """

    def decorate(fake: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(fake)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if torch.onnx.is_in_onnx_export():
                raise NotImplementedError(
                    f"{name.removeprefix('kpdeform::')} has no ONNX operator; save the model with "
                    "torch.export.save instead, or compile it for C++ with "
                    "torch._inductor.aoti_compile_and_package (ONNX is for DeformConv2d)"
                )
            return fake(*args, **kwargs)

        return torch.library.register_fake(name, checked)

    return decorate


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
