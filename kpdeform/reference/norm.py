"""Batch normalisation, formula by formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    slope: float = 1.0,
    groups: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Twin of :func:`kpdeform.ops.batch_norm`."""
    rows = features.to(weight.dtype)  # float32 in place of half precision
    if mean is None or variance is None:
        size = 1 if groups is None else features.shape[1] // groups
        mean = rows.mean(0).unflatten(0, (-1, size)).mean(1).repeat_interleave(size)
        square = (rows - mean).square().mean(0)
        variance = square.unflatten(0, (-1, size)).mean(1).repeat_interleave(size)
    y = (rows - mean) * torch.rsqrt(variance + eps) * weight + bias
    if residual is not None:
        y = y + residual
    return F.leaky_relu(y, slope).to(features.dtype), mean.detach(), variance.detach()
