"""Calls a native op and converts its errors about the input to ValueError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from kpdeform._library import CUDA_MISSING

_PREFIX = "kpdeform: "
_INTERRUPTED = "kpdeform was interrupted"


def call(op: Callable[..., Any], *args: Any) -> Any:
    """Runs ``op(*args)``.

    Only data-dependent checks (an index out of range, a NaN coordinate) are left to native code,
    where they cost one pass. The stable ABI turns every native exception into RuntimeError; those
    that begin with ``kpdeform:`` speak of the caller's data and become ValueError here.

    Ctrl-C ends a long native call early. Python's handler of the signal then runs here and raises
    KeyboardInterrupt; after a handler of the user's that returns, the op starts again.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    while True:
        try:
            return op(*args)
        except NotImplementedError as error:
            if "'CUDA' backend" in str(error) and CUDA_MISSING is not None:
                raise RuntimeError(f"kpdeform has no CUDA kernels here: {CUDA_MISSING}") from error
            raise
        except RuntimeError as error:
            failure = error
        # Outside the except block, so that KeyboardInterrupt does not come with a RuntimeError.
        if _INTERRUPTED not in str(failure):
            _raise_for_user(failure)


def _raise_for_user(failure: RuntimeError) -> NoReturn:
    message = str(failure)
    if _PREFIX not in message:
        raise failure
    raise ValueError(message.split(_PREFIX, 1)[1].splitlines()[0])
