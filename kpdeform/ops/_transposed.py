"""Transposed neighbour tables: for every point, the queries that have it as a neighbour.

The gradient of features is a convolution over that table (csrc/README.md). It is made once per
backward pass, and found again by every layer of that pass which has the same neighbours. The next
pass makes its own, since neighbours can change in ways that no tensor tells of (NumPy arrays and
``.data`` share memory, not version counters). On a GPU it belongs to one stream, as the memory it
is in does.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from kpdeform.ops._autograd import is_transformed
from kpdeform.ops._call import call
from kpdeform.ops._fake import index_dtype

MOST_SLOTS = 8_000_000  # larger tables would be too much to keep; backward makes them in parts

_Table = tuple[Tensor, Tensor]
_tables = WeakTensorKeyDictionary()  # neighbours -> (what the table depends on, table)


def transposed_neighbors(neighbors: Tensor, num_points: int) -> _Table | tuple[None, None]:
    """Starts ``(N + 1,)`` int64 and members ``(M * H,)`` of a table ``(M, H)``.

    The queries of point n, ascending, are ``members[starts[n]:starts[n + 1]]``. None of both for a
    table that is too large to keep, and while a CUDA graph is captured: a replay must find the
    queries of what the neighbours are then, and nothing made in a graph is there outside it.
    """
    make = partial(call, torch.ops.kpdeform.transpose_neighbors.default)
    this_pass = torch._C._current_graph_task_id()  # -1 outside of a backward pass
    if type(neighbors) is not Tensor or is_transformed() or this_pass < 0:
        return make(neighbors, num_points)
    if neighbors.numel() > MOST_SLOTS or _is_captured(neighbors):
        return None, None
    now = (this_pass, num_points, _stream(neighbors))
    then, table = _tables.get(neighbors, (None, None))
    if then != now:
        table = make(neighbors, num_points)
        _tables[neighbors] = (now, table)
    return table


def _is_captured(neighbors: Tensor) -> bool:
    return neighbors.is_cuda and torch.cuda.is_current_stream_capturing()


def _stream(neighbors: Tensor) -> torch.Stream | None:
    return torch.cuda.current_stream(neighbors.device) if neighbors.is_cuda else None


@torch.library.register_fake("kpdeform::transpose_neighbors")
def _transpose_fake(neighbors: Tensor, num_points: int) -> _Table:
    slots = neighbors.shape[0] * neighbors.shape[1]
    members = neighbors.new_empty(slots, dtype=index_dtype(neighbors.shape[0]))
    return neighbors.new_empty(num_points + 1, dtype=torch.int64), members
