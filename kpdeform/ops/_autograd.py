"""What the ops' autograd rules share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def refuse_second_derivative(name: str) -> None:
    """Makes the backward op of ``name`` raise, by name, when it is differentiated."""

    def refuse(ctx: Any, *grads: Tensor) -> None:
        raise RuntimeError(
            f"{name} can be differentiated once, not twice; detach its gradient before using it"
        )

    torch.library.register_autograd(f"kpdeform::{name}_backward", refuse)


def gradient_like(wanted: bool, tensor: Tensor | None, like: Tensor) -> Tensor:
    """What a fake backward op returns for one input: its shape, or nothing when not wanted."""
    return like.new_empty(tensor.shape if wanted and tensor is not None else (0,))
