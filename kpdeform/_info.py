"""Description of the installation for bug reports."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import kpdeform

_PACKAGES = (
    "torch", "numpy", "torch-scatter", "safetensors", "jsonargparse", "lightning", "torchmetrics",
    "laspy", "lazrs", "plyfile", "open3d", "matplotlib", "onnx", "huggingface_hub",
)  # fmt: skip


class Info(dict[str, str]):
    """A dictionary from the name of a fact to its value that prints as a table."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {value}" for name, value in self.items())

    __repr__ = __str__


def info() -> Info:
    """Describes this installation, for a bug report.

    Returns:
        A dictionary that prints as a table. It holds the versions of kpdeform, of Python and of
        the packages that kpdeform can use, the paths of the native libraries, the instruction set
        chosen for this processor, the number of threads, the CUDA devices and, if the CUDA kernels
        cannot be used, the reason.

    Example:
        >>> import kpdeform
        >>> kpdeform.info()["kpdeform"] == kpdeform.__version__
        True
    """
    facts = Info(kpdeform=kpdeform.__version__, python=platform.python_version())
    facts["platform"] = f"{platform.platform()}, {platform.machine()}"
    facts |= {name: _version(name) for name in _PACKAGES}
    facts |= _native_facts()
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _native_facts() -> dict[str, str]:
    try:
        from kpdeform import _library
    except (ImportError, OSError) as error:  # A broken installation must still give a report.
        return {"CPU library": f"cannot be loaded: {error}"}
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    return {
        "CPU library": str(_library.find("_C")),
        "instruction set": _library.instruction_set(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()}, OMP_WAIT_POLICY {policy}",
        "CUDA library": str(_library.find("_C_cuda") or "not built"),
        "CUDA of torch": str(torch.version.cuda or "none"),
        "CUDA devices": ", ".join(devices) or "none",
        "CUDA kernels": _library.cuda_missing() or "in use",
    }
