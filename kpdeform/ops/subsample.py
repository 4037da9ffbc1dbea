"""Grid subsampling of packed clouds."""

from __future__ import annotations

import torch
from torch import Tensor

from kpdeform import _checks
from kpdeform import _library as _library
from kpdeform._types import GridSubsample
from kpdeform.ops._call import call, contiguous
from kpdeform.ops._fake import keep_out_of_cuda_graphs, register_fake


def grid_subsample(
    points: Tensor,
    cell_size: float,
    *,
    lengths: _checks.Lengths | None = None,
    features: Tensor | None = None,
    labels: Tensor | None = None,
) -> GridSubsample:
    """Replaces the points in each occupied cell of a grid by their mean.

    A point x lies in cell ``floor(x / cell_size)``, so cells begin at multiples of ``cell_size``.
    The division is made in float64, also for float32 input. Means are computed in float64 relative
    to the first point of the cell, so coordinates far from the origin lose no precision. The result
    is the same for any number of threads.

    Args:
        points: ``(N, D)`` float32 or float64, D in {2, 3}.
        cell_size: Edge length of a cell, > 0, in the unit of the coordinates.
        lengths: Number of points of each cloud, ``(B,)`` integers that add up to N. None means one
            cloud. Clouds may be empty. The returned lengths are on the device of ``points``.
        features: ``(N, C)`` floating point, or None; the result holds the mean of each cell.
        labels: ``(N,)`` integers, or None; the result holds the most frequent label of each cell,
            and of equally frequent labels the lowest.

    Returns:
        :class:`GridSubsample` with points, lengths, features, labels, inverse and counts. Points,
        features and labels have the dtypes of the input. Points are sorted by cell, which speeds up
        later searches and gathers. Not differentiable.

    Raises:
        ValueError: A shape, device or length does not match, ``cell_size`` is not positive, or a
            coordinate is NaN or infinite.
        TypeError: A dtype is not supported.

    Source: Thomas et al. 2019, arXiv:1904.08889, section 3.3 (grid subsampling); the cells are
        those of KPConv-PyTorch.

    Example:
        >>> points = torch.tensor([[0.2, 0.0], [0.4, 0.0], [1.5, 0.0]])
        >>> result = grid_subsample(points, 1.0, labels=torch.tensor([7, 5, 5]))
        >>> result.points
        tensor([[0.3000, 0.0000],
                [1.5000, 0.0000]])
        >>> result.labels, result.inverse
        (tensor([5, 5]), tensor([0, 0, 1]))
    """
    op = "grid_subsample"
    _checks.positions(op, "points", points)
    cell_size = _checks.positive(op, "cell_size", cell_size)
    if features is not None:
        _check_rows(op, "features", features, points)
        _checks.tensor(op, "features", features, _checks.FLOATS, 2)
    if labels is not None:
        _check_rows(op, "labels", labels, points)
        _checks.tensor(op, "labels", labels, _checks.INTEGERS, 1)
    lengths = _checks.cloud_lengths(op, "lengths", lengths, "points", points)
    result = call(
        torch.ops.kpdeform.grid_subsample.default,
        contiguous(op, points.detach()),
        cell_size,
        lengths,
        None if features is None else contiguous(op, features.detach()),
        None if labels is None else contiguous(op, labels),
    )
    means, new_lengths, mean_features, majority, inverse, counts = result
    return GridSubsample(
        means,
        new_lengths,
        None if features is None else mean_features,
        None if labels is None else majority,
        inverse,
        counts,
    )


def _check_rows(op: str, name: str, value: Tensor, points: Tensor) -> None:
    _checks.tensors(op, **{name: value})
    if value.dim() == 0 or value.shape[0] != points.shape[0]:
        raise ValueError(
            f"{op}: {name} has shape {tuple(value.shape)} but points has {points.shape[0]}"
        )
    if value.device != points.device:
        raise ValueError(f"{op}: {name} is on {value.device} but points is on {points.device}")


@register_fake("kpdeform::grid_subsample")
def _grid_subsample_fake(
    points: Tensor,
    cell_size: float,
    lengths: Tensor,
    features: Tensor | None,
    labels: Tensor | None,
) -> tuple[Tensor, ...]:
    cells = torch.library.get_ctx().new_dynamic_size()
    return (
        points.new_empty((cells, points.shape[1])),
        lengths.new_empty(lengths.shape),
        points.new_empty((0,))
        if features is None
        else features.new_empty((cells, features.shape[1])),
        points.new_empty((0,), dtype=torch.int64) if labels is None else labels.new_empty((cells,)),
        points.new_empty((points.shape[0],), dtype=torch.int64),
        points.new_empty((cells,), dtype=torch.int64),
    )


keep_out_of_cuda_graphs(torch.ops.kpdeform.grid_subsample.default)
