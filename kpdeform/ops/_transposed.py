"""Transposed neighbour tables: for every point, the queries that have it as a neighbour.

The gradient of the features is a convolution over that table (csrc/README.md). The table is built
once per backward pass and shared by all layers of that pass that use the same neighbour tensor. The
next pass builds a new one, because a tensor can be modified without a change of its version counter
(through a NumPy array or ``.data`` that shares its memory). On a GPU a table is reused only on the
stream on which it was built, because its memory belongs to that stream.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from kpdeform.ops._autograd import is_transformed
from kpdeform.ops._call import call
from kpdeform.ops._fake import index_dtype

MOST_SLOTS = 8_000_000  # Larger tables are not kept: on the CPU, the op builds them in parts.

_Table = tuple[Tensor, Tensor]
_tables = WeakTensorKeyDictionary()  # neighbours -> (cache key, table)


def transposed_neighbors(neighbors: Tensor, num_points: int) -> _Table | tuple[None, None]:
    """Returns the transposed table of ``neighbors`` ``(M, H)``, for N = ``num_points`` points.

    Returns:
        ``starts`` ``(N + 1,)`` int64 and ``members`` ``(M * H,)``: the queries of point n, in
        ascending order, are ``members[starts[n]:starts[n + 1]]``. ``(None, None)`` if the table is
        too large to keep or a CUDA graph is being captured; the backward op then builds the table
        itself. A captured graph must rebuild it on every replay, because the neighbours may have
        changed, and tensors made during the capture cannot be used outside the graph.
    """
    make = partial(call, torch.ops.kpdeform.transpose_neighbors.default)
    this_pass = torch._C._current_graph_task_id()  # -1 outside a backward pass.
    if type(neighbors) is not Tensor or is_transformed() or this_pass < 0:
        return make(neighbors, num_points)
    in_parts = neighbors.numel() > MOST_SLOTS and not neighbors.is_cuda
    if in_parts or _is_captured(neighbors):
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
