"""Input columns: how the features of a network are made from a cloud, in training and labelling.

A column is a feature of the data set or file, or one of ``FROM_POSITIONS``: "ones"; "height", which
counts from the floor, the height that 1 % of the whole thinned cloud lie below; and "x", "y", "z",
which count from the origin of a crop or tile. If all of "nx", "ny", "nz" are asked for, they are
made unit vectors again, since the mean of unit vectors in a cell is shorter than 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FROM_POSITIONS = ("ones", "height", "x", "y", "z")
NORMALS = ("nx", "ny", "nz")


def input_columns(
    names: Sequence[str],
    points: Tensor,
    floor: Tensor | float,
    features: Tensor,
    feature_names: Sequence[str],
) -> Tensor:
    """Makes the input columns of a thinned cloud.

    Args:
        names: Names of the columns, in their order.
        points: ``(N, 3)`` float32.
        floor: The z of ``points`` that "height" counts from; see :func:`floor_of`.
        features: ``(N, F)`` float32, features of the data set or file.
        feature_names: Their names; every name that is not in ``FROM_POSITIONS`` must be here.

    Returns:
        ``(N, len(names))`` float32.
    """
    columns = dict(zip(feature_names, features.unbind(1), strict=True))
    if set(NORMALS) <= set(names):
        normals = F.normalize(torch.stack([columns[name] for name in NORMALS], dim=1), dim=1)
        columns |= dict(zip(NORMALS, normals.unbind(1), strict=True))
    columns |= dict(zip("xyz", points.unbind(1), strict=True))
    columns |= {"ones": torch.ones_like(points[:, 2]), "height": points[:, 2] - floor}
    return torch.stack([columns[name] for name in names], dim=1)


def from_file(names: Iterable[str]) -> list[str]:
    """Those of the columns that a file or scene must bring; the others are made from positions."""
    return [name for name in names if name not in FROM_POSITIONS]


def stored_features(features: np.ndarray) -> np.ndarray:
    """Features of a scene as float32; whole numbers 0 to 255 stand for 0 to 1."""
    values = np.array(features, np.float32)  # a copy: the file may be mapped read-only
    return values / np.float32(255) if features.dtype == np.uint8 else values


def scaled(features: np.ndarray, names: Sequence[str], scales: Mapping[str, float]) -> np.ndarray:
    """Values of a file divided by their scales, ``(N, F)``; a column without a scale stays."""
    return features / np.array([scales.get(name, 1.0) for name in names], np.float32)


def floor_of(points: Tensor) -> Tensor:
    """Height that 1 % of the points ``(N, 3)`` lie below: stray points far below do not move it."""
    if not len(points):
        return torch.zeros(())
    return points[:, 2].kthvalue(1 + len(points) // 100).values


def floor_of_parts(parts: Iterable[Tensor], step: float) -> float:
    """As :func:`floor_of`, to half a step, for a cloud that comes in parts.

    Args:
        parts: Points ``(n, 3)`` of each part.
        step: Width of the bins that heights are counted in.
    """
    heights: Counter[int] = Counter()
    for points in parts:
        bins, counts = (points[:, 2] / step).floor().long().unique(return_counts=True)
        heights.update(dict(zip(bins.tolist(), counts.tolist(), strict=True)))
    below, total = 0, heights.total()
    for height in sorted(heights):
        below += heights[height]
        if below >= 0.01 * total:
            return (height + 0.5) * step
    return 0.0
