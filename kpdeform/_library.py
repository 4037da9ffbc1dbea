"""Loads the native libraries: the CPU library is required, the CUDA library is optional."""

from __future__ import annotations

import ctypes
import threading
from importlib.util import find_spec
from pathlib import Path

import torch


def find(name: str) -> Path | None:
    """Returns the path of a native library, or None if it was not built."""
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
    """Passes the native code the functions with which it ends a long call early on Ctrl-C.

    Signal handlers stay as they are: Python records the signal as usual, and native code polls
    whether one was recorded (``csrc/base/interrupt.h``). ``_TAKE_INTERRUPT`` calls a C function of
    the interpreter directly. It never runs a Python signal handler, whose exception could not be
    caught inside native code.
    """
    address_of_set_interrupt = ctypes.cast(ctypes.pythonapi.PyErr_SetInterrupt, ctypes.c_void_p)
    main_thread = ctypes.c_ulong(threading.main_thread().ident or 0)
    ctypes.CDLL(str(path)).kpdeform_hear_interrupts(
        main_thread, _TAKE_INTERRUPT, address_of_set_interrupt
    )


def _load_cuda() -> str | None:
    """Loads the CUDA library; returns None, or the reason why the CUDA kernels cannot be used."""
    if not torch.cuda.is_available():
        return "torch.cuda.is_available() is False: no CUDA device, or a CPU build of torch"
    path = find("_C_cuda")
    if path is None:
        return (
            "kpdeform was built without CUDA kernels; install it again with KPDEFORM_CUDA=ON where "
            "nvcc is found"
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"loading {path.name} failed: {error.__cause__ or error}"
    return None


def instruction_set() -> str:
    """Returns the instruction set of the CPU kernels in use: "base", "avx2" or "avx512"."""
    return ("base", "avx2", "avx512")[torch.ops.kpdeform.instruction_set()]


_TAKE_INTERRUPT = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.pythonapi.PyOS_InterruptOccurred)

_load_cpu()
CUDA_MISSING: str | None = _load_cuda()
"""Reason why the CUDA kernels cannot be used, or None. Ops report it when given CUDA tensors."""
