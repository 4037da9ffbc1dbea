"""Depthwise kernel point convolution, the operation of KPConvD and KPConvX.

The native contract is csrc/kpconv/kpconv.h.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform._types import Aggregation, Influence
from kpdeform.ops._autograd import refuse_second_derivative, register_autograd
from kpdeform.ops._call import call
from kpdeform.ops._fake import register_fake
from kpdeform.ops._points import (
    AGGREGATIONS,
    INFLUENCES,
    autocast,
    backward,
    backward_fake,
    check_dtypes,
    check_groups,
    check_shapes,
    setup,
)


def kpconv_depthwise(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    features: Tensor,
    kernel_points: Tensor,
    weight: Tensor,
    sigma: float,
    *,
    offsets: Tensor | None = None,
    modulations: Tensor | None = None,
    influence: Influence = "linear",
    aggregation: Aggregation = "closest",
) -> Tensor:
    r"""Kernel point convolution with one weight per kernel point and channel.

    .. math::
        y_{mc} = \sum_{h,k} \mu_{mkc}\, a(\|p_{n(m,h)} - q_m - x_k - \Delta_{mk}\|)\,
                 W_{kc}\, f_{n(m,h)\,c}

    where the influence a(d) is one of those of :func:`kpdeform.ops.kpconv`. With the aggregation
    "closest", the sum over k has only one term for each neighbour: that of its nearest kernel
    point. Neither the forward nor the backward pass allocates a tensor of size M×H×K, M×H×C or
    M×K×C.

    Under autocast, features and weight are cast to the autocast dtype. Positions, influences and
    sums keep their precision.

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, with the dtype of ``queries``.
        neighbors: n, ``(M, H)`` int32 or int64 row numbers of ``points``. ``N`` and ``-1`` mark
            empty slots, which may be anywhere in a row.
        features: f, ``(N, C)`` with the dtype of the positions, or float16 or bfloat16 with float32
            positions.
        kernel_points: x, ``(K, D)`` relative to a query, with the dtype of ``queries``.
        weight: W, ``(K, C)``, with the dtype of ``features``.
        sigma: σ > 0, the distance from a kernel point at which its linear influence reaches 0.
        offsets: Δ, ``(M, K, D)``, with the dtype of ``queries``; or ``(M, G, K, D)`` for G channel
            groups, where channel c uses the offsets of group ``c // (C / G)``.
        modulations: μ, ``(M, K)``, with the dtype of ``queries``; or ``(M, K, G)``, where channel c
            uses the modulations of group ``c // (C / G)``. If both offsets and modulations are
            grouped, they must have the same G.
        influence: ``"linear"``, ``"gaussian"`` or ``"constant"``. If offsets are given, the last
            two ignore neighbours that are not within sigma of any kernel point.
        aggregation: ``"closest"`` lets only the kernel point nearest to a neighbour act on it,
            ``"sum"`` every kernel point.

    Returns:
        y, ``(M, C)`` with the dtype of ``features``. Differentiable once with respect to features,
        weight, offsets and modulations, not with respect to positions.

    Raises:
        ValueError: A shape or device does not match, ``sigma`` is not positive, or a neighbour
            index is out of range. (On CUDA an index that is out of range counts as an empty slot.)
        TypeError: A dtype is not supported, or dtypes do not match.

    Source: Thomas et al. 2024, arXiv:2405.13194, Eq. 2-5 (KPConvD and the attention of KPConvX).

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.knn_neighbors(points, points, 12)
        >>> kernel_points = torch.rand(43, 3) * 0.4 - 0.2
        >>> weight, features = torch.rand(43, 32), torch.rand(100, 32)
        >>> attention = torch.rand(100, 43, 4)
        >>> ops.kpconv_depthwise(
        ...     points, points, neighbors, features, kernel_points, weight, 0.2,
        ...     modulations=attention,
        ... ).shape
        torch.Size([100, 32])
    """
    op = "kpconv_depthwise"
    _checks.tensors(
        op, queries=queries, points=points, neighbors=neighbors, features=features,
        kernel_points=kernel_points, weight=weight,
    )  # fmt: skip
    _checks.optional_tensors(op, offsets=offsets, modulations=modulations)
    features, weight = autocast(features, weight)
    positions = (queries, points, neighbors, kernel_points)
    check_shapes(op, *positions, features)
    expected = (kernel_points.shape[0], features.shape[1])
    if weight.shape != expected:
        raise ValueError(f"{op}: weight must be (K, C) = {expected}, got {tuple(weight.shape)}")
    check_groups(op, queries, kernel_points, features.shape[1], offsets, modulations)
    check_dtypes(op, *positions, features, weight, offsets, modulations)
    sigma = _checks.reach(op, "sigma", sigma, queries.dtype)
    return call(
        torch.ops.kpdeform.kpconv_depthwise.default,
        queries, points, neighbors, features, kernel_points, weight, sigma,
        offsets, modulations, _checks.one_of(op, "influence", influence, INFLUENCES),
        _checks.one_of(op, "aggregation", aggregation, AGGREGATIONS),
    )  # fmt: skip


# ---- fake kernels and autograd


@register_fake("kpdeform::kpconv_depthwise")
def _depthwise_fake(
    queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor, kernel_points: Tensor,
    weight: Tensor, sigma: float, offsets: Tensor | None, modulations: Tensor | None,
    influence: int, aggregation: int,
) -> Tensor:  # fmt: skip
    torch._check(neighbors.shape[0] == queries.shape[0])
    torch._check(features.shape[0] == points.shape[0])
    return features.new_empty(queries.shape[0], features.shape[1])


torch.library.register_fake("kpdeform::kpconv_depthwise_backward", backward_fake)
register_autograd(
    "kpdeform::kpconv_depthwise",
    partial(backward, "kpconv_depthwise_backward"),
    setup_context=setup,
)
refuse_second_derivative("kpconv_depthwise")
