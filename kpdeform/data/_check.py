"""Checks that several files of this package share."""

from __future__ import annotations

import torch
from torch import Tensor


def check_finite(name: str, points: Tensor) -> None:
    """Raises ValueError with the count of NaN or infinite rows and the first of them."""
    finite = torch.isfinite(points).all(dim=1)
    if not bool(finite.all()):
        rows = (~finite).nonzero()[:, 0]
        raise ValueError(
            f"{name}: {len(rows)} of {len(points)} rows hold NaN or infinite coordinates, "
            f"the first is row {int(rows[0])} {points[rows[0]].tolist()}; "
            "drop them, for example with points[np.isfinite(points).all(axis=1)]"
        )
