"""Generates kernel points: points in the unit ball that repel each other."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Fixed = Literal["none", "center", "verticals"]

MOST_POINTS = 512  # Time and memory of the generator grow with its square.
MEAN_RADIUS = 0.66  # Mean distance to the origin of the points not fixed at the centre.
_STARTS = 30
_MAX_STEPS = 5_000
_LONGEST_STEP = 0.05
_TIE = 1e-6  # Energies with a smaller relative difference count as equal.


def generate(
    num_points: int, dimension: int = 3, fixed: Fixed = "center", seed: int = 0
) -> NDArray[np.float32]:
    r"""Spreads kernel points in the unit ball by minimising a repulsion energy.

    .. math:: E = \sum_{i<j} \frac{1}{\|p_i - p_j\|} + 5 \sum_i \|p_i\|^2

    Gradient descent runs from thirty random starts, and the result with the lowest energy is used.
    If several energies are equal up to rounding, the first of these starts is used, so that
    rounding does not decide. The result is scaled so that the points that are not fixed at the
    origin have a mean distance of 0.66 to it.

    Args:
        num_points: Number of kernel points K, at least 1, or at least 3 for "verticals", and at
            most 512.
        dimension: Dimension of the positions D, 2 or 3.
        fixed: "center" fixes the first point at the origin. "verticals" also keeps the second and
            the third point on the last axis, above and below the origin. "none" fixes no point.
        seed: Seed of the random starts.

    Returns:
        ``(K, D)`` float32; the same arguments give the same array.

    Raises:
        ValueError: An argument has none of the values above.

    Source: Thomas et al. 2019, arXiv:1904.08889, supplementary material B.
    Deviation: the published code uses the start whose last gradient is smallest, which depends on
        rounding.

    Example:
        >>> from kpdeform.kernel_points import generate
        >>> generate(3, dimension=2).round(2)[0].tolist()
        [0.0, 0.0]
    """
    _check(num_points, dimension, fixed)
    starts = _random_starts(num_points, dimension, fixed, seed)  # (S, K, D)
    points = _descend(starts, _free_coordinates(num_points, dimension, fixed))
    energy = _energy(points)  # (S,)
    best = points[np.argmax(energy <= energy.min() * (1 + _TIE))]
    ring = best if fixed == "none" else best[1:]
    if num_points > 1:
        best = best * (MEAN_RADIUS / np.linalg.norm(ring, axis=1).mean())
    return best.astype(np.float32)


def _check(num_points: int, dimension: int, fixed: str) -> None:
    if fixed not in ("none", "center", "verticals"):
        raise ValueError(f"kernel points: fixed is {fixed!r}; use 'none', 'center' or 'verticals'")
    if num_points > MOST_POINTS:
        raise ValueError(f"kernel points: num_points is {num_points}; at most {MOST_POINTS}")
    least = 3 if fixed == "verticals" else 1
    if num_points < least:
        raise ValueError(f"kernel points: num_points is {num_points}; {fixed!r} needs {least}")
    if dimension not in (2, 3):
        raise ValueError(f"kernel points: dimension is {dimension}; use 2 or 3")


def _random_starts(num_points: int, dimension: int, fixed: str, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((_STARTS, num_points, dimension))
    points /= np.linalg.norm(points, axis=2, keepdims=True)
    points *= np.sqrt(0.5) * rng.random((_STARTS, num_points, 1)) ** (1 / dimension)
    if fixed != "none":
        points[:, 0] = 0
    if fixed == "verticals":
        points[:, 1:3] = 0
        points[:, 1, -1], points[:, 2, -1] = 2 / 3, -2 / 3
    return points


def _free_coordinates(num_points: int, dimension: int, fixed: str) -> NDArray[np.float64]:
    free = np.ones((num_points, dimension))
    if fixed != "none":
        free[0] = 0
    if fixed == "verticals":
        free[1:3, :-1] = 0
    return free


def _descend(points: NDArray[np.float64], free: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient descent with momentum and bounded steps, until all starts have converged."""
    step = np.zeros_like(points)
    for _ in range(_MAX_STEPS):
        gradient = _gradient(points) * free
        step = 0.9 * step - 3e-3 * gradient
        length = np.linalg.norm(step, axis=2, keepdims=True)  # (S, K, 1)
        step *= _LONGEST_STEP / np.maximum(length, _LONGEST_STEP)
        points = points + step
        if np.abs(gradient).max() < 1e-6:
            break
    return points


def _gradient(points: NDArray[np.float64]) -> NDArray[np.float64]:
    difference = points[:, :, None] - points[:, None]  # (S, K, K, D)
    cubed = np.einsum("skjd,skjd->skj", difference, difference) ** 1.5
    return 10 * points - np.einsum("skjd,skj->skd", difference, 1 / (cubed + 1e-6))


def _energy(points: NDArray[np.float64]) -> NDArray[np.float64]:
    i, j = np.triu_indices(points.shape[1], 1)
    repulsion = 1 / np.linalg.norm(points[:, i] - points[:, j], axis=2)  # (S, K(K-1)/2)
    return repulsion.sum(1) + 5 * (points**2).sum((1, 2))
