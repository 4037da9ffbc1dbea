"""Kernel point convolution, and the distances that the fitting loss of deformable layers needs.

The native contract is csrc/kpconv/kpconv.h.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, overload

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


@overload
def kpconv(
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
    aggregation: Aggregation = "sum",
    groups: int = 1,
    return_distances: Literal[False] = False,
) -> Tensor: ...


@overload
def kpconv(
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
    aggregation: Aggregation = "sum",
    groups: int = 1,
    return_distances: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def kpconv(
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
    aggregation: Aggregation = "sum",
    groups: int = 1,
    return_distances: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Kernel point convolution, deformable when ``offsets`` is given.

    .. math::
        y_m = \sum_{h,k} \mu_{mk}\, a(\|p_{n(m,h)} - q_m - x_k - \Delta_{mk}\|)\, f_{n(m,h)} W_k

    where the influence a(d) is :math:`\max(0, 1 - d/\sigma)` (``"linear"``),
    :math:`\exp(-d^2 / (2 (0.3\sigma)^2))` (``"gaussian"``) or 1 (``"constant"``). All lengths have
    the same unit, usually metres. Neither the forward nor the backward pass allocates a tensor of
    size M×H×K, M×H×C or M×K×C.

    Under autocast, features and weight are cast to the autocast dtype. Positions, influences and
    sums over neighbours keep their precision. On CUDA, these sums are rounded to the dtype of the
    features before they are multiplied by the weight. That product obeys PyTorch's switches like
    the one of :class:`torch.nn.Linear`: it sums in float32, but may add partial sums in half
    precision unless ``torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction`` (or
    ``allow_fp16_reduced_precision_reduction``) is False.

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, with the dtype of ``queries``.
        neighbors: n, ``(M, H)`` int32 or int64 row numbers of ``points``. ``N`` and ``-1`` mark
            empty slots, which may be anywhere in a row.
        features: f, ``(N, C)`` with the dtype of the positions, or float16 or bfloat16 with float32
            positions.
        kernel_points: x, ``(K, D)`` relative to a query, with the dtype of ``queries``.
        weight: W, ``(K, C / groups, O)``, with the dtype of ``features``.
        sigma: σ > 0, the distance from a kernel point at which its linear influence reaches 0.
        offsets: Δ, ``(M, K, D)``, with the dtype of ``queries``; or ``(M, G, K, D)`` for G channel
            groups, where channel c uses the offsets of group ``c // (C / G)``.
        modulations: μ, ``(M, K)``, with the dtype of ``queries``; or ``(M, K, G)`` for G channel
            groups as in ``offsets``.
        influence: ``"linear"``, ``"gaussian"`` or ``"constant"``. If offsets are given, the last
            two ignore neighbours that are not within sigma of any kernel point.
        aggregation: ``"sum"`` lets every kernel point act on a neighbour, ``"closest"`` only the
            kernel point nearest to it.
        groups: Number of channel groups of the weight, a divisor of C and O.
        return_distances: Also return :func:`kernel_point_distances`, at little extra cost.

    Returns:
        y, ``(M, O)`` with the dtype of ``features``, or, with ``return_distances``, a tuple of y
        and the distances. Differentiable once with respect to features, weight, offsets and
        modulations, not with respect to positions.

    Raises:
        ValueError: A shape or device does not match, ``sigma`` is not positive, or a neighbour
            index is out of range. (On CUDA an index that is out of range counts as an empty slot.)
        TypeError: A dtype is not supported, or dtypes do not match.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 1-3 (rigid), 4-5 (deformable).

    Deviation: the gradient of a distance of 0 is defined as 0; the paper does not define it.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> points = torch.rand(100, 3)
        >>> neighbors = ops.radius_neighbors(points, points, 0.3, max_neighbors=16)
        >>> kernel_points = torch.rand(15, 3) * 0.3 - 0.15
        >>> weight = torch.rand(15, 8, 32)
        >>> features = torch.rand(100, 8)
        >>> ops.kpconv(points, points, neighbors, features, kernel_points, weight, 0.15).shape
        torch.Size([100, 32])
    """
    _checks.tensors(
        "kpconv", queries=queries, points=points, neighbors=neighbors, features=features,
        kernel_points=kernel_points, weight=weight,
    )  # fmt: skip
    _checks.optional_tensors("kpconv", offsets=offsets, modulations=modulations)
    features, weight = autocast(features, weight)
    positions = (queries, points, neighbors, kernel_points)
    check_shapes("kpconv", *positions, features)
    _check_weight(features, weight, kernel_points, groups)
    check_groups("kpconv", queries, kernel_points, features.shape[1], offsets, modulations)
    check_dtypes("kpconv", *positions, features, weight, offsets, modulations)
    sigma = _checks.reach("kpconv", "sigma", sigma, queries.dtype)
    op = torch.ops.kpdeform.kpconv_with_distances if return_distances else torch.ops.kpdeform.kpconv
    return call(
        op.default, queries, points, neighbors, features, kernel_points, weight, sigma,
        offsets, modulations, _checks.one_of("kpconv", "influence", influence, INFLUENCES),
        _checks.one_of("kpconv", "aggregation", aggregation, AGGREGATIONS), groups,
    )  # fmt: skip


def kernel_point_distances(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    sigma: float,
    *,
    offsets: Tensor | None = None,
) -> Tensor:
    r"""Squared distance from every kernel point to the nearest neighbour of its query.

    The fitting loss of deformable layers uses it.

    .. math:: d^2_{mk} = \min_h \|p_{n(m,h)} - q_m - x_k - \Delta_{mk}\|^2

    Args:
        queries: q, ``(M, D)`` float32 or float64, D in {2, 3}.
        points: p, ``(N, D)``, with the dtype of ``queries``.
        neighbors: n, ``(M, H)`` int32 or int64 row numbers of ``points``; ``N`` and ``-1`` mark
            empty slots, which are skipped.
        kernel_points: x, ``(K, D)`` relative to a query, with the dtype of ``queries``.
        sigma: Must be > 0, but the distances do not depend on it. The argument keeps the signature
            like that of :func:`kpconv`.
        offsets: Δ, ``(M, K, D)``, or ``(M, G, K, D)`` for G channel groups, with the dtype of
            ``queries``.

    Returns:
        ``(M, K)``, or ``(M, G, K)`` with grouped offsets, with the dtype of ``queries`` and in the
        squared unit of the coordinates. A query without neighbours has distance 0. Differentiable
        once with respect to offsets.

    Raises:
        ValueError: A shape or device does not match, ``sigma`` is not positive, or a neighbour
            index is out of range. (On CUDA an index that is out of range counts as an empty slot.)
        TypeError: A dtype is not supported, or dtypes do not match.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 7.

    Deviation: empty slots are ignored. In KPConv-PyTorch they count as a point far away, so that a
        query without neighbours has a distance of about 3e12.

    Example:
        >>> import torch
        >>> from kpdeform import ops
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> neighbors = torch.tensor([[0, 1], [1, 2]])
        >>> kernel_points = torch.tensor([[0.75, 0.0, 0.0]])
        >>> ops.kernel_point_distances(points, points, neighbors, kernel_points, 1.0)
        tensor([[0.0625],
                [0.5625]])
    """
    op = "kernel_point_distances"
    _checks.tensors(
        op, queries=queries, points=points, neighbors=neighbors, kernel_points=kernel_points
    )
    _checks.optional_tensors(op, offsets=offsets)
    positions = (queries, points, neighbors, kernel_points)
    check_shapes(op, *positions)
    check_groups(op, queries, kernel_points, 0, offsets, None)
    check_dtypes(op, *positions, offsets=offsets)
    sigma = _checks.reach(op, "sigma", sigma, queries.dtype)
    return call(
        torch.ops.kpdeform.kernel_point_distances.default,
        queries,
        points,
        neighbors,
        kernel_points,
        offsets,
    )


def _check_weight(features: Tensor, weight: Tensor, kernel_points: Tensor, groups: int) -> None:
    if features.shape[1] % _checks.count("kpconv", "groups", groups):
        raise ValueError(
            f"kpconv: groups must divide the {features.shape[1]} channels of features, got {groups}"
        )
    expected = (kernel_points.shape[0], features.shape[1] // groups)
    if weight.dim() != 3 or weight.shape[:2] != expected or weight.shape[2] % groups:
        raise ValueError(
            f"kpconv: weight must be (K, C / groups, O) = ({expected[0]}, {expected[1]}, O) with O "
            f"divisible by groups = {groups}, got {tuple(weight.shape)}"
        )


# ---- fake kernels and autograd


@register_fake("kpdeform::kpconv")
def _kpconv_fake(
    queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor, kernel_points: Tensor,
    weight: Tensor, sigma: float, offsets: Tensor | None, modulations: Tensor | None,
    influence: int, aggregation: int, groups: int,
) -> Tensor:  # fmt: skip
    torch._check(neighbors.shape[0] == queries.shape[0])
    torch._check(features.shape[0] == points.shape[0])
    return features.new_empty(queries.shape[0], weight.shape[2])


def _distances_like(queries: Tensor, kernel_points: Tensor, offsets: Tensor | None) -> Tensor:
    groups = offsets.shape[1:2] if offsets is not None and offsets.dim() == 4 else ()
    return queries.new_empty((queries.shape[0], *groups, kernel_points.shape[0]))


@register_fake("kpdeform::kpconv_with_distances")
def _kpconv_with_distances_fake(
    queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor, kernel_points: Tensor,
    weight: Tensor, sigma: float, offsets: Tensor | None, modulations: Tensor | None,
    influence: int, aggregation: int, groups: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out = features.new_empty(queries.shape[0], weight.shape[2])
    return out, _distances_like(queries, kernel_points, offsets)


def _kpconv_with_distances_backward(
    ctx: Any, grad: Tensor | None, grad_distances: Tensor | None
) -> tuple[Tensor | None, ...]:
    grads = list(backward("kpconv_backward", ctx, grad))
    if grad_distances is not None and ctx.needs_input_grad[7]:
        queries, points, neighbors, _, kernel_points, _, offsets, _ = ctx.saved_tensors
        op = torch.ops.kpdeform.kernel_point_distances_backward.default
        by_distances = call(
            op, grad_distances, queries, points, neighbors, kernel_points, offsets
        )  # fmt: skip
        grads[7] = by_distances if grads[7] is None else grads[7] + by_distances
    return tuple(grads)


torch.library.register_fake("kpdeform::kpconv_backward", backward_fake)
register_autograd("kpdeform::kpconv", partial(backward, "kpconv_backward"), setup_context=setup)
register_autograd(
    "kpdeform::kpconv_with_distances", _kpconv_with_distances_backward, setup_context=setup
)


@register_fake("kpdeform::kernel_point_distances")
def _distances_fake(
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    offsets: Tensor | None,
) -> Tensor:
    torch._check(neighbors.shape[0] == queries.shape[0])
    return _distances_like(queries, kernel_points, offsets)


@torch.library.register_fake("kpdeform::kernel_point_distances_backward")
def _distances_backward_fake(
    grad: Tensor,
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    offsets: Tensor,
) -> Tensor:
    return offsets.new_empty(offsets.shape)


def _distances_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _distances_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if not ctx.needs_input_grad[4]:
        return None, None, None, None, None
    op = torch.ops.kpdeform.kernel_point_distances_backward.default
    return None, None, None, None, call(op, grad, *ctx.saved_tensors)


register_autograd(
    "kpdeform::kernel_point_distances", _distances_backward, setup_context=_distances_setup
)


refuse_second_derivative("kpconv")
refuse_second_derivative("kernel_point_distances")
