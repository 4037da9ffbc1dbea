"""Neighbour tables read the other way round: for every point, the queries that have it.

The gradient of features is a convolution over that table (csrc/README.md). It is made once per
neighbour table, and found again by every layer and step that uses the same tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils.weak import WeakTensorKeyDictionary

MOST_SLOTS = 8_000_000  # larger tables would be too much to keep; backward makes them in parts

_Table = tuple[Tensor, Tensor]
_tables = WeakTensorKeyDictionary()  # neighbours -> (its version, number of points, table)


def transposed_neighbors(neighbors: Tensor, num_points: int) -> _Table | tuple[None, None]:
    """Starts ``(N + 1,)`` int64 and members ``(M * H,)`` of a table ``(M, H)``.

    The queries of point n, ascending, are ``members[starts[n]:starts[n + 1]]``. None of both for a
    table that is too large to keep.
    """
    make = torch.ops.kpdeform.transpose_neighbors.default
    if type(neighbors) is not Tensor or neighbors.is_inference():  # traced; or without a version
        return make(neighbors, num_points)
    if neighbors.numel() > MOST_SLOTS:
        return None, None
    version, points, table = _tables.get(neighbors, (None, None, None))
    if (version, points) != (neighbors._version, num_points):
        table = make(neighbors, num_points)
        _tables[neighbors] = (neighbors._version, num_points, table)
    return table


@torch.library.register_fake("kpdeform::transpose_neighbors")
def _transpose_fake(neighbors: Tensor, num_points: int) -> _Table:
    slots = neighbors.shape[0] * neighbors.shape[1]
    wide = statically_known_true(neighbors.shape[0] > 2**31 - 1)
    members = neighbors.new_empty(slots, dtype=torch.int64 if wide else torch.int32)
    return neighbors.new_empty(num_points + 1, dtype=torch.int64), members
