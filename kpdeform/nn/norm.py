"""Normalisation of feature rows ``(N, C)``, and the activation that follows it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpdeform import ops
from kpdeform.nn._layer import Layer

NEGATIVE_SLOPE = 0.1

Norm = Callable[[int], nn.Module]
"""Function from a number of channels to a module, such as ``BatchNorm`` or ``nn.LayerNorm``."""


class BatchNorm(Layer, nn.BatchNorm1d):
    """Batch normalisation of rows ``(N, C)``; also accepts batches of fewer than two rows.

    A variance needs two rows. For a batch of one row or none, the layer uses the running statistics
    and does not update them, even in training.

    Args:
        num_features: Number of channels C.
        momentum: Weight of the batch statistics in the update of the running statistics, as in
            torch.
        eps: Number added to the variance.
    """

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, momentum: float = 0.02, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)

    def forward(self, x: Tensor, residual: Tensor | None = None, slope: float = 1.0) -> Tensor:
        """Normalises, adds the residual and applies LeakyReLU.

        Args:
            x: ``(N, C)``.
            residual: ``(N, C)`` or None.
            slope: Negative slope of the LeakyReLU; 1 means no activation.

        Returns:
            ``(N, C)`` with the dtype of ``x``.
        """
        measures = self.training and x.shape[0] >= 2
        dtype = _precise(self.weight.dtype)
        rows = _rows(x, dtype)
        y, mean, variance = ops.batch_norm(
            rows,
            self.weight.to(dtype),
            self.bias.to(dtype),
            mean=None if measures else self.running_mean.to(dtype),
            variance=None if measures else self.running_var.to(dtype),
            residual=None if residual is None else residual.to(rows.dtype),
            eps=self.eps,
            slope=slope,
        )
        if measures:
            unbiased = variance * (x.shape[0] / (x.shape[0] - 1))  # neither needs a gradient
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)  # += would register the buffer again, which is slow
        return y.to(x.dtype)


class GroupNorm(Layer, nn.GroupNorm):
    """Group normalisation of rows ``(N, C)`` with statistics over all rows of the batch.

    All clouds of a packed batch share the statistics, so the result for a cloud depends on the
    other clouds in the batch.

    Args:
        num_groups: Number of groups of neighbouring channels, a divisor of C.
        num_channels: Number of channels C.
        eps: Number added to the variance.

    Example:
        >>> from functools import partial
        >>> from kpdeform import nn
        >>> block = nn.Unary(4, 64, norm=partial(nn.GroupNorm, 8))
    """

    def forward(self, x: Tensor, residual: Tensor | None = None, slope: float = 1.0) -> Tensor:
        """Normalises, adds the residual and applies LeakyReLU.

        Args:
            x: ``(N, C)``.
            residual: ``(N, C)`` or None.
            slope: Negative slope of the LeakyReLU; 1 means no activation.

        Returns:
            ``(N, C)`` with the dtype of ``x``.
        """
        dtype = _precise(self.weight.dtype)
        rows, weight, bias = _rows(x, dtype), self.weight.to(dtype), self.bias.to(dtype)
        if x.shape[0] * (self.num_channels // self.num_groups) < 2:  # A variance needs two values.
            y = torch.addcmul(bias, 0 * rows, weight)
            return activate(y.to(x.dtype), residual, slope)
        y, _, _ = ops.batch_norm(
            rows,
            weight,
            bias,
            residual=None if residual is None else residual.to(rows.dtype),
            eps=self.eps,
            slope=slope,
            groups=self.num_groups,
        )
        return y.to(x.dtype)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which statistics are computed for parameters of ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns ``x`` as ``ops.batch_norm`` accepts it with a weight and bias of ``dtype``.

    Half precision stays beside float32 ones; everything else is cast to ``dtype``.
    """
    half = x.dtype in (torch.float16, torch.bfloat16) and dtype == torch.float32
    return x if half else x.to(dtype)


class Bias(Layer):
    """Adds a learned bias per channel; use it as ``norm`` for networks without normalisation.

    Args:
        num_features: Number of channels C.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Adds the bias to ``x`` ``(N, C)``; returns ``(N, C)``."""
        return x + self.bias.to(x.dtype)


def normalize(
    norm: nn.Module, x: Tensor, residual: Tensor | None = None, slope: float = NEGATIVE_SLOPE
) -> Tensor:
    """Normalises, adds the residual and applies LeakyReLU, in one pass if ``norm`` supports it."""
    if isinstance(norm, BatchNorm | GroupNorm):
        y: Tensor = norm(x, residual, slope)
        return y
    return activate(norm(x), residual, slope)


def activate(x: Tensor, residual: Tensor | None, slope: float) -> Tensor:
    """Adds the residual, if given, and applies LeakyReLU."""
    if residual is not None:
        x = x + residual
    return x if slope == 1 else F.leaky_relu(x, slope)
