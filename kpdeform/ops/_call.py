"""Calls a native op and converts its errors about the input to ValueError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kpdeform._library import CUDA_MISSING

_PREFIX = "kpdeform: "


def call(op: Callable[..., Any], *args: Any) -> Any:
    """Runs ``op(*args)``.

    Only data-dependent checks (an index out of range, a NaN coordinate) are left to native code,
    where they cost one pass. The stable ABI turns every native exception into RuntimeError; those
    that begin with ``kpdeform:`` speak of the caller's data and become ValueError here.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    try:
        return op(*args)
    except NotImplementedError as error:
        if "'CUDA' backend" in str(error) and CUDA_MISSING is not None:
            raise RuntimeError(f"kpdeform has no CUDA kernels here: {CUDA_MISSING}") from error
        raise
    except RuntimeError as error:
        message = str(error)
        if _PREFIX not in message:
            raise
        text = message.split(_PREFIX, 1)[1].splitlines()[0]
        raise ValueError(text) from None
