"""Copies of networks whose products are computed in bfloat16."""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import nn

from kpdeform.nn import GroupNorm

Precision = Literal["32-true", "bf16-mixed"]
"""As in training: float32, or bfloat16 features and products with float32 statistics and sums."""


def in_bfloat16(model: nn.Module) -> nn.Module:
    """Copies a network, with its weights rounded to bfloat16.

    The copy takes bfloat16 features. Positions stay float32, and so do the parameters and the
    statistics of batch and group normalisation, as under autocast; weights are rounded once instead
    of in every call.

    Args:
        model: The network, float32; it does not change.
    """
    copy = deepcopy(model)
    for module in copy.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | GroupNorm):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(torch.bfloat16)
    return copy
