"""Depthwise kernel point convolution: the combiner of KPConvD and KPConvX.

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

    with the influences of :func:`kpdeform.ops.kpconv`. With the aggregation "closest" only the
    nearest kernel point of each neighbour counts, and the sum over k has one term. No tensor of
    size M×H×K, M×H×C or M×K×C is made, forward or backward; modulations are the largest input.

    Under autocast, features and weight take the autocast dtype; positions, influences and sums stay
    as they are.

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, same dtype as queries.
        neighbors: n, rows of ``points``, ``(M, H)`` int32 or int64; ``N`` and ``-1`` are empty
            slots.
        features: f, ``(N, C)`` of the positions' dtype, or half precision with float32 positions.
        kernel_points: x, ``(K, D)``, same dtype as queries.
        weight: W, ``(K, C)``, same dtype as features.
        sigma: Reach of a kernel point, > 0.
        offsets: Delta, ``(M, K, D)``, or ``(M, G, K, D)`` for G groups of channels that deform
            each on their own; same dtype as queries.
        modulations: mu, ``(M, K)``, or ``(M, K, G)``: channel c uses number c // (C / G); same
            dtype as queries. Grouped offsets and grouped modulations have one G.
        influence: ``"linear"``, ``"gaussian"`` or ``"constant"``. With offsets, the last two drop
            neighbours that no kernel point has within sigma.
        aggregation: Only the ``"closest"`` kernel point of each neighbour, or the ``"sum"`` over
            all.

    Returns:
        ``(M, C)`` of the features' dtype; differentiable in features, weight, offsets and
        modulations, once.

    Raises:
        ValueError: Shapes, devices, ``sigma`` or a neighbour index disagree with the above.
        TypeError: A dtype is not supported.

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


# ---- fakes and autograd


@torch.library.register_fake("kpdeform::kpconv_depthwise")
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
