"""Scenes to draw."""

import numpy as np
import pytest

from kpdeform.viz import KernelScene, kernel_scene


@pytest.fixture
def corner() -> np.ndarray:
    """``(N, 3)``, a floor and a wall that meet at y = 1."""
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2) / 20 - 1
    floor = np.column_stack([grid, np.zeros(len(grid))])
    wall = np.column_stack([grid[:, 0], np.ones(len(grid)), grid[:, 1] + 1])
    return np.vstack([floor, wall])


@pytest.fixture
def scene(corner) -> KernelScene:
    """A kernel on the floor whose outer points moved up."""
    angles = np.arange(6) * np.pi / 3
    ring = 0.4 * np.column_stack([np.cos(angles), np.sin(angles), np.zeros(6)])
    rigid = np.vstack([np.zeros(3), ring])
    deformed = rigid + np.vstack([np.zeros(3), np.tile([0.0, 0.0, 0.2], (6, 1))])
    near = corner[np.linalg.norm(corner, axis=1) < 0.6]
    return kernel_scene(
        corner, [0, 0, 0], rigid, deformed, sigma=0.15, neighbors=near, title="floor", layer="a"
    )
