"""Colours of clouds and kernels; every colour is RGB in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

RGB = tuple[float, float, float]

# Mild and light from low to high, so that the strong colours of the kernel stand out.
_HEIGHTS = [(0.62, 0.56, 0.50), (0.78, 0.76, 0.70), (0.70, 0.78, 0.76), (0.56, 0.67, 0.76)]
# From pale (reaches nothing) to deep red (reaches many points).
_WEIGHTS = [(1.00, 0.93, 0.55), (1.00, 0.66, 0.18), (0.90, 0.25, 0.13), (0.50, 0.02, 0.15)]
UNLABELED: RGB = (0.85, 0.85, 0.85)


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
    height = np.asarray(points, dtype=np.float64)[:, -1]
    if not len(height):
        return np.zeros((0, 3), np.float32)
    low, high = np.quantile(height, [0.02, 0.98])
    return gradient((height - low) / max(high - low, 1e-12), _HEIGHTS)


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


def by_weight(weights: ArrayLike) -> NDArray[np.float32]:
    """Colours kernel points by weight, pale at 0 and dark at the largest one.

    Args:
        weights: ``(K,)``, not negative.

    Returns:
        ``(K, 3)`` float32.

    Example:
        >>> by_weight([0, 2]).round(2).tolist()[0]
        [1.0, 0.9..., 0.55...]
    """
    weights = np.asarray(weights, dtype=np.float64)
    return gradient(weights / max(weights.max(initial=0), 1e-12), _WEIGHTS)


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


def soften(colors: ArrayLike, amount: float) -> NDArray[np.float32]:
    """Mixes colours with white.

    Args:
        colors: ``(N, 3)``.
        amount: 0 leaves them, 1 makes them white.

    Returns:
        ``(N, 3)`` float32.
    """
    return ((1 - amount) * np.asarray(colors) + amount).astype(np.float32)
