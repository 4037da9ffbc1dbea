"""Loads the native libraries: the CPU library is required, the CUDA library is optional."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch


def find(name: str) -> Path | None:
    """Returns the path of a native library, or None if it was not built.

    ``KPDEFORM_LIBRARIES`` names a folder to look in first, so that a source tree can be used with
    libraries that were built elsewhere.
    """
    spec = find_spec("kpdeform")
    folders = spec.submodule_search_locations if spec is not None else None
    folders = [*os.environ.get("KPDEFORM_LIBRARIES", "").splitlines(), *(folders or [])]
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
    """Registers the CUDA kernels; returns None, or the reason why there are none.

    Looks only at how torch was built. To look for a device would initialise CUDA, after which a
    process must not be forked.
    """
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
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


@cache
def cuda_missing() -> str | None:
    """Returns None, or the reason why the CUDA kernels cannot be used. Initialises CUDA."""
    if not torch.cuda.is_available():
        return "torch.cuda.is_available() is False: no CUDA device, or a CPU build of torch"
    if _CUDA_NOT_LOADED is not None:
        return _CUDA_NOT_LOADED
    return _cuda_misfit(ctypes.CDLL(str(find("_C_cuda"))))


def _cuda_misfit(library: ctypes.CDLL) -> str | None:
    """Returns None, or why the kernels of a loaded CUDA library cannot run on this machine.

    The functions of ``library`` are described in ``csrc/base/runtime_cuda.cu``.
    """
    for text in (library.kpdeform_cuda_error, library.kpdeform_cuda_architectures):
        text.restype = ctypes.c_char_p
    error = library.kpdeform_cuda_error()
    if error is None:
        return None
    toolkit, driver = library.kpdeform_cuda_toolkit(), library.kpdeform_cuda_driver()
    numbers = library.kpdeform_cuda_architectures().decode().split(",")
    compiled = ", ".join(f"sm_{int(number) // 10}" for number in numbers)
    device = "sm_{}{}".format(*torch.cuda.get_device_capability())
    if driver // 1000 < toolkit // 1000:
        cure = f"update the driver, or install kpdeform again with nvcc {_release(driver)} or older"
    else:
        cure = "install kpdeform again with KPDEFORM_CUDA=ON on this machine"
    return (
        f"the CUDA kernels do not run here ({error.decode()}): nvcc {_release(toolkit)} compiled "
        f"them for {compiled}, the GPU is {device} and its driver supports CUDA "
        f"{_release(driver)}; {cure}"
    )


def _release(version: int) -> str:
    """Formats a version of CUDA, 1000 * major + 10 * minor."""
    return f"{version // 1000}.{version % 1000 // 10}"


def instruction_set() -> str:
    """Returns the instruction set of the CPU kernels in use: "base", "avx2", "avx512" or "amx"."""
    return ("base", "avx2", "avx512", "amx")[torch.ops.kpdeform.instruction_set()]


_TAKE_INTERRUPT = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.pythonapi.PyOS_InterruptOccurred)

_load_cpu()
_CUDA_NOT_LOADED = _load_cuda()
