"""Types shared by the ops, their reference implementations and the layers."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

Influence = Literal["linear", "gaussian", "constant"]
"""How the weight of a neighbour depends on its distance to a kernel point."""

Aggregation = Literal["sum", "closest"]
"""Whether a neighbour contributes to all kernel points or only to the closest one."""

_Tuple = TypeVar("_Tuple", bound=type)


def exportable(kind: _Tuple) -> _Tuple:
    """Lets ``torch.export.save`` and ``load`` handle programs that take or return a named tuple.

    A program holds the names of the types that it takes and returns; PyTorch's function that gives
    a named tuple its name is private, but the error without it recommends it. A program also holds
    example inputs, which are read with ``weights_only=True``.
    """
    _pytree._register_namedtuple(kind, serialized_type_name=f"kpdeform.{kind.__name__}")
    torch.serialization.add_safe_globals([kind])
    return kind


@exportable
class GridSubsample(NamedTuple):
    """Result of :func:`kpdeform.ops.grid_subsample`: M occupied cells of B clouds with N points.

    Attributes:
        points: ``(M, D)``, the mean of the points of each cell. Cells are sorted by z, then y, then
            x within a cloud; clouds keep their order.
        lengths: ``(B,)`` int64, number of cells of each cloud.
        features: ``(M, C)``, the mean of the features of each cell, or None if none were given.
        labels: ``(M,)``, the most frequent label of each cell, or None if none were given.
        inverse: ``(N,)`` int64, for each input row the row of ``points`` of its cell.
        counts: ``(M,)`` int64, number of input rows of each cell.
    """

    points: Tensor
    lengths: Tensor
    features: Tensor | None
    labels: Tensor | None
    inverse: Tensor
    counts: Tensor
