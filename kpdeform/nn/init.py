"""Weight initialisation of the published code."""

from __future__ import annotations

import math

from torch import nn

from kpdeform.nn.kpconv import KPConv
from kpdeform.nn.kpconvx import KPConvD


def published_init_(module: nn.Module) -> None:
    """Initialises the weights of one layer as the published code does.

    Call ``model.apply(published_init_)`` to initialise a whole model. Weights are uniform in
    ±1/√(C·O) for a KPConv and in ±1/√C for a KPConvD or KPConvX. That includes offset heads, so
    that offsets do not start at zero.

    Use it to repeat a published training. The scale of the weights matters even where batch
    normalisation removes the scale of the output: at a given learning rate, smaller weights change
    direction faster. Without normalisation, activations shrink from layer to layer.

    Args:
        module: Changed in place if it is a kernel point convolution; other modules are left
            unchanged.
    """
    if isinstance(module, KPConv | KPConvD):
        bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
        nn.init.uniform_(module.weight, -bound, bound)
