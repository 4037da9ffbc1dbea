"""Depthwise kernel point convolution: the combiner of KPConvD and KPConvX.

The native contract is csrc/sampling/kpconv.h.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpdeform.ops import _checks
from kpdeform.ops._autograd import gradient_like, refuse_second_derivative
from kpdeform.ops._call import call
from kpdeform.ops._transposed import transposed_neighbors
from kpdeform.ops.kpconv import (
    _AGGREGATIONS,
    _HALF,
    _INFLUENCES,
    Aggregation,
    Influence,
    _autocast,
    _check_groups,
    _check_positions,
    _check_sigma,
    _choice,
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
    features, weight = _autocast(features, weight)
    _check_positions(op, queries, points, neighbors, kernel_points)
    _check_features(points, features, weight, kernel_points)
    _check_groups(op, queries, kernel_points, features.shape[1], offsets, modulations)
    _check_sigma(op, sigma)
    return call(
        torch.ops.kpdeform.kpconv_depthwise.default,
        queries, points, neighbors, features, kernel_points, weight, float(sigma),
        offsets, modulations, _choice("influence", influence, _INFLUENCES),
        _choice("aggregation", aggregation, _AGGREGATIONS),
    )  # fmt: skip


# ---- checks


def _check_features(
    points: Tensor, features: Tensor, weight: Tensor, kernel_points: Tensor
) -> None:
    if features.dim() != 2 or features.shape[0] != points.shape[0]:
        raise ValueError(
            f"kpconv_depthwise: features must have one row per point, ({points.shape[0]}, C), "
            f"got {tuple(features.shape)}"
        )
    expected = (kernel_points.shape[0], features.shape[1])
    if weight.shape != expected:
        raise ValueError(
            f"kpconv_depthwise: weight must be (K, C) = {expected}, got {tuple(weight.shape)}"
        )
    if features.dtype != points.dtype and not (
        features.dtype in _HALF and points.dtype == torch.float32
    ):
        raise TypeError(
            f"kpconv_depthwise: features must be {points.dtype} like points, or float16/bfloat16 "
            f"with float32 points, got {features.dtype}"
        )
    _checks.alike("kpconv_depthwise", "weight", weight, "features", features)
    if features.device != points.device:
        raise ValueError(
            f"kpconv_depthwise: features is on {features.device} but points is on {points.device}"
        )


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


@torch.library.register_fake("kpdeform::kpconv_depthwise_backward")
def _depthwise_backward_fake(
    grad: Tensor, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor,
    kernel_points: Tensor, weight: Tensor, sigma: float, offsets: Tensor | None,
    modulations: Tensor | None, influence: int, aggregation: int,
    starts: Tensor | None, members: Tensor | None,
    features_wanted: bool, weight_wanted: bool, offsets_wanted: bool, modulations_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return (
        gradient_like(features_wanted, features, features),
        gradient_like(weight_wanted, weight, weight),
        gradient_like(offsets_wanted, offsets, queries),
        gradient_like(modulations_wanted, modulations, queries),
    )


def _depthwise_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, sigma, offsets, modulations, influence, aggregation = inputs
    ctx.save_for_backward(*tensors, offsets, modulations)
    ctx.options = (sigma, influence, aggregation)


def _depthwise_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, offsets, modulations = ctx.saved_tensors
    sigma, influence, aggregation = ctx.options
    _, points, neighbors, *_ = tensors
    wanted = [ctx.needs_input_grad[i] for i in (3, 5, 7, 8)]
    table = transposed_neighbors(neighbors, points.shape[0]) if wanted[0] else (None, None)
    grads = torch.ops.kpdeform.kpconv_depthwise_backward.default(
        grad, *tensors, sigma, offsets, modulations, influence, aggregation, *table, *wanted
    )
    features, weight, of_offsets, of_modulations = (
        g if w else None for g, w in zip(grads, wanted, strict=True)
    )
    return None, None, None, features, None, weight, None, of_offsets, of_modulations, None, None


torch.library.register_autograd(
    "kpdeform::kpconv_depthwise", _depthwise_backward, setup_context=_depthwise_setup
)
refuse_second_derivative("kpconv_depthwise")
