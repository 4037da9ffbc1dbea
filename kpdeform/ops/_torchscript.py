"""TorchScript support, for code that scripts calls of torchvision's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("kpdeform", "FRAGMENT")


def scriptable(function: Callable[..., Any], schema: str) -> None:
    """Registers ``function`` as an operator, so that ``torch.jit.script`` can call it.

    TorchScript cannot compile the function's Python code.

    Args:
        function: A Python function of tensors and numbers.
        schema: Its signature as an operator schema, without the name.
    """
    name = f"scripted_{function.__name__}"
    _library.define(name + schema)
    _library.impl(name, function, "CompositeImplicitAutograd")
    torch.jit._builtins._register_builtin(function, f"kpdeform::{name}")
