"""Tables of a grid partition: the points of every cell, and the cell of every point."""

from __future__ import annotations

import torch
from torch import Tensor


def partition_tables(inverse: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Turns the cells of a grid subsampling into index tables for pooling and upsampling.

    Args:
        inverse: Cell of every point, ``(N,)``, as returned by :func:`kpdeform.ops.grid_subsample`.
        counts: Number of points of every cell, ``(M,)``.

    Returns:
        The points of every cell, ``(M, largest count)`` int32, in ascending order and padded with
        N; and the cell of every point, ``(N, 1)`` int32.

    Example:
        >>> pools, upsamples = partition_tables(torch.tensor([1, 0, 1]), torch.tensor([1, 2]))
        >>> pools.tolist(), upsamples.flatten().tolist()
        ([[1, 3], [0, 2]], [1, 0, 1])
    """
    num_points, num_cells = inverse.shape[0], counts.shape[0]
    width = int(counts.max()) if num_cells else 0
    order = inverse.argsort(stable=True)  # sorted by cell; ascending within a cell
    starts = counts.cumsum(0) - counts
    slot = torch.arange(num_points, device=inverse.device) - starts[inverse[order]]
    pools = torch.full((num_cells, width), num_points, dtype=torch.int32, device=inverse.device)
    pools[inverse[order], slot] = order.int()
    return pools, inverse.int()[:, None]
