"""The published way of drawing weights."""

from __future__ import annotations

import math

from torch import nn

from kpdeform.nn.kpconv import KPConv
from kpdeform.nn.kpconvx import KPConvD


def published_init_(module: nn.Module) -> None:
    """Draws the weights of one layer as the published code does; for ``model.apply(...)``.

    Uniform in ±1/√(C·O) for a KPConv and ±1/√C for a KPConvD or KPConvX, offset heads included,
    whose offsets are then not zero at the start. Batch normalisation hides the scale of the output
    but not that of the steps: the smaller the weights, the faster they turn for one learning rate.
    Use it to repeat a published training; without normalisation, activations shrink from layer to
    layer.

    Args:
        module: Changed in place when it is a kernel point convolution, else left alone.
    """
    if isinstance(module, KPConv | KPConvD):
        bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
        nn.init.uniform_(module.weight, -bound, bound)
