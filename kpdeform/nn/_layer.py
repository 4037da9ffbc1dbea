"""Base class that adapts every layer and block to PyTorch's tools."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """Base class of all layers and blocks.

    * ``torch.fx.symbolic_trace`` records the layer as a single call and does not trace its
      ``forward``.
    * ``torch.jit.script`` raises an error that names the layer.
    * ``half()`` and ``bfloat16()`` leave a buffer called ``kernel_points`` in float32, because
      positions need that precision.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "forward" in cls.__dict__:
            cls.forward = _one_step(cls.forward)

    def __prepare_scriptable__(self) -> None:
        raise NotImplementedError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script, which PyTorch has "
            "deprecated; use torch.compile, or torch.export to save it"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = self._buffers.get("kernel_points")
        super()._apply(fn, recurse)
        after = self._buffers.get("kernel_points")
        if after is not None and before is not None and after.element_size() < 4:
            self._buffers["kernel_points"] = before.to(after.device, torch.float32)
        return self


def _one_step(forward: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.fx.Proxy):
                tracer: Any = value.tracer
                path = tracer.path_of_module(self)
                return tracer.create_proxy("call_module", path, args, kwargs)
        return forward(self, *args, **kwargs)

    # torch.compile keeps what it has compiled by code object. A code object of its own lets every
    # class be compiled without recompiling the others.
    call.__code__ = call.__code__.replace(co_name=forward.__name__)
    return wraps(forward)(call)
