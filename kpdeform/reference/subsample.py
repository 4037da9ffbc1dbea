"""Grid subsampling with sorting and scatter additions."""

from __future__ import annotations

import torch
from torch import Tensor

from kpdeform._types import GridSubsample


def grid_subsample(
    points: Tensor,
    cell_size: float,
    *,
    lengths: Tensor | None = None,
    features: Tensor | None = None,
    labels: Tensor | None = None,
) -> GridSubsample:
    """Twin of :func:`kpdeform.ops.grid_subsample`."""
    device = points.device
    if lengths is None:
        lengths = torch.tensor([len(points)], device=device)
    cloud = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths).double()
    cells = (points.double() / cell_size).floor()
    keys = torch.cat([cloud[:, None], cells.flip(1)], dim=1)  # cloud, z, y, x
    unique, inverse, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)

    rows = torch.arange(len(points), device=device)
    first = rows.new_full((len(unique),), len(points)).scatter_reduce(0, inverse, rows, "amin")
    start = points.double()[first]
    means = start + _mean(points.double() - start[inverse], inverse, counts)
    new_lengths = torch.bincount(unique[:, 0].long(), minlength=len(lengths))
    return GridSubsample(
        means.to(points.dtype),
        new_lengths,
        None if features is None else _mean(features.double(), inverse, counts).to(features.dtype),
        None if labels is None else _majority(labels, inverse, len(unique)),
        inverse,
        counts,
    )


def _mean(values: Tensor, inverse: Tensor, counts: Tensor) -> Tensor:
    sums = values.new_zeros((len(counts), values.shape[1])).index_add_(0, inverse, values)
    return sums / counts[:, None]


def _majority(labels: Tensor, inverse: Tensor, cells: int) -> Tensor:
    classes, label = torch.unique(labels, return_inverse=True)  # ascending
    pairs, votes = torch.unique(torch.stack([inverse, label]), dim=1, return_counts=True)
    cell, label = pairs  # by cell, then by label
    most = votes.new_zeros(cells).scatter_reduce(0, cell, votes, "amax")
    winners = votes == most[cell]
    lowest = cell.new_full((cells,), len(classes)).scatter_reduce(
        0, cell[winners], label[winners], "amin"
    )
    return classes[lowest]
