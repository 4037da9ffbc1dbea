"""Loads the stored tables of kernel points, and places them for a layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kpdeform.kernel_points.generate import Fixed, generate
from kpdeform.kernel_points.shells import generate_shells

TABLES = Path(__file__).parent / "tables"


def table_path(num_points: int, dimension: int, fixed: Fixed) -> Path:
    """Returns the path of the table for these arguments, which may not exist."""
    return TABLES / f"k{num_points:02d}_{fixed}_{dimension}d.txt"


def shells_path(shells: Sequence[int], dimension: int) -> Path:
    """Returns the path of the table for these shells, which may not exist."""
    return TABLES / f"shells_{'-'.join(map(str, shells))}_{dimension}d.txt"


def load(num_points: int = 15, dimension: int = 3, fixed: Fixed = "center") -> Tensor:
    """Returns kernel points in the unit ball, the same on every machine.

    If there is no stored table for the arguments, the points are generated with seed 0, which takes
    about a second, once per process.

    Args:
        num_points: Number of kernel points K.
        dimension: Dimension of the positions D, 2 or 3.
        fixed: "center", "verticals" or "none"; see :func:`generate`.

    Returns:
        ``(K, D)`` float32 on the CPU; a fresh tensor each time.

    Raises:
        ValueError: As in :func:`generate`.

    Example:
        >>> from kpdeform import kernel_points
        >>> kernel_points.load(15).shape
        torch.Size([15, 3])
    """
    return torch.from_numpy(_table(num_points, dimension, fixed).copy())


@cache
def _table(num_points: int, dimension: int, fixed: Fixed) -> NDArray[np.float32]:
    path = table_path(num_points, dimension, fixed)
    if path.exists():
        return np.loadtxt(path, dtype=np.float32, ndmin=2)
    return generate(num_points, dimension, fixed)


def load_shells(shells: Sequence[int] = (1, 14, 28), dimension: int = 3) -> Tensor:
    """Returns kernel points on shells in the unit ball, the same on every machine.

    If there is no stored table for the arguments, the points are generated with seed 0, once per
    process.

    Args:
        shells: Number of points on each shell, from the centre outwards; the first must be 1.
        dimension: Dimension of the positions D, 2 or 3.

    Returns:
        ``(K, D)`` float32 on the CPU, K the sum of ``shells``; a fresh tensor each time.

    Raises:
        ValueError: As in :func:`generate_shells`.

    Example:
        >>> from kpdeform import kernel_points
        >>> kernel_points.load_shells((1, 14, 28)).shape
        torch.Size([43, 3])
    """
    return torch.from_numpy(_shells_table(tuple(shells), dimension).copy())


@cache
def _shells_table(shells: tuple[int, ...], dimension: int) -> NDArray[np.float32]:
    path = shells_path(shells, dimension)
    if path.exists():
        return np.loadtxt(path, dtype=np.float32, ndmin=2)
    return generate_shells(shells, dimension)


def place(table: Tensor, radius: float, generator: torch.Generator | None = None) -> Tensor:
    """Returns kernel points for one layer: a table, randomly rotated and scaled by ``radius``.

    Args:
        table: ``(K, D)`` in the unit ball, from :func:`load` or :func:`load_shells`.
        radius: Radius of the ball of kernel points, in the unit of the cloud.
        generator: Random generator for the rotation; None means torch's global generator.

    Returns:
        ``(K, D)`` float64 on the CPU.

    Example:
        >>> from kpdeform import kernel_points
        >>> placed = kernel_points.place(kernel_points.load_shells((1, 14)), 0.3)
        >>> round(placed.norm(dim=1)[-1].item(), 4)  # 2/3 of the radius
        0.2
    """
    return radius * table.double() @ random_rotation(table.shape[1], generator)


def random_rotation(dimension: int = 3, generator: torch.Generator | None = None) -> Tensor:
    """Draws a rotation matrix from the uniform distribution of all rotations.

    Args:
        dimension: Dimension D, 2 or 3.
        generator: Random generator on the CPU; None means torch's global generator.

    Returns:
        ``(D, D)`` float64 orthogonal matrix with determinant 1, on the CPU.

    Raises:
        ValueError: ``dimension`` is neither 2 nor 3.

    Source: Shoemake 1992, "Uniform random rotations": a normalised Gaussian 4-vector is a uniform
        quaternion.

    Example:
        >>> from kpdeform.kernel_points import random_rotation
        >>> rotation = random_rotation(3)
        >>> bool((rotation @ rotation.T - torch.eye(3)).abs().max() < 1e-12)
        True
    """
    if dimension not in (2, 3):
        raise ValueError(f"random_rotation: dimension is {dimension}; use 2 or 3")

    def gaussian(size: int) -> list[float]:
        draw = torch.randn(size, dtype=torch.float64, device="cpu", generator=generator)
        return (draw / draw.norm()).tolist()

    if dimension == 2:
        c, s = gaussian(2)
        rows = [[c, -s], [s, c]]
    else:
        w, x, y, z = gaussian(4)
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    return torch.tensor(rows, dtype=torch.float64, device="cpu")
