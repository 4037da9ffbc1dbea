"""Imports of optional dependencies, with an error that says how to install what is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional dependency where it is used.

    Args:
        module: Dotted module name, for example ``"laspy"``.
        extra: The extra of kpdeform that brings it, for example ``"io"``.

    Returns:
        The imported module.

    Raises:
        ImportError: The module is missing; the message says which ``pip install`` mends it.

    Example:
        >>> require("json", "io").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise  # the module is there, something that it needs itself is not
        raise ImportError(
            f"this needs {error.name}, which is not installed; pip install 'kpdeform[{extra}]'"
        ) from error
