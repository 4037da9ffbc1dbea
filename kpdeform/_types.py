"""Types that an op, its reference twin and the layers share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

Influence = Literal["linear", "gaussian", "constant"]
"""How the weight of a neighbour falls with its distance to a kernel point."""

Aggregation = Literal["sum", "closest"]
"""Whether all kernel points count for a neighbour, or only the closest one."""


class GridSubsample(NamedTuple):
    """What :func:`kpdeform.ops.grid_subsample` returns, M occupied cells of B clouds.

    Attributes:
        points: Mean of each cell's points, ``(M, D)``, in cell order (z, then y, then x), cloud by
            cloud.
        lengths: Cells per cloud, ``(B,)`` int64.
        features: Mean of each cell's features, ``(M, C)``, or None when none were given.
        labels: Most frequent label of each cell, ``(M,)``, or None when none were given.
        inverse: Row of ``points`` that each input row went into, ``(N,)`` int64.
        counts: Input rows of each cell, ``(M,)`` int64.
    """

    points: Tensor
    lengths: Tensor
    features: Tensor | None
    labels: Tensor | None
    inverse: Tensor
    counts: Tensor
