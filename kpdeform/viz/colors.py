"""Colours of clouds and kernels; every colour is RGB in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RGB = tuple[float, float, float]

# Mild, and lighter with height, so that the strong colours of the kernel stand out.
_HEIGHTS = ((0.38, 0.31, 0.22), (0.66, 0.60, 0.47), (0.64, 0.75, 0.74), (0.66, 0.83, 0.97))
# Darker with every point in reach. No class has these hues: see kpdeform/data/palette.py.
_WEIGHTS = ((1.00, 0.80, 0.92), (0.95, 0.42, 0.72), (0.76, 0.06, 0.52), (0.32, 0.00, 0.34))
# Dark where a network is unsure, and readable without colour.
_CONFIDENCES = ((0.45, 0.02, 0.20), (0.88, 0.36, 0.20), (0.97, 0.75, 0.45), (0.90, 0.93, 0.93))
UNLABELED: RGB = (0.85, 0.85, 0.85)
RIGHT: RGB = (0.80, 0.82, 0.84)
WRONG: RGB = (0.83, 0.10, 0.11)
NOT_SCORED: RGB = (0.94, 0.94, 0.94)


@dataclass(frozen=True)
class ColorScale:
    """What colours mean where they stand for numbers; drawn as a colour bar.

    Attributes:
        name: What the numbers are, such as ``"height in m"``.
        low: Number of the first colour; smaller ones have it too.
        high: Number of the last colour; larger ones have it too.
        stops: Evenly spaced colours from ``low`` to ``high``.
    """

    name: str
    low: float
    high: float
    stops: tuple[RGB, ...]

    def colors(self, values: ArrayLike) -> NDArray[np.float32]:
        """Colours ``(N, 3)`` of numbers ``(N,)``."""
        values = np.asarray(values, np.float64)
        return gradient((values - self.low) / max(self.high - self.low, 1e-12), self.stops)


def height_scale(heights: ArrayLike, name: str = "height") -> ColorScale:
    """Colours for heights, from the lowest 2 % to the highest 2 %.

    Args:
        heights: ``(N,)``.
        name: Stands at the colour bar.

    Example:
        >>> height_scale([0.0, 10.0]).high
        9.8
    """
    heights = np.asarray(heights, np.float64)
    low, high = np.quantile(heights, [0.02, 0.98]) if len(heights) else (0.0, 1.0)
    return ColorScale(name, float(low), float(high), _HEIGHTS)


def weight_scale(highest: float) -> ColorScale:
    """Colours of kernel points: pale for those that reach nothing, dark for ``highest``."""
    return ColorScale("input points in reach (Σ influence)", 0.0, highest, _WEIGHTS)


def confidence_scale() -> ColorScale:
    """Colours of confidences from 0 to 1."""
    return ColorScale("confidence", 0.0, 1.0, _CONFIDENCES)


def by_height(points: ArrayLike) -> NDArray[np.float32]:
    """Colours points by their last coordinate, from the lowest 2 % to the highest 2 %.

    Args:
        points: ``(N, 3)``.

    Returns:
        ``(N, 3)`` float32.

    Example:
        >>> by_height([[0, 0, 0], [0, 0, 3]]).shape
        (2, 3)
    """
    heights = np.asarray(points, dtype=np.float64)[:, -1]
    return height_scale(heights).colors(heights)


def by_label(labels: ArrayLike, palette: ArrayLike) -> NDArray[np.float32]:
    """Colours points by class; a negative label or one beyond the palette is light grey.

    Args:
        labels: ``(N,)`` integers.
        palette: ``(classes, 3)`` in [0, 1].

    Returns:
        ``(N, 3)`` float32.

    Example:
        >>> by_label([0, -1], palette=[[1, 0, 0]]).tolist()[0]
        [1.0, 0.0, 0.0]
    """
    labels = np.asarray(labels, dtype=np.int64)
    table = np.vstack([np.reshape(palette, (-1, 3)), UNLABELED]).astype(np.float32)
    known = (labels >= 0) & (labels < len(table) - 1)
    return table[np.where(known, labels, -1)]


def by_error(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.float32]:
    """Colours points by whether they were predicted right; unlabelled ones are the lightest.

    Args:
        labels: ``(N,)`` integers, negative where unknown.
        predictions: ``(N,)`` integers.

    Returns:
        ``(N, 3)`` float32.

    Example:
        >>> by_error([1, -1], [1, 1]).round(2).tolist()
        [[0.8..., 0.8..., 0.8...], [0.9..., 0.9..., 0.9...]]
    """
    labels = np.asarray(labels, np.int64)
    states = np.where(labels < 0, 2, labels != np.asarray(predictions))
    return by_label(states, [RIGHT, WRONG, NOT_SCORED])


def gradient(values: ArrayLike, stops: ArrayLike) -> NDArray[np.float32]:
    """Interpolates between evenly spaced colours.

    Args:
        values: ``(N,)``, clipped to [0, 1].
        stops: ``(S, 3)`` colours at 0, 1/(S-1), ..., 1.

    Returns:
        ``(N, 3)`` float32.
    """
    stops = np.asarray(stops, dtype=np.float64)
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, at, channel) for channel in stops.T], axis=-1).astype(
        np.float32
    )


def soften(colors: ArrayLike, amount: float) -> NDArray[Any]:
    """Mixes colours with white.

    Args:
        colors: ``(N, 3)``.
        amount: 0 leaves them, 1 makes them white.

    Returns:
        ``(N, 3)`` float32.
    """
    return ((1 - amount) * np.asarray(colors) + amount).astype(np.float32)
