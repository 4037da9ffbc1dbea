"""Calls a native op and converts its errors about the input to ValueError."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kpdeform._library import cuda_missing
from kpdeform.ops._autograd import run

# Asked once: torch.compile cannot trace the question in every version of PyTorch.
_WITH_AUTOCAST = frozenset(
    name for name in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(name)
)
_PREFIX = "kpdeform: "
_INTERRUPTED = "kpdeform was interrupted"
_TOO_LARGE = "out of memory: "  # Raised by native code that computes a size before allocating.
# Messages by which the CUDA runtime reports that a kernel does not fit the driver or the device.
_MISFIT = re.compile(
    r"CUDA error in .*(driver version is insufficient|no kernel image|unsupported toolchain"
    r"|kernel image is invalid)"
)
# Messages by which the stable ABI, C++ and PyTorch report a failed allocation.
_MEMORY = re.compile(
    r"aten::(new_empty|new_zeros|contiguous|clone|to|_to_copy|empty_like|reshape|mm|sum)\b"
    r".* API call failed"
    r"|bad_alloc|can't allocate memory|Storage size calculation overflowed|CUDA out of memory",
    re.DOTALL,
)


def call(op: torch._ops.OpOverload, *args: Any) -> Any:
    """Runs ``op(*args)``.

    Checks that depend on the data, such as an index out of range or a NaN coordinate, are made in
    native code during the computation. The stable ABI turns every native exception into a
    RuntimeError. Here an error that begins with ``kpdeform:``, which reports invalid input, becomes
    a ValueError, and a failed allocation becomes a MemoryError, or a torch.OutOfMemoryError on a
    GPU.

    Ctrl-C ends a long native call early. Python's signal handler then runs here and normally raises
    KeyboardInterrupt. If the user has installed a handler that returns, the op is run again.
    """
    if torch.compiler.is_compiling():
        return op(*args)
    while True:
        try:
            return run(op, *args)
        except NotImplementedError as error:
            if "'CUDA' backend" in str(error) and (missing := cuda_missing()) is not None:
                raise RuntimeError(_no_kernels(missing)) from error
            raise
        except RuntimeError as error:
            failure = error
        # Outside the except block, so that a KeyboardInterrupt is not chained to the RuntimeError.
        if _INTERRUPTED not in str(failure):
            raise _known(failure, op, args) or failure


def contiguous(owner: str, tensor: Tensor) -> Tensor:
    """Returns ``tensor.contiguous()``.

    Raises:
        MemoryError: There is too little memory for the copy, for example of an expanded tensor. On
            a GPU it is torch.OutOfMemoryError.
    """
    try:
        return tensor.contiguous()
    except RuntimeError as error:
        if _MEMORY.search(str(error)) is None:
            raise
        raise _memory_error(owner, f"a copy of {_gigabytes([tensor])}", tensor.is_cuda) from error


def _known(
    error: RuntimeError, op: torch._ops.OpOverload, args: tuple[Any, ...]
) -> Exception | None:
    """Returns the exception to raise instead of a native error, or None for an unknown error."""
    message, name = str(error), op._schema.name.removeprefix("kpdeform::")
    if _PREFIX in message:
        text = message.split(_PREFIX, 1)[1].splitlines()[0]
        if text.startswith(_TOO_LARGE):
            return MemoryError(f"{name}: {text}")
        return ValueError(text)
    if "data-dependent shape" in message and "meta Tensors" in message:
        return NotImplementedError(f"{name}: the size of the result is not known on meta tensors")
    if _MISFIT.search(message) and (missing := cuda_missing()) is not None:
        return RuntimeError(_no_kernels(missing))
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    device = next((tensor.device for tensor in tensors if tensor.is_cuda), None)
    if _MEMORY.search(message) is None or not _was_out_of_memory(device):
        return None
    # The result's size is not reported: its fake kernel would import modules, which needs memory.
    sizes = f"inputs of {_gigabytes(tensors)}"
    return _memory_error(name, sizes, device is not None)


def _no_kernels(missing: str) -> str:
    return f"kpdeform has no CUDA kernels here: {missing}"


def _was_out_of_memory(device: torch.device | None) -> bool:
    """Whether the device has ever run out of memory; always true for the CPU.

    On a GPU, any call can also fail because of an error of an earlier kernel.
    """
    return device is None or torch.cuda.memory_stats(device)["num_ooms"] > 0


def _memory_error(name: str, sizes: str, on_gpu: bool) -> Exception:
    kind = torch.OutOfMemoryError if on_gpu else MemoryError
    return kind(f"{name}: out of memory: {sizes}")


def _gigabytes(tensors: Sequence[Tensor]) -> str:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    size = sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
    return f"{size / 1e9:.3g} GB {shapes}"


def autocast_dtype(device: str) -> torch.dtype | None:
    """Returns the autocast dtype of a device type such as "cpu"; None if autocast is off."""
    if device not in _WITH_AUTOCAST or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
