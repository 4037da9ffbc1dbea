"""Loads the native libraries: the CPU one must be there, the CUDA one may be missing."""

from __future__ import annotations

import ctypes
import threading
from importlib.util import find_spec
from pathlib import Path

import torch


def find(name: str) -> Path | None:
    """Where a native library is, or None."""
    spec = find_spec("kpdeform")
    folders = spec.submodule_search_locations if spec is not None else None
    candidates = [Path(folder) / f"{name}.so" for folder in folders or [Path(__file__).parent]]
    return next((path for path in candidates if path.exists()), None)


def _load_cpu() -> None:
    path = find("_C")
    if path is None:
        raise ImportError(
            "kpdeform: the compiled library kpdeform/_C.so is missing; install the package with "
            "`pip install .` (or `make install`) instead of importing the bare source tree"
        )
    torch.ops.load_library(path)
    _let_it_hear_interrupts(path)


def _let_it_hear_interrupts(path: Path) -> None:
    """Gives the native code what it needs to end a long call early when Ctrl-C is pressed.

    No signal handler is changed: Python notes the signal as always, and native code asks whether it
    did (``csrc/base/interrupt.h``). ``_TAKE_INTERRUPT`` calls a C function directly, so that no
    handler can run, and raise, where nobody could catch it.
    """
    address_of_set_interrupt = ctypes.cast(ctypes.pythonapi.PyErr_SetInterrupt, ctypes.c_void_p)
    main_thread = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.CDLL(str(path)).kpdeform_hear_interrupts(
        main_thread, _TAKE_INTERRUPT, address_of_set_interrupt
    )


def _load_cuda() -> str | None:
    """Returns why the CUDA kernels cannot be used, or None when they can."""
    if not torch.cuda.is_available():
        return "torch.cuda.is_available() is False: no CUDA device, or a CPU build of torch"
    path = find("_C_cuda")
    if path is None:
        return "kpdeform was built without nvcc; install the CUDA toolkit and build it again"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"loading {path.name} failed: {error.__cause__ or error}"
    return None


def instruction_set() -> str:
    """The instruction set that the CPU kernels were chosen for, such as "avx2"."""
    return ("base", "avx2", "avx512")[torch.ops.kpdeform.instruction_set()]


_TAKE_INTERRUPT = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.pythonapi.PyOS_InterruptOccurred)

_load_cpu()
CUDA_MISSING: str | None = _load_cuda()
"""Why the CUDA kernels cannot be used, or None; ops say it when they are given CUDA tensors."""
