"""Input columns: how the features of a network are made from a cloud, in training and labelling.

A column is either a feature of the data set or file, or one of ``FROM_POSITIONS``, which are
computed from the positions of the points:

* "ones" is the constant 1;
* "height" is z above the floor, where the floor is the 1 % quantile of z over the whole thinned
  cloud;
* "x", "y" and "z" are coordinates relative to the origin of the crop or tile.

If all of "nx", "ny" and "nz" are asked for, normals are normalised to length 1 again, because the
mean of several unit vectors in a grid cell is shorter than 1.
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
        names: Names of the columns, in the order of the result.
        points: ``(N, 3)`` float32.
        floor: The z coordinate at which "height" is 0; see :func:`floor_of`.
        features: Features of the data set or file, ``(N, F)`` float32.
        feature_names: Names of the columns of ``features``. They must include every name in
            ``names`` that is not in ``FROM_POSITIONS``.

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
    """The columns that a file or scene must contain; all others are computed from positions."""
    return [name for name in names if name not in FROM_POSITIONS]


def stored_features(features: np.ndarray) -> np.ndarray:
    """Features of a scene as float32; uint8 values 0 to 255 are converted to 0 to 1."""
    values = np.array(features, np.float32)  # a copy: the file may be mapped read-only
    return values / np.float32(255) if features.dtype == np.uint8 else values


def scaled(features: np.ndarray, names: Sequence[str], scales: Mapping[str, float]) -> np.ndarray:
    """Divides the columns of ``features`` ``(N, F)`` by their scales; the default scale is 1."""
    return features / np.array([scales.get(name, 1.0) for name in names], np.float32)


def floor_of(points: Tensor) -> Tensor:
    """The 1 % quantile of z of the points ``(N, 3)``, which ignores a few stray points below."""
    if not len(points):
        return torch.zeros(())
    return points[:, 2].kthvalue(1 + len(points) // 100).values


def floor_of_parts(parts: Iterable[Tensor], step: float) -> float:
    """Approximates :func:`floor_of`, within half a ``step``, for a cloud that arrives in parts.

    Args:
        parts: Points ``(n, 3)`` of each part.
        step: Bin width of the histogram of z, in the unit of the points.
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
