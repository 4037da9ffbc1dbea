"""Rigid and deformable kernel-point convolutions for point clouds in PyTorch.

``import kpdeform`` is cheap: a submodule such as ``kpdeform.nn`` is imported when it is first used,
so ``kpdeform.nn.KPConv(...)`` works without importing ``kpdeform.nn`` explicitly.
"""

from importlib import import_module
from typing import Any

from kpdeform._version import __version__

_PARTS = (
    "cli", "data", "inference", "inspection", "kernel_points", "models", "nn", "onnx", "ops",
    "reference", "train", "viz",
)  # fmt: skip

__all__ = ["__version__", "info", *_PARTS]


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"kpdeform.{name}")
    if name == "info":
        return import_module("kpdeform._info").info
    raise AttributeError(f"module 'kpdeform' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
