"""Argument checks, fake kernels and autograd rule of the kernel point convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform.ops._autograd import gradient_like
from kpdeform.ops._call import autocast_dtype, call
from kpdeform.ops._transposed import transposed_neighbors

INFLUENCES = ("linear", "gaussian", "constant")  # The index is the native code's enum value.
AGGREGATIONS = ("sum", "closest")
_HALF = (torch.float16, torch.bfloat16)


def autocast(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Casts both to the autocast dtype; unchanged without autocast or for float64 features."""
    dtype = autocast_dtype(features.device.type)
    if features.dtype == torch.float64 or dtype is None:
        return features, weight
    return features.to(dtype), weight.to(dtype)


def check_shapes(
    op: str,
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    features: Tensor | None = None,
) -> None:
    """Checks the shapes of positions, neighbours and features.

    ``check_groups`` checks offsets and modulations; each op checks its weight.
    Features before neighbours, the order of ml-kpconvx, are recognised first.
    """
    if features is not None and neighbors.is_floating_point() and not features.is_floating_point():
        kinds = [_checks.dtype_name(tensor.dtype) for tensor in (neighbors, features)]
        raise TypeError(
            f"{op}: neighbors is {kinds[0]} and features is {kinds[1]}; the order is queries, "
            "points, neighbors, features"
        )
    _checks.kernel_points(op, kernel_points)
    dimension = kernel_points.shape[1]
    for name, tensor in (("queries", queries), ("points", points)):
        if tensor.dim() != 2 or tensor.shape[1] != dimension:
            raise ValueError(
                f"{op}: {name} must have {dimension} columns like kernel_points, "
                f"got shape {tuple(tensor.shape)}"
            )
    if neighbors.dim() != 2 or neighbors.shape[0] != queries.shape[0]:
        raise ValueError(
            f"{op}: neighbors has shape {tuple(neighbors.shape)} but queries has "
            f"{queries.shape[0]} rows; build it with radius_neighbors(queries, points, ...)"
        )
    if features is not None and (features.dim() != 2 or features.shape[0] != points.shape[0]):
        raise ValueError(
            f"{op}: features must have one row per point, ({points.shape[0]}, C), "
            f"got {tuple(features.shape)}"
        )


def check_dtypes(
    op: str,
    queries: Tensor,
    points: Tensor,
    neighbors: Tensor,
    kernel_points: Tensor,
    features: Tensor | None = None,
    weight: Tensor | None = None,
    offsets: Tensor | None = None,
    modulations: Tensor | None = None,
) -> None:
    """Checks all dtypes and devices; those of the positions determine the others."""
    _checks.of_type(op, "queries", queries, (torch.float32, torch.float64))
    _checks.of_type(op, "neighbors", neighbors, (torch.int32, torch.int64))
    others = {"points": points, "kernel_points": kernel_points}
    for name, other in (others | {"offsets": offsets, "modulations": modulations}).items():
        if other is not None:
            _checks.alike(op, name, other, "queries", queries)
    if neighbors.device != queries.device:
        raise ValueError(
            f"{op}: neighbors is on {neighbors.device} but queries is on {queries.device}"
        )
    if features is None or weight is None:
        return
    half = features.dtype in _HALF and points.dtype == torch.float32
    _checks.alike(op, "features", features, "points", points, features.dtype if half else None)
    _checks.alike(op, "weight", weight, "features", features)


def check_groups(
    op: str,
    queries: Tensor,
    kernel_points: Tensor,
    channels: int,
    offsets: Tensor | None,
    modulations: Tensor | None,
) -> None:
    """Checks the shapes of offsets and modulations.

    Both may have a dimension of G channel groups, where G divides the number of channels; if both
    have one, their G must be equal.
    """
    num_queries, num_kernel = queries.shape[0], kernel_points.shape[0]
    shapes = {
        "offsets": (offsets, 1, (num_queries, *kernel_points.shape), "(M, K, D) or (M, G, K, D)"),
        "modulations": (modulations, 2, (num_queries, num_kernel), "(M, K) or (M, K, G)"),
    }
    groups = {}
    for name, (tensor, axis, expected, words) in shapes.items():
        if tensor is None:
            continue
        shape = list(tensor.shape)
        if tensor.dim() == len(expected) + 1:
            groups[name] = shape.pop(axis)
            if groups[name] < 1 or channels % groups[name]:
                raise ValueError(
                    f"{op}: the groups of {name} must divide the {channels} channels of features, "
                    f"got {groups[name]}"
                )
        if tuple(shape) != expected:
            raise ValueError(
                f"{op}: {name} must be {words} with {expected} but for the groups, "
                f"got {tuple(tensor.shape)}"
            )
    if len(set(groups.values())) > 1:
        raise ValueError(f"{op}: offsets and modulations must have one number of groups: {groups}")


# ---- fake kernels and autograd


def backward_fake(
    grad: Tensor, queries: Tensor, points: Tensor, neighbors: Tensor, features: Tensor,
    kernel_points: Tensor, weight: Tensor, sigma: float, offsets: Tensor | None,
    modulations: Tensor | None, *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Fake backward op of a dense or depthwise convolution.

    The last four arguments say which gradients are wanted.
    """
    features_wanted, weight_wanted, offsets_wanted, modulations_wanted = rest[-4:]
    return (
        gradient_like(features_wanted, features, features),
        gradient_like(weight_wanted, weight, weight),
        gradient_like(offsets_wanted, offsets, queries),
        gradient_like(modulations_wanted, modulations, queries),
    )


def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Saves the inputs of a convolution for its backward pass.

    ``inputs`` are six tensors, sigma, offsets, modulations and the remaining options of the op.
    """
    ctx.save_for_backward(*inputs[:6], *inputs[7:9])
    ctx.sigma, ctx.options = inputs[6], inputs[9:]
    ctx.set_materialize_grads(False)


def backward(name: str, ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    """Computes the gradients of a convolution's inputs with the native op called ``name``."""
    if grad is None:
        return (None,) * (9 + len(ctx.options))
    *tensors, offsets, modulations = ctx.saved_tensors
    _, points, neighbors, *_ = tensors
    wanted = [ctx.needs_input_grad[i] for i in (3, 5, 7, 8)]
    table = transposed_neighbors(neighbors, points.shape[0]) if wanted[0] else (None, None)
    op = getattr(torch.ops.kpdeform, name).default
    grads = call(
        op, grad, *tensors, ctx.sigma, offsets, modulations, *ctx.options, *table, *wanted
    )  # fmt: skip
    features, weight, of_offsets, of_modulations = (
        g if w else None for g, w in zip(grads, wanted, strict=True)
    )
    options = (None,) * len(ctx.options)
    return None, None, None, features, None, weight, None, of_offsets, of_modulations, *options
