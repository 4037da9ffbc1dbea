"""Batch normalisation of feature rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform.ops._autograd import refuse_second_derivative, register_autograd
from kpdeform.ops._call import call, contiguous
from kpdeform.ops._fake import register_fake


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
    r"""Batch normalisation, then a residual and LeakyReLU, in one pass over memory.

    .. math:: y_{nc} = \mathrm{act}\left(
              w_c \frac{f_{nc} - \mu_c}{\sqrt{\sigma^2_c + \epsilon}} + b_c + r_{nc}\right),
              \quad \mathrm{act}(z) = \max(z, 0) + slope \cdot \min(z, 0)

    Sums over rows are accurate to float32, or to float64 if ``features`` are float64, and equal
    inputs give equal bits: on the CPU for any number of threads, on a GPU for any number of
    multiprocessors. Half precision is computed in float32.

    Args:
        features: f, ``(N, C)`` float32, float64, float16 or bfloat16.
        weight: w, ``(C,)`` float64 if ``features`` are float64, otherwise float32; on the device of
            ``features``, like all tensors below.
        bias: b, ``(C,)`` with the dtype of ``weight``.
        mean: μ, ``(C,)`` with the dtype of ``weight``. If None, mean and variance are computed from
            ``features``, for which every group needs at least two values.
        variance: σ², ``(C,)`` with the dtype of ``weight``; must be given if and only if ``mean``
            is. A computed variance is the biased one.
        residual: r, ``(N, C)`` with the dtype of ``features``, or None for no residual.
        eps: ε, at least 0.
        slope: Negative slope of the LeakyReLU, at least 0; 1 means no activation.
        groups: Number of groups G, a divisor of C. The channels of a group share one mean and one
            variance over all rows: group normalisation in which the packed clouds count as one.
            None means one group per channel, which is batch normalisation.

    Returns:
        y ``(N, C)`` with the dtype of ``features``; μ and σ², ``(C,)`` with that of ``weight``. y
        is differentiable once with respect to features, weight, bias and residual. Gradients flow
        through computed statistics; given statistics are constants. The returned statistics are not
        differentiable.

    Raises:
        ValueError: A shape, device or number is not as above, or there are too few rows to compute
            a variance.
        TypeError: A dtype is not supported, or dtypes differ.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 1; Wu and He 2018,
        arXiv:1803.08494, Eq. 7.

    Example:
        >>> features = torch.tensor([[1.0], [3.0]])
        >>> y, mean, variance = batch_norm(features, torch.ones(1), torch.zeros(1), eps=0.0)
        >>> y.flatten().tolist(), mean.item(), variance.item()
        ([-1.0, 1.0], 2.0, 1.0)
    """
    op = "batch_norm"
    columns = {"weight": weight, "bias": bias, "mean": mean, "variance": variance}
    _checks.tensors(op, features=features, weight=weight, bias=bias)
    _checks.optional_tensors(op, mean=mean, variance=variance, residual=residual)
    if features.dim() != 2:
        raise ValueError(f"{op}: features must be (N, C), got {tuple(features.shape)}")
    shapes = {name: (features.shape[1],) for name in columns} | {"residual": features.shape}
    given = {k: v for k, v in {**columns, "residual": residual}.items() if v is not None}
    for name, value in given.items():
        if value.shape != shapes[name]:
            raise ValueError(
                f"{op}: {name} must be {tuple(shapes[name])}, got {tuple(value.shape)}"
            )
    _checks.of_type(op, "features", features, _checks.FLOATS)
    of_columns = torch.float64 if features.dtype == torch.float64 else torch.float32
    for name, value in given.items():
        dtype = features.dtype if name == "residual" else of_columns
        _checks.alike(op, name, value, "features", features, dtype)
    if (mean is None) != (variance is None):
        raise ValueError(f"{op}: mean and variance must be given together")
    rows, channels = features.shape
    groups = max(channels, 1) if groups is None else groups
    if channels % _checks.count(op, "groups", groups):
        raise ValueError(f"{op}: groups must divide the {channels} channels, got {groups}")
    if mean is None and rows * max(channels // groups, 1) < 2:
        raise ValueError(f"{op}: a variance needs 2 rows of features, got {rows}")
    for name, number in (("eps", eps), ("slope", slope)):
        _checks.number(op, name, number, least=0)
    tensors = (features, weight, bias, mean, variance, residual)
    return call(
        torch.ops.kpdeform.batch_norm.default,
        *(None if tensor is None else contiguous(op, tensor) for tensor in tensors),
        float(eps),
        float(slope),
        groups,
    )


@register_fake("kpdeform::batch_norm")
def _batch_norm_fake(
    features: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None,
    residual: Tensor | None, eps: float, slope: float, groups: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    channels = features.shape[1]
    return (
        features.new_empty(features.shape),
        weight.new_empty(channels),
        weight.new_empty(channels),
    )


@torch.library.register_fake("kpdeform::batch_norm_backward")
def _batch_norm_backward_fake(
    grad: Tensor, out: Tensor, features: Tensor, weight: Tensor, mean: Tensor, variance: Tensor,
    eps: float, slope: float, groups: int, given: bool, residual_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    rows, channels = features.shape
    return (
        features.new_empty((rows, channels)),
        weight.new_empty(channels),
        weight.new_empty(channels),
        features.new_empty((rows if residual_wanted and slope != 1 else 0, channels)),
    )


def _batch_norm_setup(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    features, weight, _, mean, _, _, ctx.eps, ctx.slope, ctx.groups = inputs
    ctx.given = mean is not None
    out, used_mean, used_variance = output
    ctx.mark_non_differentiable(used_mean, used_variance)
    ctx.save_for_backward(out, features, weight, used_mean, used_variance)


def _batch_norm_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    residual_wanted = ctx.needs_input_grad[5]
    op = torch.ops.kpdeform.batch_norm_backward.default
    features, weight, bias, residual = call(
        op, grad.contiguous(), *ctx.saved_tensors, ctx.eps, ctx.slope, ctx.groups, ctx.given,
        residual_wanted,
    )  # fmt: skip
    if ctx.slope == 1:
        residual = grad
    return (
        features,
        weight,
        bias,
        None,
        None,
        residual if residual_wanted else None,
        None,
        None,
        None,
    )


register_autograd("kpdeform::batch_norm", _batch_norm_backward, setup_context=_batch_norm_setup)
refuse_second_derivative("batch_norm")
