"""Pooling over the rows of a neighbour table and over whole clouds."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform.ops._autograd import is_transformed, refuse_second_derivative, register_autograd
from kpdeform.ops._call import call, contiguous
from kpdeform.ops._fake import register_fake
from kpdeform.ops._transposed import transposed_neighbors

try:
    from torch_scatter import segment_csr as _segment_csr
except (ImportError, OSError):  # OSError: it was built for another version of torch.
    _segment_csr = None

NeighborReduction = Literal["max", "mean", "nearest"]
SegmentReduction = Literal["mean", "sum", "max"]

_NEIGHBOR_REDUCTIONS = ("max", "mean", "nearest")  # The index is the native code's enum value.
_SEGMENT_REDUCTIONS = ("mean", "sum", "max")


def neighbor_pool(
    features: Tensor,
    neighbors: Tensor,
    reduce: NeighborReduction = "max",
    *,
    shadow_zero: bool = False,
) -> Tensor:
    r"""Maximum, mean or nearest of the features that each row of a neighbour table refers to.

    .. math:: y_{mc} = \max_h f_{n(m,h)\,c} \quad\text{or}\quad
              \frac{1}{|\{h\}|} \sum_h f_{n(m,h)\,c} \quad\text{or}\quad f_{n(m,0)\,c}

    over the occupied slots h. A row in which all slots are empty gives 0.

    Args:
        features: f, ``(N, C)`` float32, float64, float16 or bfloat16.
        neighbors: n, ``(M, H)`` int32 or int64 row numbers of ``features``, H at most 32767. N and
            -1 mark empty slots.
        reduce: "max", "mean" or "nearest", which takes the first occupied slot.
        shadow_zero: Only for "max": the maximum over a row with an empty slot also includes the
            value 0, as in the published KPConv models.

    Returns:
        y, ``(M, C)`` with the dtype of ``features``. Differentiable once with respect to
        ``features``. If several slots share the maximum, the first of them gets the whole gradient.
        Results are the same for any number of threads.

    Raises:
        ValueError: A shape or device does not match, ``reduce`` is unknown, or an index is out of
            range. (On CUDA an index that is out of range counts as an empty slot.)
        TypeError: A dtype is not supported.

    Source: the max pooling of strided residual blocks and the nearest upsampling of Thomas et al.
        2019, arXiv:1904.08889, section 3.3.
    Deviation: empty slots do not take part in the maximum; ``shadow_zero=True`` gives the published
        behaviour.

    Example:
        >>> features = torch.tensor([[1.0], [2.0], [-3.0]])
        >>> neighbors = torch.tensor([[0, 1], [2, 3]])
        >>> neighbor_pool(features, neighbors)
        tensor([[ 2.],
                [-3.]])
        >>> neighbor_pool(features, neighbors, shadow_zero=True)
        tensor([[2.],
                [0.]])
    """
    op = "neighbor_pool"
    _checks.tensor(op, "features", features, _checks.FLOATS, 2)
    _checks.tensor(op, "neighbors", neighbors, (torch.int32, torch.int64), 2)
    if features.device != neighbors.device:
        raise ValueError(
            f"{op}: features is on {features.device} but neighbors is on {neighbors.device}"
        )
    if neighbors.shape[1] > 32767:
        raise ValueError(f"{op}: neighbors must have at most 32767 slots, got {neighbors.shape[1]}")
    code = _checks.one_of(op, "reduce", reduce, _NEIGHBOR_REDUCTIONS)
    if shadow_zero and reduce != "max":
        raise ValueError(f'{op}: shadow_zero is for reduce="max", got reduce={reduce!r}')
    pooled, _ = call(
        torch.ops.kpdeform.neighbor_pool.default,
        contiguous(op, features),
        contiguous(op, neighbors),
        code,
        bool(shadow_zero),
    )
    return pooled


@register_fake("kpdeform::neighbor_pool")
def _neighbor_pool_fake(
    features: Tensor, neighbors: Tensor, reduce: int, shadow_zero: bool
) -> tuple[Tensor, Tensor]:
    rows, channels = neighbors.shape[0], features.shape[1]
    argmax_rows = rows if _NEIGHBOR_REDUCTIONS[reduce] == "max" else 0
    return (
        features.new_empty((rows, channels)),
        features.new_empty((argmax_rows, channels), dtype=torch.int16),
    )


@torch.library.register_fake("kpdeform::neighbor_pool_backward")
def _neighbor_pool_backward_fake(
    grad: Tensor,
    neighbors: Tensor,
    argmax: Tensor,
    num_points: int,
    reduce: int,
    starts: Tensor | None = None,
    members: Tensor | None = None,
) -> Tensor:
    return grad.new_empty((num_points, grad.shape[1]))


def _neighbor_pool_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, neighbors, ctx.reduce, _ = inputs
    ctx.num_points = features.shape[0]
    ctx.save_for_backward(neighbors, output[1])


def _neighbor_pool_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    neighbors, argmax = ctx.saved_tensors
    op = torch.ops.kpdeform.neighbor_pool_backward.default
    # Only the CUDA op uses the table. It is shared with the convolutions of the same level.
    on_cuda = grad.is_cuda
    table = transposed_neighbors(neighbors, ctx.num_points) if on_cuda else (None, None)
    grad_features = call(
        op, grad.contiguous(), neighbors, argmax, ctx.num_points, ctx.reduce, *table
    )
    return grad_features, None, None, None


register_autograd(
    "kpdeform::neighbor_pool", _neighbor_pool_backward, setup_context=_neighbor_pool_setup
)
refuse_second_derivative("neighbor_pool")


def segment_reduce(
    features: Tensor, lengths: _checks.Lengths, reduce: SegmentReduction = "mean"
) -> Tensor:
    """Mean, sum or maximum of the features of each cloud of a packed batch.

    Uses torch-scatter if it is installed (``pip install 'kpdeform[scatter]'``). Otherwise, in
    compiled code, under transforms and for half precision, uses :func:`torch.segment_reduce`.

    Args:
        features: ``(N, C)`` float32, float64, float16 or bfloat16.
        lengths: Number of rows of each cloud, ``(B,)`` integers that add up to N.
        reduce: "mean", "sum" or "max".

    Returns:
        ``(B, C)`` with the dtype of ``features``; 0 for an empty cloud. Differentiable with respect
        to ``features``. If several rows share the maximum, PyTorch divides the gradient among them
        and torch-scatter gives it to one of them.

    Raises:
        ValueError: A shape does not match, ``lengths`` do not add up to N (checked unless they are
            on a GPU), or ``reduce`` is unknown.
        TypeError: A dtype is not supported.

    Example:
        >>> segment_reduce(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([2, 0, 1]))
        tensor([[2.],
                [0.],
                [5.]])
    """
    op = "segment_reduce"
    _checks.tensor(op, "features", features, _checks.FLOATS, 2)
    _checks.one_of(op, "reduce", reduce, _SEGMENT_REDUCTIONS)
    lengths = _checks.cloud_lengths(op, "lengths", lengths, "features", features)
    if lengths.is_cuda:  # Unchecked, to avoid waiting for the GPU: limited to the N rows.
        ends = lengths.clamp(min=0).cumsum(0).clamp(max=features.shape[0])
        lengths = ends.diff(prepend=ends.new_zeros(1))
    half = features.dtype in (torch.float16, torch.bfloat16)
    rows = features.float() if half else features
    # torch-scatter knows neither transforms nor meta tensors. Half precision has many ties, whose
    # gradient only PyTorch divides.
    plain = not (torch.compiler.is_compiling() or is_transformed() or features.is_meta or half)
    if _segment_csr is not None and plain:
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        reduced = _segment_csr(rows, starts, reduce=reduce)
    else:
        # Eager CPU calls have validated `lengths`; compiled code has not, so PyTorch checks.
        checked = lengths.is_cuda or not torch.compiler.is_compiling()
        reduced = torch.segment_reduce(rows, reduce, lengths=lengths, axis=0, unsafe=checked)
        reduced = torch.where((lengths == 0)[:, None], 0.0, reduced)
    return reduced.to(features.dtype)
