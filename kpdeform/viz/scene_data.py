"""What a picture of a kernel shows, as plain data; nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kpdeform.viz.camera import Camera
from kpdeform.viz.colors import RGB, ColorScale, weight_scale

Array = NDArray[np.float64]

ITEMS = ("cloud", "neighbors", "rigid", "deformed", "offsets", "reach", "query")


@dataclass(frozen=True)
class SceneData:
    """The content of a :class:`kpdeform.viz.KernelScene`.

    Attributes:
        points: ``(N, 3)`` float64, the part of the cloud around the kernel.
        colors: ``(N, 3)`` float32 in [0, 1].
        query: ``(3,)``.
        rigid: ``(K, 3)`` relative to ``query``.
        deformed: ``(K, 3)`` relative to ``query``.
        weights: ``(K,)``, not negative.
        neighbors: ``(H, 3)``, the points that the kernel reads.
        sigma: Reach of a kernel point.
        camera: Where it is seen from.
        title: One line above the picture, for example the class of the query point.
        caption: One line below it.
        reason: Another line below it: why this query was chosen.
        layer: Name of the layer; scenes of one layer belong together in :func:`kpdeform.viz.show`.
        legend: Names and colours of what the cloud's colours mean.
        scale: What the cloud's colours mean where they are numbers.
        highest_weight: Weight of the darkest colour; by default the largest one of the scene.
    """

    points: Array
    colors: NDArray[np.float32]
    query: Array
    rigid: Array
    deformed: Array
    weights: Array
    neighbors: Array
    sigma: float
    camera: Camera
    title: str = ""
    caption: str = ""
    reason: str = ""
    layer: str = ""
    legend: tuple[tuple[str, RGB], ...] = ()
    scale: ColorScale | None = None
    highest_weight: float | None = None

    @property
    def kernel_radius(self) -> float:
        """Distance from the query to the farthest rigid kernel point."""
        return float(np.linalg.norm(self.rigid, axis=1).max())

    @property
    def weight_scale(self) -> ColorScale:
        """Colours of the deformed kernel points."""
        own = self.weights.max(initial=0)
        return weight_scale(float(own if self.highest_weight is None else self.highest_weight))


def influence_sums(neighbors: Array, kernel_points: Array, sigma: float) -> Array:
    """How much each kernel point reaches: the sum of max(0, 1 - d / sigma) over neighbours.

    Args:
        neighbors: ``(H, 3)`` relative to the query.
        kernel_points: ``(K, 3)`` relative to the query.
        sigma: Reach of a kernel point.

    Returns:
        ``(K,)``.

    Source: Thomas et al. 2019, arXiv:1904.08889, Eq. 3.

    Example:
        >>> influence_sums(np.zeros((1, 3)), np.array([[0.0, 0, 0], [0.5, 0, 0], [2, 0, 0]]), 1.0)
        array([1. , 0.5, 0. ])
    """
    distance = np.linalg.norm(neighbors[None] - kernel_points[:, None], axis=-1)  # (K, H)
    return np.maximum(0, 1 - distance / sigma).sum(axis=1)


def reached(neighbors: Array, kernel_points: Array, sigma: float) -> NDArray[np.bool_]:
    """Which neighbours lie within ``sigma`` of some kernel point.

    Args:
        neighbors: ``(H, 3)``.
        kernel_points: ``(K, 3)`` in the same frame.
        sigma: Reach of a kernel point.

    Returns:
        ``(H,)`` bool.
    """
    distance = np.linalg.norm(neighbors[:, None] - kernel_points[None], axis=-1)  # (H, K)
    return (distance < sigma).any(axis=1)


def length_text(length: float) -> str:
    """A length in metres for people.

    Args:
        length: In metres.

    Returns:
        Millimetres, centimetres or metres.

    Example:
        >>> [length_text(x) for x in (0.0042, 0.25, 1.5)]
        ['4.2 mm', '25 cm', '1.50 m']
    """
    if length < 0.01:
        return f"{1000 * length:.1f} mm"
    return f"{100 * length:.0f} cm" if length < 1 else f"{length:.2f} m"


def thinned(count: int, limit: int) -> NDArray[np.int64]:
    """All rows, or ``limit`` of them drawn at random, the same every time."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, limit, replace=False))
