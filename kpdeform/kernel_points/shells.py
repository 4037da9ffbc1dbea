"""Generates kernel points on shells: one at the centre, the others on concentric spheres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kpdeform import _checks
from kpdeform.kernel_points.generate import MOST_POINTS

_STARTS = 30
_MAX_STEPS = 3_000
_LONGEST_STEP = 0.05
_TIE = 1e-6  # Energies with a smaller relative difference count as equal.


def generate_shells(
    shells: Sequence[int], dimension: int = 3, seed: int = 0
) -> NDArray[np.float32]:
    r"""Spreads kernel points over shells of the unit ball by minimising a repulsion energy.

    .. math:: E = \sum_{i<j} \frac{1}{\|p_i - p_j\|}, \qquad
              \|p_i\| = \frac{2 s(i)}{2 n - 1} \text{ on shell } s(i) = 0, 1, \ldots, n - 1

    for n shells. Points move only along their shell. Gradient descent runs from thirty random
    starts, and the result with the lowest energy is used. If several energies are equal up to
    rounding, the first of these starts is used, so that rounding does not decide.

    Args:
        shells: Number of points on each shell, from the centre outwards. The first must be 1, and
            the sum at most 512.
        dimension: Dimension of the positions D, 2 or 3.
        seed: Seed of the random starts.

    Returns:
        ``(K, D)`` float32, where K is the sum of ``shells``; the same arguments give the same
        array.

    Raises:
        ValueError: An argument has none of the values above.

    Source: Thomas et al. 2024, arXiv:2405.13194, section 3.3 (kernel point shells).
    Deviation: the published code adds noise of size 0.001 to all points, including the centre.

    Example:
        >>> from kpdeform.kernel_points import generate_shells
        >>> points = generate_shells((1, 4), dimension=2)
        >>> np.linalg.norm(points, axis=1).astype(float).round(4).tolist()
        [0.0, 0.6667, 0.6667, 0.6667, 0.6667]
    """
    _check(shells, dimension)
    shell = np.repeat(np.arange(len(shells)), shells)
    radii = 2 * shell / max(2 * len(shells) - 1, 1)  # (K,)
    rng = np.random.default_rng(seed)
    points = _on_shells(rng.standard_normal((_STARTS, len(shell), dimension)), radii)
    points = _descend(points, radii)
    energy = _energy(points)  # (S,)
    return points[np.argmax(energy <= energy.min() * (1 + _TIE))].astype(np.float32)


def _check(shells: Sequence[int], dimension: int) -> None:
    for number in shells:
        _checks.count("kernel points", "shells", number, most=MOST_POINTS)
    if sum(shells) > MOST_POINTS:
        raise ValueError(f"kernel points: shells is {list(shells)}; at most {MOST_POINTS} points")
    if len(shells) == 0 or shells[0] != 1:
        raise ValueError(
            f"kernel points: shells is {list(shells)}; it starts with 1, the centre, and every "
            "shell holds at least one point"
        )
    if dimension not in (2, 3):
        raise ValueError(f"kernel points: dimension is {dimension}; use 2 or 3")


def _on_shells(points: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(points, axis=2, keepdims=True)
    return points * (radii[:, None] / np.maximum(length, 1e-12))


def _descend(points: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient descent with momentum and bounded steps along the shells."""
    step = np.zeros_like(points)
    outward = np.where(radii > 0, 1 / np.maximum(radii, 1e-12), 0)[:, None]
    for _ in range(_MAX_STEPS):
        normal = points * outward
        gradient = _gradient(points) * (radii > 0)[:, None]
        gradient -= np.sum(gradient * normal, axis=2, keepdims=True) * normal
        step = 0.9 * step - 1e-3 * gradient
        length = np.linalg.norm(step, axis=2, keepdims=True)  # (S, K, 1)
        step *= _LONGEST_STEP / np.maximum(length, _LONGEST_STEP)
        points = _on_shells(points + step, radii)
        if np.abs(gradient).max() < 1e-4:
            break
    return points


def _gradient(points: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = points[:, :, None] - points[:, None]  # (S, K, K, D)
    cubed = np.einsum("skjd,skjd->skj", difference, difference) ** 1.5
    return -np.einsum("skjd,skj->skd", difference, 1 / (cubed + 1e-6))


def _energy(points: NDArray[np.float64]) -> NDArray[np.float64]:
    i, j = np.triu_indices(points.shape[1], 1)
    distance = np.linalg.norm(points[:, i] - points[:, j], axis=2)
    return (1 / np.maximum(distance, 1e-12)).sum(1)
