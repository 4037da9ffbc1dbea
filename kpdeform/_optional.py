"""Imports optional dependencies; the error for a missing one says how to install it."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: Dotted module name, for example ``"laspy"``.
        extra: The extra of kpdeform that installs it, for example ``"io"``.

    Returns:
        The imported module.

    Raises:
        ImportError: The module is missing; the message gives the ``pip install`` command to run.

    Example:
        >>> require("json", "io").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0]:
            raise  # The module exists, but one of its own imports is missing.
        raise ImportError(
            f"this needs {error.name}, which is not installed; pip install 'kpdeform[{extra}]'"
        ) from error
